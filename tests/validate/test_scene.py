"""The scene that validate writes for a good set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES, unproject
from steps.io import cameras_json, scene
from steps.runtime import devices
from steps.runtime.errors import GpuUnavailable
from steps.validate.foreground import masks
from tests.conftest import sixview


def validated(source: Path, work: Path, *flags: object) -> scene.Scene:
    words = ["--input", source, "--out", work / "scene", "--outputs", work / "outputs", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "steps.validate", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return scene.load(work / "scene")


def test_without_cameras_json_the_canonical_rig_and_encoding_hold(set_copy: Path, tmp_path: Path) -> None:
    given = validated(set_copy, tmp_path / "a")
    (set_copy / "cameras.json").unlink()
    assumed = validated(set_copy, tmp_path / "b")
    assert (given.metadata["rig"], assumed.metadata["rig"]) == ("cameras.json", "canonical")
    for a, b in zip(given.views, assumed.views, strict=True):
        assert np.allclose(a.camera.projection, b.camera.projection)
        assert np.array_equal(a.depth(), b.depth()) and np.array_equal(a.coverage(), b.coverage())


def test_the_six_depth_maps_agree_on_one_object_in_the_world(duck: Path, tmp_path: Path) -> None:
    loaded = validated(duck, tmp_path)
    pointclouds = {v.camera.name: loaded.frame.points_out(unproject(v.depth(), v.depth_camera)) for v in loaded.views}
    assert pointclouds["front"][:, 2].mean() > 0.1 > -0.1 > pointclouds["back"][:, 2].mean()
    assert pointclouds["top"][:, 1].mean() > 0.1 > -0.1 > pointclouds["bottom"][:, 1].mean()
    assert pointclouds["right"][:, 0].mean() > 0.1 > -0.1 > pointclouds["left"][:, 0].mean()
    assert max(np.linalg.norm(cloud, axis=1).max() for cloud in pointclouds.values()) == pytest.approx(0.95, abs=0.02)


def test_an_opaque_white_background_gives_nearly_the_same_masks(duck: Path, sample_set: Any, tmp_path: Path) -> None:
    clear = validated(duck, tmp_path / "a")
    opaque = validated(sample_set("duck", "--background", "white"), tmp_path / "b")
    assert (clear.metadata["mask"], opaque.metadata["mask"]) == ("alpha", "depth and colour")
    assert opaque.background == pytest.approx([1, 1, 1])
    for a, b in zip(clear.views, opaque.views, strict=True):
        assert np.abs(a.coverage() - b.coverage()).mean() < 0.003
        assert np.abs(a.picture() - b.picture()).max() <= 1.5 / 255


def test_rim_pixels_are_split_between_object_and_background_by_colour() -> None:
    truth = np.clip(12.3 - np.arange(32), 0, 1)[None].repeat(32, axis=0)
    red, blue = np.array([0.8, 0.1, 0.1]), np.array([0.2, 0.2, 0.9])
    colour = truth[..., None] * red + (1 - truth[..., None]) * blue
    assert masks.refine_rim(np.round(truth), colour, blue) == pytest.approx(truth, abs=1e-5)


def test_the_background_colour_is_found_and_a_non_uniform_one_is_noted() -> None:
    inside = np.zeros((64, 64))
    inside[16:48, 16:48] = 1
    grey = np.full((64, 64, 3), 179, np.uint8)
    assert masks.background_colour([grey], [inside])[1]
    colour, even = masks.background_colour(
        [np.arange(0, 256, 4, np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)], [inside]
    )
    assert not even and colour[0] == pytest.approx(0.5, abs=0.05)


def test_where_a_gpu_is_required_and_none_is_found_the_job_ends_at_once(duck: Path, tmp_path: Path) -> None:
    if devices.probe()["gpus"]:
        pytest.skip("this machine has a GPU")
    with pytest.raises(GpuUnavailable, match="A GPU was asked for"):
        devices.preflight("cuda")
    done = sixview("run", duck, "--out", tmp_path / "out", "--device", "cuda", "--json")
    summary = json.loads(done.stdout)
    assert done.returncode == 23 and summary["error"]["code"] == "GPU_UNAVAILABLE"
    assert summary["error"]["details"]["preflight"]["gpus"] == []


def test_every_view_s_name_and_size_is_kept(duck: Path, tmp_path: Path) -> None:
    loaded = validated(duck, tmp_path)
    assert [v.camera.name for v in loaded.views] == list(VIEW_NAMES)
    assert {(v.camera.width, v.camera.height, *v.depth().shape) for v in loaded.views} == {(128, 128, 128, 128)}


def test_cameras_that_were_given_are_saved_as_they_hold(duck: Path, tmp_path: Path) -> None:
    done = sixview("rig", duck, "--save", tmp_path / "saved.json")
    assert done.returncode == 0, done.stderr
    saved = cameras_json.parse((tmp_path / "saved.json").read_bytes())
    given = cameras_json.parse((duck / "cameras.json").read_bytes())
    assert isinstance(saved, list) and isinstance(given, list)
    assert cameras_json.document(saved) == cameras_json.document(given)
