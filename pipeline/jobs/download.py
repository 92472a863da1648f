"""A job's result on this machine: downloaded in pieces, taken up again after a break, checked before it gets its name."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from pipeline.clients import s3
from pipeline.jobs import service
from steps.runtime.errors import DiskFull, StorageUnavailable

CHUNK = 1 << 20


def fetch(view: dict[str, Any], out: Path) -> dict[str, str]:
    """Puts result.zip and report.html into `out`. Returns where they are. Raises what jobs.result raises."""
    key, head = service.result(view)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "result.zip"
    growing = out / f".result.{view['job_id']}.{head['ETag'].strip(chr(34))[:12]}.part"
    _download(key, head, growing)
    verify(growing)
    os.replace(growing, target)
    found = {"result": str(target)}
    report = s3.read(s3.key_of(view["folder"], "report.html"))
    if report is not None:
        (out / "report.html").write_bytes(report)
        found["report"] = str(out / "report.html")
    return found


def _download(key: str, head: dict[str, Any], growing: Path) -> None:
    """Goes on after the bytes that are there already; the object is still the same one, by its ETag."""
    have = growing.stat().st_size if growing.exists() else 0
    if have >= head["ContentLength"]:
        return
    body = s3.client().get_object(Bucket=s3.bucket(), Key=key, IfMatch=head["ETag"], Range=f"bytes={have}-")["Body"]
    try:
        with open(growing, "ab") as file:
            for piece in body.iter_chunks(CHUNK):
                file.write(piece)
    except OSError as error:
        raise DiskFull(
            f"The result could not be written: {error.strerror}.", "Free some space and fetch again: it goes on."
        ) from None


def verify(path: Path) -> None:
    """Compares every file in the ZIP with the manifest's SHA-256. What differs is thrown away, to be fetched again."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read("manifest.json"))["files"]
            wrong = [name for name, entry in listed.items() if _sha256(archive, name) != entry["sha256"]]
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        wrong = [str(error)]
    if wrong:
        path.unlink()
        raise StorageUnavailable(f"What arrived is damaged: {', '.join(wrong[:3])}.", "Fetch it again.")


def _sha256(archive: zipfile.ZipFile, name: str) -> str:
    whole = hashlib.sha256()
    with archive.open(name) as member:
        while piece := member.read(CHUNK):
            whole.update(piece)
    return whole.hexdigest()
