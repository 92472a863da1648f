"""Bodies that the HTTP API on the cluster refuses, each with its error, leaving nothing behind."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.clients import s3
from pipeline.clients.workflows import NAME_PREFIX
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.web import form, parts, png, refused


def changed(mug: Path, place: int, data: bytes, name: str = "front.png") -> list[Any]:
    files = parts(mug)
    files[place] = (files[place][0], (name, data, "image/png"))
    return files


BAD: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "eleven files": ("INVALID_FILE_COUNT", lambda mug: {"files": parts(mug)[1:]}),
    "thirteen files": ("INVALID_FILE_COUNT", lambda mug: {"files": [*parts(mug), parts(mug)[0]]}),
    "no files": ("INVALID_FILE_COUNT", lambda mug: {"files": {"other": b"x"}, "data": {}}),
    "a large file": ("FILE_TOO_LARGE", lambda mug: {"files": changed(mug, 3, parts(mug)[0][1][1] + bytes(20_000_001))}),
    "no png": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, b"GIF89a" + bytes(100))}),
    "an empty file": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, b"")}),
    "a zip instead": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, zip_bomb())}),
    "a picture that would unpack to gigabytes": (
        "VALIDATION_FAILED",
        lambda mug: {"files": changed(mug, 0, png(50000, 50000, zlib.compress(bytes(1 << 20))))},
    ),
    "other proportions": ("VALIDATION_FAILED", lambda mug: {"files": changed(mug, 0, png(64, 128))}),
    "the same name twice": ("VALIDATION_FAILED", lambda mug: {"files": changed(mug, 1, parts(mug)[0][1][1])}),
    "an unknown model": ("VALIDATION_FAILED", lambda mug: {"data": {"model_type": "magic"}}),
    "an unknown option": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"gird": 1}'}}),
    "an option that is a template": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"grid": "{{=1}}"}'}}),
    "another input": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"input": "s3://private/mug"}'}}),
    "options that are no JSON": ("VALIDATION_FAILED", lambda mug: {"data": {"options": "{"}}),
    "an unknown field": ("VALIDATION_FAILED", lambda mug: {"data": {"modle": "both"}}),
}


def zip_bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("multi_views/front.png", bytes(50_000_000))
    return data.getvalue()


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_at_once_and_leaves_no_objects(alice: httpx.Client, mug: Path, what: str) -> None:
    code, make = BAD[what]
    request = {"data": form(), "files": parts(mug), **make(mug)}
    before = uploads_without_job()
    refused(alice.post("/jobs", **request), 422, code)
    wait_for(lambda: uploads_without_job() <= before, 20, "the upload to be taken away")


def uploads_without_job() -> set[str]:
    """What lies in inputs/ for no workflow that is there. Others upload meanwhile, and have their job soon after."""
    job_folders = {version["Key"].split("/")[1] for version in s3.versions(s3.INPUTS)}
    listed = kubectl("-n", NAMESPACE, "get", "workflows", "-o", "name").stdout
    names = {line.rpartition("/")[2].removeprefix(NAME_PREFIX) for line in listed.split()}
    return {folder for folder in job_folders if folder.partition(".")[0] not in names}


def test_several_faults_are_reported_together_under_the_first_code(alice: httpx.Client, mug: Path) -> None:
    files = changed(mug, 0, b"GIF89a")
    files[4] = (files[4][0], ("top.png", bytes(20_000_001), "image/png"))
    error = refused(alice.post("/jobs", data=form(), files=files), 422, "FILE_TOO_LARGE")
    assert [f["code"] for f in error["details"]["faults"]] == ["INVALID_FILE_FORMAT", "FILE_TOO_LARGE"]
    assert [(f["field"], f["index"], f["file"]) for f in error["details"]["faults"]] == [
        ("multi_views", 0, "front.png"),
        ("multi_views", 4, "top.png"),
    ]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"hello", {"Content-Type": "text/plain"}),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"", {"Content-Type": "multipart/form-data"}),
        (b"{", {"Content-Type": "application/json"}),
        (b"[]", {"Content-Type": "application/json"}),
        (b"x", {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}),
    ],
)
def test_a_body_that_is_no_form_is_refused(alice: httpx.Client, content: bytes, headers: dict[str, str]) -> None:
    refused(alice.post("/jobs", content=content, headers=headers), 422, "VALIDATION_FAILED")
