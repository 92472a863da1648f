"""Depth encoding of sets with known cameras: any encoding gives the same scene, and is described in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steps.calibration import depth_search
from steps.calibration.depth_views import silhouette_shortfall
from steps.compute.arrays import Array
from steps.geometry.cameras import ray_to_z
from steps.io import cameras_json, input_checks
from steps.io.cameras_json import View
from steps.io.depth_encoding import metric_depth
from steps.io.input_checks import Pictures
from steps.validate import run
from steps.validate.depth import encoding
from steps.validate.rig import nominal
from tests.cases import depths, holes
from tests.cases.kit import Case

CASES = {case.name: case for case in depths.CASES}


@pytest.fixture(scope="module")
def mug(sample_set: Callable[..., Path]) -> Path:
    return sample_set("mug")


@pytest.fixture(scope="module")
def mug256(sample_set: Callable[..., Path]) -> Path:
    return sample_set("mug", "--size", 256)


def opened(case: Case, sample: Path, out: Path) -> tuple[Pictures, list[View]]:
    pictures, given = input_checks.check_set(case.write(sample, out))
    assert isinstance(given, list)
    return pictures, given


def decoded(pictures: Pictures, views: list[View]) -> list[Array]:
    depths_of_views = []
    for picture, view in zip(pictures.depths, views, strict=True):
        shape = picture.pixels.shape[:2]
        assert view.depth is not None
        depths_of_views.append(
            metric_depth(picture, view.depth, ray_to_z(view.camera.resized(*shape[::-1]), shape)).depth
        )
    return depths_of_views


def worst(depths_of_views: list[Array], sample: Path) -> float:
    """99th percentile of depth error against the clean set, scene units."""
    pictures, views = input_checks.check_set(sample)
    assert isinstance(views, list)
    clean = decoded(pictures, views)
    errors = [np.abs(f - c)[c > 0] for f, c in zip(depths_of_views, clean, strict=True)]
    return float(np.percentile(np.concatenate(errors), 99))


@pytest.mark.parametrize("name", ["cams_without_depth_mug", "depth_log_nodepth"])
def test_an_encoding_that_is_not_said_is_found(name: str, mug: Path, tmp_path: Path) -> None:
    pictures, given = opened(CASES[name], mug, tmp_path / "set")
    views, note = encoding.find_encoding(pictures, given)
    assert worst(decoded(pictures, views), mug) < 0.01  # half a pixel
    assert "The depth's encoding was found from the pictures" in note


def test_depth_stored_through_srgb_is_recognized_inverted_and_can_be_declared(mug: Path, tmp_path: Path) -> None:
    pictures, given = opened(CASES["depth_srgb_keep"], mug, tmp_path / "set")
    views, note = encoding.check_encoding(pictures, given)
    assert views[0].depth is not None and views[0].depth.curve == "srgb"
    assert worst(decoded(pictures, views), mug) < 0.01
    assert all(word in note for word in ("WARNING", "deny the depth encoding", "as if saved through sRGB", "Raw"))
    again = cameras_json.parse(json.dumps(cameras_json.document(views)).encode())
    assert isinstance(again, list)
    assert encoding.check_encoding(pictures, again) == (again, "")


def test_stairs_of_eight_bits_are_not_followed_by_a_curve_without_a_name(mug256: Path, tmp_path: Path) -> None:
    pictures, given = opened(CASES["depth_gamma18_8bit_keep"], mug256, tmp_path / "set")
    views, note = encoding.check_encoding(pictures, given)
    assert "as if saved with a gamma of" in note
    assert worst(decoded(pictures, views), mug256) < 0.025  # a level is 0.008 to 0.014


def test_depth_normalized_per_view_is_reported(mug: Path, tmp_path: Path) -> None:
    pictures, given = opened(CASES["depth_normalised_keep"], mug, tmp_path / "set")
    views, note = encoding.check_encoding(pictures, given)
    assert worst(decoded(pictures, views), mug) < 0.04
    assert "range of its own in every view" in note and "cv2.normalize" in note


def test_an_encoding_that_fits_stands_and_so_does_one_in_another_unit(mug: Path) -> None:
    """Which unit is right nobody knows: that is for the agreement of the views to tell."""
    pictures, given = input_checks.check_set(mug)
    assert isinstance(given, list)
    assert encoding.check_encoding(pictures, given) == (given, "")
    kilometres = [replace(v, depth=replace(v.depth, near=1500.0, far=3500.0)) for v in given if v.depth]
    assert encoding.check_encoding(pictures, kilometres) == (kilometres, "")


SPOILT: dict[str, Callable[[Path], Path]] = {
    "holes": holes.spoilt(holes.speckles_and_blocks),
    "invalid zero": holes.with_depth(holes.spoilt(holes.some(0, 65535), 5), background="max"),
    "jpeg 90": holes.spoilt(holes.as_jpeg(90)),
    "salt and pepper": holes.spoilt(holes.salt_and_pepper(0.05)),
    "speckles of any value": holes.spoilt(holes.speckles(0.05)),
    "antialiased": holes.halved,
    "bleeding": holes.spoilt(holes.bleeding),
    "5 mm": holes.with_depth(holes.spoilt(holes.millimetres(5)), **holes.MM),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_right_encoding_stands_however_the_depth_is_spoilt(how: str, mug256: Path, tmp_path: Path) -> None:
    pictures, given = opened(Case("", SPOILT[how]), mug256, tmp_path / "set")
    pictures = run.clean_set(pictures, given)
    assert encoding.check_encoding(pictures, given) == (given, "")


@pytest.mark.parametrize("how", ["holes", "salt and pepper", "antialiased", "bleeding", "5 mm"])
def test_a_given_encoding_that_fits_skips_the_search(
    how: str, mug256: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth_search, "find_model", lambda *_: pytest.fail("a search takes many seconds"))
    pictures, given = opened(Case("", SPOILT[how]), mug256, tmp_path / "set")
    encoding.check_encoding(run.clean_set(pictures, given), given)


def test_outlines_without_a_place_in_common_deny_no_encoding(mug: Path) -> None:
    """Those of wires, too, between the points that are looked at."""
    pictures, given = input_checks.check_set(mug)
    assert isinstance(given, list)
    away = [replace(given[0], camera=replace(given[0].camera, cx=-4000.0)), *given[1:]]
    assert encoding.check_encoding(pictures, away) == (away, "")


def test_a_wrong_encoding_is_detected_beneath_speckles(mug256: Path, tmp_path: Path) -> None:
    spoilt = Case("", lambda folder: SPOILT["holes"](CASES["depth_srgb_keep"].make(folder)))
    pictures, given = opened(spoilt, mug256, tmp_path / "set")
    views, note = encoding.check_encoding(pictures, given)
    assert views[0].depth is not None and views[0].depth.curve == "srgb" and "as if saved through sRGB" in note


def test_metric_depth_in_another_unit_is_not_taken_for_another_encoding(mug: Path, tmp_path: Path) -> None:
    pictures, given = opened(CASES["depth_metric_wrong_scale"], mug, tmp_path / "set")
    assert encoding.check_encoding(pictures, given) == (given, "")


@pytest.mark.parametrize("sigma", [5, 10])
def test_an_encoding_that_is_right_stands_whatever_the_noise(sigma: float, mug: Path, tmp_path: Path) -> None:
    make = holes.with_depth(holes.spoilt(holes.millimetres(sigma), 2), **holes.MM)
    pictures, given = opened(Case("", make), mug, tmp_path / "set")
    assert encoding.check_encoding(pictures, given) == (given, "")


@pytest.mark.parametrize("name", ["depth_holes rim", "depth_flaws bleed", "depth_wall"])
def test_surfaces_that_meet_prove_an_encoding_whatever_outlines_say(name: str, mug: Path, tmp_path: Path) -> None:
    """No other is looked for, which would take seconds."""
    pictures, given = opened(next(c for c in holes.CASES if c.name == name), mug, tmp_path / "set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth_search, "find_model", None)
        assert encoding.check_encoding(pictures, given) == (given, "")


def test_wrong_cameras_are_not_explained_away_by_a_curve(sample_set: Callable[..., Path]) -> None:
    pictures, given = input_checks.check_set(sample_set("duck"))
    assert isinstance(given, list)
    front, back, left, right, *rest = given
    left, right = replace(left, camera=right.camera), replace(right, camera=left.camera)
    swapped = [front, back, left, right, *rest]
    assert encoding.check_encoding(pictures, swapped) == (swapped, "")


def test_canonical_cameras_need_not_be_given_for_it(mug: Path, tmp_path: Path) -> None:
    pictures, given = input_checks.check_set(CASES["depth_srgb_none"].write(mug, tmp_path / "set"))
    assert given is None
    nominal_result = nominal.nominal_with_encoding(pictures, 0)
    assert nominal_result is not None
    views, note = nominal_result
    assert worst(decoded(pictures, views), mug) < 0.01
    assert "The cameras are the canonical ones" in note and "sRGB" in note


@pytest.mark.parametrize("name", ["mug", "duck"])
def test_outlines_tell_other_cameras_apart_at_once(name: str, sample_set: Callable[..., Path]) -> None:
    pictures, given = input_checks.check_set(sample_set(name))
    assert isinstance(given, list)
    known = [p.pixels[..., 0] > 0 for p in pictures.depths]
    cameras = [v.camera for v in given]
    assert silhouette_shortfall(cameras, known) < nominal.MAX_SHORTFALL
    wide = [replace(c, fx=c.fx * f, fy=c.fy * f) for c, f in zip(cameras, (1, 1.2, 0.9, 1, 1.15, 0.85), strict=True)]
    assert silhouette_shortfall(wide, known) > nominal.MAX_SHORTFALL
