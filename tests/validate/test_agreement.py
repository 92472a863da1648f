"""Consistency of views: contradictions are reported with their most likely cause, without false positives."""

from __future__ import annotations

import functools
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from steps.compute.arrays import Array
from steps.geometry.cameras import VIEW_NAMES, canonical_camera
from steps.raster.rasterize import rasterize
from steps.sample.objects import OBJECTS
from steps.sample.render import build
from steps.validate.consistency import agreement, causes, conventions, exchanged, judgement
from steps.validate.consistency.agreement import DepthView
from steps.validate.consistency.causes import Evidence
from tests.cases import cameras as cases
from tests.cases.kit import Case

SIDE = 96
GREY = exchanged.sample_picture(np.full((SIDE, SIDE, 3), 128, np.uint8), None)
THIN = {  # parts of a pixel or less, as the canonical cameras see them at 96 pixels
    "a sheet": lambda: trimesh.creation.box((1.2, 1.2, 0.01)),
    "a leaf askew": lambda: _turned(trimesh.creation.box((1.2, 0.6, 0.01)), 0.5),
    "wires": lambda: trimesh.util.concatenate(
        [_turned(trimesh.creation.cylinder(0.012, 1.4), a, axis) for a, axis in _WIRES]
    ),
}
_WIRES = ((0.4, (0, 1, 0)), (1.2, (1, 0, 0.3)), (2.1, (0.5, 1, 0)), (0.9, (1, 1, 1)))


def _turned(mesh: trimesh.Trimesh, angle: float, axis: tuple[float, ...] = (0, 1, 0)) -> trimesh.Trimesh:
    return mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, axis))


def seen(vertices: Array, faces: Array) -> list[DepthView]:
    """Depth views of a mesh by the canonical cameras, with partially covered pixels unknown."""
    views = []
    for camera in (canonical_camera(view, SIDE, SIDE) for view in VIEW_NAMES):
        depth, finer = (
            rasterize(vertices, np.asarray(faces, np.int32), camera.resized(n, n)).depth for n in (SIDE, 8 * SIDE)
        )
        coverage = (finer > 0).reshape(SIDE, 8, SIDE, 8).mean(axis=(1, 3))
        views.append(DepthView.of(camera, depth, judgement.unknown(depth, coverage)))
    return views


@functools.cache
def sample(name: str) -> list[DepthView]:
    truth = build(OBJECTS[name], 60)
    return seen(truth.vertices, truth.faces)


# -- how far views agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_renders_of_these_cameras_agree(name: str) -> None:
    result = agreement.compare(sample(name))
    assert result.denied_share < 0.002 and result.distance < 0.004


@pytest.mark.parametrize("name", THIN)
def test_thin_things_that_are_right_are_not_denied(name: str) -> None:
    mesh = THIN[name]()
    views = seen(np.asarray(mesh.vertices, np.float64), mesh.faces)
    assert sum(bool((view.depth > 0).any()) for view in views) >= 2, "something is seen"
    assert agreement.compare(views).denied_share < 0.01


@pytest.mark.parametrize("name", ["mug", "house"])
def test_noise_and_holes_are_no_contradiction(name: str) -> None:
    random = np.random.default_rng(0)
    views = []
    for view in sample(name):
        holes = (random.random(view.depth.shape) < 0.1) & (view.depth > 0)
        noisy = np.where(view.depth > 0, view.depth + random.normal(size=view.depth.shape) * 0.015, 0)
        views.append(DepthView.of(view.camera, np.where(holes, 0, noisy), holes))
    assert agreement.compare(views).denied_share < judgement.EXCHANGE_SHARE


@pytest.mark.parametrize("name", OBJECTS)
def test_depth_of_another_encoding_is_denied(name: str) -> None:
    inverted = [DepthView.of(view.camera, np.where(view.depth > 0, 5 - view.depth, 0)) for view in sample(name)]
    assert agreement.compare(inverted).denied_share > judgement.FAILURE_SHARE


@pytest.mark.parametrize("name", ["mug", "duck"])
def test_exchanged_sides_are_denied_where_the_object_is_not_symmetric(name: str) -> None:
    front, back, left, right, *rest = sample(name)
    swapped = [front, back, left.with_camera(right.camera), right.with_camera(left.camera), *rest]
    assert agreement.compare(swapped).denied_share > judgement.FAILURE_SHARE


def test_views_that_see_each_other_s_object_nowhere_deny_it() -> None:
    views = [view.with_camera(view.camera.resized(SIDE, SIDE)) for view in sample("donut")]
    far = [
        v.with_camera(c)
        for v, c in zip(views, conventions._scale_positions([v.camera for v in views], 1000.0), strict=True)
    ]
    assert agreement.compare(far).denied_share == 1.0


# -- what a job says of it ----------------------------------------------------------------------------------------------


def validated(folder: Path, out: Path) -> tuple[int, str, Path]:
    """The step's exit code, and all that it says: notes of the scene, or the record of its failure."""
    words = ["--input", folder, "--out", out / "scene", "--outputs", out / "outputs"]
    done = subprocess.run(
        [sys.executable, "-m", "steps.validate", *map(str, words)], capture_output=True, check=False, timeout=120
    )
    if done.returncode:
        record = json.loads((out / "outputs" / "failure.json").read_text())
        return done.returncode, f"{record['message']} {record['suggestion']}", out / "outputs"
    return 0, " ".join(json.loads((out / "scene" / "scene.json").read_text())["notes"]), out / "outputs"


@pytest.mark.parametrize(("name", "background"), [("duck", "transparent"), ("house", "white")])
def test_a_good_set_has_no_warning(sample_set: Callable[..., Path], tmp_path: Path, name: str, background: str) -> None:
    code, message, outputs = validated(sample_set(name, "--depth-bits", 8, "--background", background), tmp_path)
    assert code == 0 and "WARNING" not in message
    assert not (outputs / judgement.PICTURE).exists() and not (outputs / "warnings").read_text().strip()


PICKED = [
    "views left and right exchanged",
    "views one twice",
    "views front and left exchanged on a bowl",
    "views and depth exchanged on a house",
    "cameras with depth in metres and positions in kilometres",
    "cameras transposed",
]


@pytest.mark.parametrize("case", [c for c in cases.CASES if c.name in PICKED], ids=lambda case: case.name)
def test_the_likeliest_cause_is_named(case: Case, sample_set: Callable[..., Path], tmp_path: Path) -> None:
    """The others of these cases are for `python -m tests.benchmarks inputs`."""
    code, message, outputs = validated(case.write(sample_set(case.base[1]), tmp_path / "set"), tmp_path)
    assert code == 10 if case.code else code in (0, 10)
    assert all(words in message for words in case.says), message
    if "transposed" not in case.name:  # what is refused by its numbers alone has no picture
        assert (outputs / judgement.PICTURE).is_file()
    if code == 0:
        assert "WARNING: " in message and (outputs / "warnings").read_text().strip() in message


def test_a_cameras_json_is_never_corrected_silently(set_copy: Path, tmp_path: Path) -> None:
    code, message, outputs = validated(cases.exchanged_cameras("left", "right")(set_copy), tmp_path)
    assert code == 10 and "cameras of left and right are exchanged" in message
    details = json.loads((outputs / "failure.json").read_text())["details"]
    assert (
        details["agreement"]["denied"] > judgement.FAILURE_SHARE and details["agreement"]["denied_of_each"]["left"] > 0
    )


def noisy(view: int, levels: float, light: float = 0.0) -> exchanged.PictureSample:
    """A picture of a round bowl that is alike from all sides, with its own noise."""
    rng = np.random.default_rng(view)
    shade = np.hypot(*(np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2)) < SIDE / 3
    colour = np.where(shade[..., None], (150, 90 + 255 * light, 60), (255, 255, 255)) + rng.normal(
        0, levels, (SIDE, SIDE, 3)
    )
    return exchanged.sample_picture(colour.clip(0, 255).astype(np.uint8), None)


@pytest.mark.parametrize("levels", [1.0, 2.0])
def test_two_similar_sides_are_no_duplicate(levels: float) -> None:
    """Each has its own light and noise."""
    pictures = [noisy(view, levels, 0.02 * view) for view in range(6)]
    evidence = Evidence(sample("bowl"), pictures)
    cause = causes.picture_cause(evidence, causes.score_assignments(evidence))
    assert cause is None or "once more" not in cause.sentence


def as_jpeg(pixels: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def over_white(folder: Path) -> list[Array]:
    """[128, 128, 3] uint8: a sample's six pictures."""
    pictures = []
    for name in VIEW_NAMES:
        pixels = np.asarray(Image.open(folder / "multi_views" / f"{name}.png")).astype(np.float64)
        share = pixels[..., 3:] / 255
        pictures.append(np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8))
    return pictures


@pytest.mark.parametrize("name", ["duck", "donut", "bowl"])
def test_a_copy_is_one_after_jpeg_and_two_sides_are_none(name: str, sample_set: Callable[..., Path]) -> None:
    """Sides of a bowl differ in fewer pixels than JPEG changes, but by whole patches."""
    pictures = over_white(sample_set(name))
    samples = [exchanged.sample_picture(picture, None) for picture in pictures]
    for picture, sampled in zip(pictures, samples, strict=True):
        for quality in (85, 90, 95):
            assert exchanged.is_copy(sampled, exchanged.sample_picture(as_jpeg(picture, quality), None))
    jpegs = [exchanged.sample_picture(as_jpeg(picture, 85), None) for picture in pictures]
    for a, b in itertools.combinations(range(6), 2):
        assert not exchanged.is_copy(samples[a], samples[b]) and not exchanged.is_copy(jpegs[a], jpegs[b])


@pytest.mark.parametrize("quality", [85, 95])
def test_a_copy_that_was_a_jpeg_is_named(quality: int, sample_set: Callable[..., Path]) -> None:
    pictures = over_white(sample_set("duck"))
    pictures[2] = as_jpeg(pictures[3], quality)
    evidence = Evidence(sample("duck"), [exchanged.sample_picture(picture, None) for picture in pictures])
    cause = causes.picture_cause(evidence, causes.score_assignments(evidence))
    assert cause is not None and "The picture of left is that of right once more" in cause.sentence


def test_one_picture_of_two_sides_that_are_alike_is_no_error() -> None:
    """It fits both: the four sides of a can with rings around it are the same, but for noise."""
    can = trimesh.creation.cylinder(0.5, 1.3, sections=64).apply_transform(
        trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0))
    )
    views = seen(np.asarray(can.vertices, np.float64), can.faces)
    pictures = [ringed(view, np.random.default_rng(k)) for k, view in enumerate(views)]
    assert exchanged.is_copy(pictures[0], pictures[1]) and exchanged.is_copy(pictures[0], pictures[2])
    evidence = Evidence(views, pictures)
    assert causes.picture_cause(evidence, causes.score_assignments(evidence)) is None


def ringed(view: DepthView, rng: np.random.Generator) -> exchanged.PictureSample:
    """A picture over white, with noise, of a thing whose colours change with height only."""
    sight = agreement.sample_points(view, 10**9, normals=False)
    colour = np.full((SIDE, SIDE, 3), 250.0)
    bands = np.sin(9 * np.abs(sight.points[:, 1:2]) + (0.0, 1.0, 2.0))
    colour[sight.pixels[:, 1], sight.pixels[:, 0]] = 150 + 60 * bands
    colour += rng.normal(0, 1, colour.shape)
    return exchanged.sample_picture(colour.clip(0, 255).astype(np.uint8), None)


def white(view: DepthView, brightness: float, print_: float) -> exchanged.PictureSample:
    """A picture over white of a white thing with a coloured print: no outline is told. print_: of its colours, 0 for none."""
    sight = agreement.sample_points(view, 10**9, normals=False)
    colour = np.full((SIDE, SIDE, 3), 255.0)
    waves = np.sin(5 * sight.points + (0.0, 1.0, 2.0))
    colour[sight.pixels[:, 1], sight.pixels[:, 0]] = 255 * brightness * (0.85 - 0.3 * print_ + 0.3 * print_ * waves)
    return exchanged.sample_picture(colour.clip(0, 255).astype(np.uint8), None)


LIGHT = (1.0, 0.9, 0.98, 0.78, 0.9, 0.72)  # of front, back, left, right, top, bottom


@pytest.mark.parametrize("brightness", [LIGHT, (0.75, 1.0, 0.75, 1.0, 0.8, 1.0)])
def test_white_things_over_white_under_a_light_of_each_view_s_own_are_not_exchanged(
    brightness: tuple[float, ...],
) -> None:
    pictures = [white(view, light, 0.0) for view, light in zip(sample("house"), brightness, strict=True)]
    evidence = Evidence(sample("house"), pictures)
    assert causes.picture_cause(evidence, causes.score_assignments(evidence), suspected=False) is None


def test_prints_on_white_objects_reveal_an_exchange() -> None:
    pictures = [white(view, light, 1.0) for view, light in zip(sample("house"), LIGHT, strict=True)]
    evidence = Evidence(sample("house"), pictures)
    assert causes.picture_cause(evidence, causes.score_assignments(evidence), suspected=False) is None
    exchanged_ = Evidence(sample("house"), [pictures[k] for k in (0, 1, 3, 2, 4, 5)])
    cause = causes.picture_cause(exchanged_, causes.score_assignments(exchanged_), suspected=False)
    assert cause is not None and "left and right are exchanged" in cause.sentence


EXPOSURES = (1.2, 0.85, 1.0, 0.8, 1.15, 0.9)


def grey(
    view: DepthView, exposure: float, print_: float, rng: np.random.Generator, at_camera: float = 0.0
) -> exchanged.PictureSample:
    """A picture over white, with noise, of a grey thing with a grey print: neither hue nor outline is told. at_camera: the share
    of its light that comes from the camera."""
    sight = agreement.sample_points(view, 10**9)
    waves = np.sin(5 * sight.points + (0.0, 1.0, 2.0)).mean(axis=1)
    cosine = 1 - at_camera * (1 - agreement.facing(sight, sight).clip(0, 1))
    colour = np.full((SIDE, SIDE), 255.0)
    colour[sight.pixels[:, 1], sight.pixels[:, 0]] = (
        255 * exposure * cosine * (0.7 - 0.3 * print_ + 0.3 * print_ * waves)
    )
    colour += rng.normal(0, 2, colour.shape)
    return exchanged.sample_picture(colour.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2), None)


def grey_set(name: str, exposures: tuple[float, ...], print_: float, at_camera: float = 0.0) -> Evidence:
    rng = np.random.default_rng(0)
    pictures = [grey(view, e, print_, rng, at_camera) for view, e in zip(sample(name), exposures, strict=True)]
    return Evidence(sample(name), pictures)


def said_of(evidence: Evidence, order: tuple[int, ...], suspected: bool = False) -> str:
    """The sentence of `picture_cause` where picture order[k] is given for view k; "" for none."""
    evidence = replace(evidence, pictures=[evidence.pictures[k] for k in order])
    cause = causes.picture_cause(evidence, causes.score_assignments(evidence), suspected)
    return cause.sentence if cause else ""


@pytest.mark.parametrize("exposures", [(1.0,) * 6, EXPOSURES], ids=["one exposure", "exposures"])
@pytest.mark.parametrize("name", ["house", "mug", "duck"])
def test_grey_pictures_tell_by_contrast_that_they_are_exchanged_or_copied(
    name: str, exposures: tuple[float, ...]
) -> None:
    evidence = grey_set(name, exposures, 1.0)
    assert said_of(evidence, causes.SIX) == ""
    assert "left and right are exchanged" in said_of(evidence, (0, 1, 3, 2, 4, 5))
    assert "The picture of right is that of left once more" in said_of(evidence, (0, 1, 2, 2, 4, 5))


@pytest.mark.parametrize("at_camera", [0.0, 0.6])
@pytest.mark.parametrize("print_", [0.0, 0.3])
@pytest.mark.parametrize("name", ["house", "mug", "duck"])
def test_grey_things_under_any_light_are_not_exchanged(name: str, print_: float, at_camera: float) -> None:
    """A lamp at the camera shades each surface differently in each view."""
    evidence = grey_set(name, EXPOSURES, print_, at_camera)
    assert said_of(evidence, causes.SIX) == "" and said_of(evidence, causes.SIX, suspected=True) == ""


def test_a_picture_that_no_other_view_overlaps_is_not_held_to_fit_better_than_those_that_are() -> None:
    """The front of a house shares no surface with its sides: that a copy there fits nothing is unknown."""
    evidence = grey_set("house", (1.0,) * 6, 1.0)
    assert "right is that of front" not in said_of(evidence, (3, 1, 2, 3, 4, 5))
    assert "The picture of right is that of front once more" in said_of(evidence, (0, 1, 2, 0, 4, 5))


CONVENTIONS: dict[str, Callable[[Array], Array]] = {
    "world-to-camera": np.linalg.inv,
    "OpenCV": lambda pose: pose @ cases.OPENCV,
    "PyTorch3D": lambda pose: pose @ np.diag([-1.0, 1, -1, 1]),
    "degrees that were taken for radians": cases.turned_by_degrees(False),
}


@pytest.mark.parametrize("says", CONVENTIONS)
def test_the_convention_that_would_fit_is_named(says: str) -> None:
    views = [
        view.with_camera(replace(view.camera, camera_to_world=CONVENTIONS[says](np.array(view.camera.camera_to_world))))
        for view in sample("duck")
    ]
    cause = causes.depth_cause(Evidence(views, [GREY] * 6), agreement.compare(views).denied_share)
    assert cause and says in cause.sentence and cause.left < 0.01


# -- parts --------------------------------------------------------------------------------------------------------------


def test_angles_in_degrees_are_known_again_when_they_were_taken_for_radians() -> None:
    assert conventions._degree(np.pi / 3) is None
    for degrees in (90.0, -35.0, 12.5, 180.0):
        turned = (degrees + np.pi) % (2 * np.pi) - np.pi
        assert conventions._degree(turned) == pytest.approx(degrees)


def test_cameras_that_look_at_one_place_are_told_from_those_that_do_not() -> None:
    cameras = [canonical_camera(view, SIDE, SIDE) for view in VIEW_NAMES]
    assert conventions.look_inward(cameras)
    for says in ("world-to-camera", "OpenCV"):
        wrong = [replace(c, camera_to_world=CONVENTIONS[says](np.array(c.camera_to_world))) for c in cameras]
        assert not conventions.look_inward(wrong)
        assert says in next(w for w, read in conventions.hypotheses(wrong) if conventions.look_inward(read))


def test_the_other_way_round_a_unit_has_its_own_words() -> None:
    assert (
        conventions._inverse_words("in inches where depth is in millimetres")
        == "in millimetres where depth is in inches"
    )
    words = conventions._inverse_words(conventions.UNITS[1000.0])
    assert words == "in metres where depth is in kilometres, or millimetres where depth is in metres"


def test_an_object_of_even_colour_never_looks_exchanged() -> None:
    assert judgement.judge(Evidence(sample("donut"), [GREY] * 6)).cause is None


@pytest.mark.parametrize(("shade", "has_outline"), [(60, True), (235, False)])
def test_a_white_object_over_white_tells_no_outline_by_its_colour(shade: int, has_outline: bool) -> None:
    """Its shadow is as clear as its sides."""
    picture = np.full((SIDE, SIDE, 3), 250, np.uint8)
    picture[30:60, 30:60] = shade
    picture[58:62, 30:60] = 150
    assert (exchanged.object_by_colour(picture, np.full(3, 250 / 255)) is not None) == has_outline
