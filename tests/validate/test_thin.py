"""Views in which the object is thinner than a pixel, and depth renders of one value: accepted and refused cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steps.compute.arrays import Array
from steps.io import png, scene, unseen
from steps.io.png import Picture
from steps.runtime.contract import VIEW_NAMES, Validate
from steps.runtime.errors import BadInput, StepError
from steps.runtime.reporter import Reporter
from steps.validate import run
from tests.cases import kit
from tests.cases.kit import Case
from tests.cases.thin import CASES, blank, file_of

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def thin_set(sample_set: Callable[..., Path]) -> Callable[[str], Path]:
    return lambda name: sample_set(file_of(name))


def validated(source: Path, work: Path, rig: str = "auto") -> scene.Scene:
    """The scene that validate makes, within this process."""
    for folder in (work / "scene", work / "outputs"):
        folder.mkdir(parents=True)
    parameters = Validate(input=source, out=work / "scene", outputs=work / "outputs", rig=rig)
    run.run(parameters, work / "scene", Reporter(work / "outputs", "validation"))
    return scene.load(work / "scene")


def test_a_card_seen_from_its_edge_is_known_from_its_faces(thin_set: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = validated(thin_set("card"), tmp_path)
    notes = loaded.metadata["notes"]
    assert any("too thin to be seen in left, right, top, bottom" in note for note in notes)
    assert not any("WARNING" in note for note in notes)
    n_pixels = {view.camera.name: int((view.depth() > 0).sum()) for view in loaded.views}
    assert n_pixels["front"] == n_pixels["back"] > 1000 and sum(n_pixels.values()) == 2 * n_pixels["front"]


def test_its_cameras_cannot_be_found_which_is_said_and_may_be_the_canonical_ones(
    thin_set: Callable[[str], Path], tmp_path: Path
) -> None:
    case = BY_NAME["thin card without cameras"]
    source = case.write(thin_set("card"), tmp_path / "set")
    with pytest.raises(StepError) as caught:
        validated(source, tmp_path / "auto")
    record = caught.value.record()
    assert caught.value.code == case.code
    assert all(words in f"{record['message']} {record['suggestion']}" for words in (*case.says, "--rig nominal"))
    assert validated(source, tmp_path / "nominal", rig="nominal").rig["source"] == "canonical"


def test_flat_faces_seen_head_on_have_one_depth_each_and_that_is_no_fault(
    thin_set: Callable[[str], Path], tmp_path: Path
) -> None:
    source = BY_NAME["flat faces without cameras"].write(thin_set("box"), tmp_path / "set")
    assert all(len(np.unique(kit.depth(source, name))) == 2 for name in VIEW_NAMES)
    loaded = validated(source, tmp_path)
    assert loaded.metadata["notes"] == [] and loaded.rig["source"] == "canonical"
    for view in loaded.views:
        known = view.depth()[view.depth() > 0]
        assert len(known) > 1000 and np.ptp(known) < 1e-6 * known.max()


@pytest.mark.parametrize("name", ["depth blank in one view", "depth that is a mask"])
def test_depth_renders_without_depth_are_refused(name: str, sample_set: Callable[..., Path], tmp_path: Path) -> None:
    case = BY_NAME[name]
    with pytest.raises(BadInput) as caught:
        validated(case.write(sample_set("mug"), tmp_path / "set"), tmp_path)
    record = caught.value.record()
    assert caught.value.code == case.code
    assert all(words in record["message"] for words in case.says), record


def test_a_view_that_shows_nothing_is_refused_where_the_opposite_one_shows_the_object(
    sample_set: Callable[..., Path], tmp_path: Path
) -> None:
    def emptied(folder: Path) -> Path:
        kit.write_view(folder, "left", np.zeros_like(kit.view(folder, "left")))
        return blank(folder, "left")

    with pytest.raises(BadInput, match="left.png shows nothing, while the object is seen in right"):
        validated(Case("", emptied).write(sample_set("mug"), tmp_path / "set"), tmp_path)


# -- by small pictures ---------------------------------------------------------------------------------------------------


def picture(counts: Array) -> Picture:
    return Picture(np.asarray(counts, np.uint8)[..., None], 255)


def square(value: int, half: int, background: int = 0) -> Picture:
    counts = np.full((32, 32), background)
    counts[16 - half : 16 + half, 16 - half : 16 + half] = value
    return picture(counts)


def disc(value: int) -> Picture:
    y, x = np.mgrid[:32, :32] - 15.5
    return picture(np.where(np.hypot(x, y) < 12, value, 0))


def test_masks_are_distinguished_from_the_faces_of_a_box() -> None:
    assert unseen.only_masks([disc(255)] * 6)
    assert not unseen.only_masks([square(90, 10)] * 6)  # a cube
    assert not unseen.only_masks([disc(90)] * 2 + [square(120, 10)] * 4)
    ramp = picture(np.where(disc(1).pixels[..., 0] > 0, np.arange(32)[None] + 100, 0))
    assert not unseen.only_masks([disc(255)] * 5 + [ramp])


@pytest.mark.parametrize(("empty", "background"), [(0, 0), (255, 255), (77, 77)])
def test_a_view_is_empty_where_it_holds_what_is_around_the_others(empty: int, background: int) -> None:
    full = {i: square(90, 10, background) for i in (0, 1)}
    assert unseen.empty_of(full | {i: picture(np.full((32, 32), empty)) for i in range(2, 6)}) == [2, 3, 4, 5]


def test_a_face_that_fills_its_view_has_one_depth() -> None:
    """Where the picture is all object; where it is not, depth lacks a background."""
    depths = {("depth_renders", i): square(90, 10) for i in range(1, 6)} | {
        ("depth_renders", 0): picture(np.full((32, 32), 90))
    }
    colours = np.full((32, 32, 4), 255, np.uint8)
    views = {("multi_views", i): Picture(colours, 255) for i in range(6)}
    assert unseen.faults(depths | views) == {}
    colours = colours.copy()
    colours[:8, :, 3] = 0
    views["multi_views", 0] = Picture(colours, 255)
    assert "does not fill the view" in unseen.faults(depths | views)[0].message


def test_depth_of_one_value_everywhere_is_none_in_all_six(set_copy: Path) -> None:
    for name in VIEW_NAMES:
        png.write(set_copy / "depth_renders" / f"{name}.png", np.full((128, 128), 128, np.uint8))
    with pytest.raises(BadInput, match="it holds no depth") as caught:
        run.input_checks.check_set(set_copy)
    assert len(caught.value.details["faults"]) == 6
