"""Damaged inputs: the right code and advice, without traceback, hang or excessive memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from steps.io.input_checks import check_set
from steps.runtime.contract import VIEW_NAMES
from steps.runtime.errors import BadInput, InvalidFileCount
from tests import damage

SEED = 1


@pytest.mark.parametrize("number", range(40), ids=lambda n: damage.case(n, SEED)[0].__name__)
def test_a_damaged_input_gets_its_code_and_a_sentence(duck: Path, tmp_path: Path, number: int) -> None:
    verdict = damage.tried(duck, tmp_path, number, SEED)
    assert not verdict.complaints(), (verdict.kind, verdict.record)
    assert not (tmp_path / "scene").exists()


def test_all_faults_of_a_set_are_reported_together_under_the_first_code(set_copy: Path) -> None:
    (set_copy / "multi_views" / "front.png").unlink()
    (set_copy / "multi_views" / "back.png").write_bytes(b"")
    (set_copy / "depth_renders" / "top.png").write_bytes(b"\xff\xd8\xff")
    shutil.copy(set_copy / "multi_views" / "left.png", set_copy / "depth_renders" / "left.png")
    with pytest.raises(InvalidFileCount) as caught:
        check_set(set_copy, None)
    faults = caught.value.details["faults"]
    assert [(f["code"], f["field"], f["index"]) for f in faults] == [
        ("INVALID_FILE_COUNT", "multi_views", None),
        ("INVALID_FILE_FORMAT", "multi_views", 1),
        ("VALIDATION_FAILED", "depth_renders", 2),
        ("INVALID_FILE_FORMAT", "depth_renders", 4),
    ]
    assert all(f["message"] and f["suggestion"] for f in faults)
    assert "JPEG" in faults[-1]["message"]


def test_the_record_is_json_whatever_the_names_are_made_of(set_copy: Path) -> None:
    (set_copy / "multi_views" / "front.png").rename(
        set_copy / "multi_views" / b"\xff\x1b[31m.png".decode(errors="surrogateescape")
    )
    with pytest.raises(BadInput) as caught:
        check_set(set_copy, None)
    text = json.dumps(caught.value.record(), ensure_ascii=False)
    assert text.encode() and "\x1b" not in text


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_folder_and_a_zip_of_it_are_the_same_input(set_copy: Path, wrapped: bool) -> None:
    archive = shutil.make_archive(
        str(set_copy), "zip", set_copy.parent if wrapped else set_copy, "set" if wrapped else "."
    )
    by_folder, by_zip = check_set(set_copy, None), check_set(Path(archive), None)
    for a, b in zip(by_folder[0].views + by_folder[0].depths, by_zip[0].views + by_zip[0].depths, strict=True):
        assert (a.pixels == b.pixels).all()


@pytest.mark.parametrize("names", ["view_{}", "view_{:02d}", "VIEW_{}"])
def test_numbered_names_stand_for_the_views_in_order(set_copy: Path, names: str) -> None:
    expected = check_set(set_copy, None)[0]
    for index, name in enumerate(VIEW_NAMES):
        (set_copy / "multi_views" / f"{name}.png").rename(set_copy / "multi_views" / f"{names.format(index)}.PNG")
        (set_copy / "depth_renders" / f"{name}.png").rename(set_copy / "depth_renders" / f"depth_{index}.png")
    pictures = check_set(set_copy, None)[0]
    assert all((a.pixels == b.pixels).all() for a, b in zip(expected.views, pictures.views, strict=True))


def test_files_that_systems_leave_behind_do_not_count(set_copy: Path) -> None:
    for name in (".DS_Store", "Thumbs.db"):
        (set_copy / "multi_views" / name).write_bytes(b"junk")
    check_set(set_copy, None)


def test_view_and_depth_may_differ_in_size(set_copy: Path) -> None:
    for name in VIEW_NAMES:
        with Image.open(set_copy / "multi_views" / f"{name}.png") as image:
            image.resize((256, 256)).save(set_copy / "multi_views" / f"{name}.png")
    pictures, _ = check_set(set_copy, None)
    assert pictures.views[0].pixels.shape[:2] == (256, 256) and pictures.depths[0].pixels.shape[:2] == (128, 128)
