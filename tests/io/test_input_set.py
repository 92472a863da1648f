"""Input sets as other programs write them: names, archives, camera files, each either equal to the clean set or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES
from steps.io import input_set
from steps.io.cameras_json import View
from steps.io.input_checks import check_set
from steps.runtime.errors import BadInput, ValidationFailed
from tests.cases.files import CASES, needed_cameras, side_files
from tests.cases.kit import Case


@pytest.mark.parametrize("case", [c for c in CASES if not c.code and "misplaced" not in c.name], ids=lambda c: c.name)
def test_every_accepted_variant_equals_the_clean_set(case: Case, duck: Path, tmp_path: Path) -> None:
    pictures, given = check_set(case.write(duck, tmp_path / "set"))
    clean, own = check_set(duck)
    assert isinstance(given, list) and isinstance(own, list)
    for a, b in zip(pictures.views, clean.views, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
    for c, d in zip(given, own, strict=True):
        assert_same_camera(c, d)
    assert all(any(words in note for note in pictures.notes) for words in case.says), pictures.notes


def assert_same_camera(a: View, b: View) -> None:
    for key in ("fx", "fy", "cx", "cy", "width", "height"):
        assert getattr(a.camera, key) == pytest.approx(getattr(b.camera, key))
    assert np.asarray(a.camera.camera_to_world) == pytest.approx(np.asarray(b.camera.camera_to_world), abs=1e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c.code], ids=lambda c: c.name)
def test_every_other_variant_is_refused_and_its_file_named(case: Case, duck: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        check_set(case.write(duck, tmp_path / "set"))
    record = caught.value.record()
    assert caught.value.code == case.code and caught.value.exit_code == 10
    assert all(words in f"{record['message']} {record['suggestion']}" for words in case.says), record


@pytest.mark.parametrize("case", [c for c in CASES if "misplaced" in c.name and not c.code], ids=lambda c: c.name)
def test_cameras_at_another_place_are_those_that_count(case: Case, duck: Path, tmp_path: Path) -> None:
    pictures, given = check_set(case.write(duck, tmp_path / "set"))
    assert isinstance(given, list)
    shapes = [(p.pixels.shape[1], p.pixels.shape[0]) for p in pictures.views]
    assert [(v.camera.width, v.camera.height) for v in given] == shapes and len(set(shapes)) > 1
    assert all(any(words in note for note in pictures.notes) for words in case.says), pictures.notes


def test_cameras_that_are_named_go_before_those_in_the_set_which_is_said(duck: Path, tmp_path: Path) -> None:
    source = Case("", lambda f: needed_cameras(f, "multi_views/camera.json")).write(duck, tmp_path / "set")
    pictures, given = check_set(source, duck / "cameras.json")
    assert isinstance(given, list) and {v.camera.width for v in given} == {128}
    assert any("not read: multi_views/camera.json" in note for note in pictures.notes)


def test_two_files_called_nearly_so_beside_the_right_one_are_named_and_not_read(set_copy: Path) -> None:
    (set_copy / "rig.json").write_text((set_copy / "cameras.json").read_text())
    assert any("not read: rig.json" in note for note in check_set(set_copy)[0].notes)


def test_a_json_file_without_cameras_is_ignored(set_copy: Path) -> None:
    (set_copy / "notes.json").write_text('{"weight": 3}')
    assert check_set(set_copy)[0].notes == []


def test_a_camera_file_that_cannot_be_understood_is_refused_and_never_left_out(set_copy: Path) -> None:
    (set_copy / "cameras.json").rename(set_copy / "multi_views" / "cameras.JSON.txt")
    (set_copy / "multi_views" / "cameras.JSON.txt").write_text("{broken")
    with pytest.raises(ValidationFailed, match=r"multi_views/cameras.JSON.txt is not valid JSON"):
        check_set(set_copy)


@pytest.mark.parametrize(
    "name", ["frontal.png", "view_6.png", "view_0x1.png", "0.png", "front_back.png", "depth_0.png"]
)
def test_names_without_a_view_give_none(name: str) -> None:
    assert input_set.view_index("multi_views", name, VIEW_NAMES) is None


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("front.png", 0),
        ("Back0001.PNG", 1),
        ("left_0042.png", 2),
        ("rgb-right.png", 3),
        ("top_view.png", 4),
        ("VIEW005.png", 5),
    ],
)
def test_names_with_a_number_or_suffix_give_their_view(name: str, view: int) -> None:
    assert input_set.view_index("multi_views", name, VIEW_NAMES) == view


def test_other_formats_count_where_the_pngs_are_not_all_there(set_copy: Path) -> None:
    side_files(set_copy)
    (set_copy / "multi_views" / "front.png").unlink()
    with pytest.raises(BadInput) as caught:
        check_set(set_copy)
    assert any(f["file"].endswith("front.exr") for f in caught.value.details["faults"])


def test_upload_sends_exactly_the_files_that_would_be_read(set_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.clients import s3
    from pipeline.jobs import service

    sent: dict[str, Path] = {}
    monkeypatch.setattr(s3, "upload", lambda path, address: sent.update({address: path}))
    monkeypatch.setattr(s3, "bucket", lambda: "b")
    (set_copy / "cameras.json").rename(set_copy / "Camera.json")
    (set_copy / "multi_views").rename(set_copy / "Multi_Views")
    (set_copy / "Multi_Views" / "front.png.meta").write_text("guid: 1")
    base = service.upload(set_copy, "job")
    expected: set[Any] = {f"{f}/{n}.png" for f in input_set.FIELDS for n in VIEW_NAMES} | {"Camera.json"}
    assert {address.removeprefix(f"{base}/") for address in sent} == expected
    assert sent[f"{base}/multi_views/top.png"].read_bytes()[:4] == b"\x89PNG"
