"""The local frame: steps are invariant to the user's unit and origin, and results are in the user's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES, Camera, canonical_camera, unproject
from steps.geometry.frame import Frame, frame_around
from steps.io import scene
from steps.raster.rasterize import rasterize
from steps.runtime.contract import Validate
from steps.runtime.errors import ValidationFailed
from steps.runtime.reporter import Reporter
from steps.validate.run import run
from tests.cases import units
from tests.cases.kit import Case

BALL = 0.4  # radius


def validated(source: Path, work: Path) -> scene.Scene:
    """The scene of a set with cameras, without the process around the step."""
    out, outputs = work / "scene", work / "outputs"
    for folder in (out, outputs):
        folder.mkdir(parents=True)
    run(Validate(out=out, outputs=outputs, input=source), out, Reporter(outputs, "validation"))
    return scene.load(out)


@pytest.fixture(scope="module")
def clean(duck: Path, tmp_path_factory: pytest.TempPathFactory) -> scene.Scene:
    return validated(duck, tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize(
    "name", ["units x 1e-06", "units x 0.02", "units x 1e+06", "map coordinates", "Earth-centred coordinates"]
)
def test_the_scene_of_a_set_in_another_unit_or_place_is_the_same_to_the_last_bit(
    name: str, clean: scene.Scene, duck: Path, tmp_path: Path
) -> None:
    case = next(case for case in units.CASES if case.name == name)
    loaded = validated(case.write(duck, tmp_path / "set"), tmp_path)
    assert loaded.metadata["views"] == clean.metadata["views"]
    for a, b in zip(loaded.views, clean.views, strict=True):
        assert np.array_equal(a.depth(), b.depth()) and np.array_equal(a.step(), b.step())
    notes = " ".join(loaded.metadata["notes"])
    assert all(word in notes for word in case.says) and bool(notes) == bool(case.says)


def test_an_encoding_is_found_as_well_in_any_unit_and_place(duck: Path, tmp_path: Path) -> None:
    plain, far_set = (
        validated(Case("", units.without_encoding(make)).write(duck, tmp_path / name / "set"), tmp_path / name)
        for name, make in (("plain", units.in_unit()), ("moved", units.in_unit(1e-3, units.UTM)))
    )
    for a, b in zip(plain.views, far_set.views, strict=True):
        assert np.abs(a.depth() - b.depth()).max() < 0.01


@pytest.mark.parametrize(("factor", "offset"), [(0.02, (0.0, 0.0, 0.0)), (1000.0, units.UTM_Y_UP)])
def test_the_scene_s_points_are_where_the_user_has_them(
    factor: float, offset: tuple[float, float, float], clean: scene.Scene, duck: Path, tmp_path: Path
) -> None:
    far_set = Case("", units.in_unit(factor, offset)).write(duck, tmp_path / "set")
    loaded = validated(far_set, tmp_path)
    expected, points = (
        np.concatenate([each.frame.points_out(unproject(v.depth(), v.depth_camera)) for v in each.views])
        for each in (clean, loaded)
    )
    assert np.abs(points - (expected * factor + offset)).max() < 1e-5 * factor


def ball(factor: float, centre: np.ndarray) -> Frame:
    """The frame of a ball that the canonical rig, scaled and moved, sees."""
    cameras, depths = [], []
    for name in VIEW_NAMES:
        pose = np.array(canonical_camera(name, 64, 64).camera_to_world)
        pose[:3, 3] = pose[:3, 3] * factor + centre
        camera = replace(canonical_camera(name, 64, 64), camera_to_world=pose)
        x, y = np.meshgrid((np.arange(64) + 0.5 - camera.cx) / camera.fx, (np.arange(64) + 0.5 - camera.cy) / camera.fy)
        a, b = 1 + x**2 + y**2, 2.5  # |z (x, y, 1) - (0, 0, b)| = BALL
        square = b**2 - a * (b**2 - BALL**2)
        cameras.append(camera)
        depths.append(np.where(square > 0, (b - np.sqrt(np.maximum(square, 0))) / a, 0.0) * factor)
    return frame_around(cameras, depths)


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1.0, 1e6])
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (3.0, -2.0, 0.5), (-4e6, 3e5, 1e2)])
def test_the_frame_lies_in_the_middle_of_a_ball_and_has_its_size(
    factor: float, centre: tuple[float, float, float]
) -> None:
    loaded = ball(factor, np.array(centre) * factor)
    assert np.abs(loaded.points_in(np.array(centre) * factor)).max() < 0.02
    assert loaded.scale * 2.25 == pytest.approx(
        2 * 2**0.5 * BALL * factor, rel=0.15
    )  # the ends of a disc have few points
    assert loaded.is_far == (abs(centre[0]) > 100)


def test_very_distant_cameras_are_moved_closer_with_a_note(duck: Path, tmp_path: Path) -> None:
    """As orthographic cameras are approximated: in 32 bits their depth would have steps of a tenth of the object."""
    source = Case("", units.from_afar(1e6)).write(duck, tmp_path / "set")  # the mug, in the duck's place
    each = validated(source, tmp_path)
    assert any("very far away" in note for note in each.metadata["notes"])
    truth = units.truth_of("mug")
    for view, given in zip(each.views, units.cameras(source)["views"], strict=True):
        points = each.frame.points_out(unproject(view.depth(), view.depth_camera))
        exact = units.exact_depth(
            truth, Camera(view.camera.name, np.array(given["camera_to_world"]), **given["intrinsics"])
        )
        axis = np.array(given["camera_to_world"])[:3, :3]
        near = (points @ axis)[:, 2]  # towards the camera
        assert near == pytest.approx(2.5e6 - exact[exact > 0], abs=5e-4)
        across = np.ptp(points @ axis[:, :2], axis=0)
        assert across == pytest.approx(np.ptp(truth.vertices @ axis[:, :2], axis=0), rel=0.03)


def test_single_depth_outliers_do_not_move_the_frame() -> None:
    camera, depth = canonical_camera("front", 64, 64), np.zeros((64, 64))
    depth[20:40, 20:40] = 2.4
    plain = frame_around([camera] * 6, [depth] * 6)
    depth[20, 20], depth[0, 63] = 1e9, np.inf
    assert frame_around([camera] * 6, [depth] * 6).scale == pytest.approx(plain.scale, rel=0.05)


def test_without_depth_the_user_s_own_frame_stays() -> None:
    assert frame_around([canonical_camera("front", 8, 8)], [np.zeros((8, 8))]) == Frame()


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_what_is_drawn_does_not_depend_on_the_unit(factor: float) -> None:
    """The rasterizer is of use by itself, where nobody has made the unit small or large before."""
    corners = np.random.default_rng(0).normal(size=(60, 3)) * 0.4
    faces = np.arange(60, dtype=np.int32).reshape(20, 3)
    camera = canonical_camera("front", 64, 64)
    pose = np.array(camera.camera_to_world)
    pose[:3, 3] *= factor
    plain, loaded = (
        rasterize(corners * s, faces, replace(camera, camera_to_world=p))
        for s, p in ((1.0, np.array(camera.camera_to_world)), (factor, pose))
    )
    assert (plain.face >= 0).mean() > 0.05 and (plain.face == loaded.face).mean() > 0.999
    assert loaded.depth == pytest.approx(plain.depth * factor, rel=1e-5)


@pytest.mark.parametrize("offset", [(0.3, 0.0, -0.2), units.UTM])
def test_cameras_of_another_convention_are_named_wherever_the_origin_lies(
    offset: units.Place, duck: Path, tmp_path: Path
) -> None:
    """What an inverse is depends on the user's origin, and is lost in the local frame."""
    source = Case("", units.in_unit(0.02, offset)).write(duck, tmp_path / "set")
    document = units.cameras(source)
    for view in document["views"]:
        view["camera_to_world"] = np.linalg.inv(view["camera_to_world"]).tolist()
    units.write_cameras(source, document)
    with pytest.raises(ValidationFailed) as refused:
        validated(source, tmp_path)
    assert "world-to-camera" in f"{refused.value.message} {refused.value.suggestion}"
