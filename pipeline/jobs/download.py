"""Download of a job's result: resumable by range requests, verified by SHA-256 before it gets its final name."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from pipeline.clients import s3
from pipeline.jobs import service
from steps.runtime.errors import DiskFull, StorageUnavailable
from steps.runtime.files import sha256

CHUNK = 1 << 20


def fetch(job_status: dict[str, Any], out: Path) -> dict[str, str]:
    """Downloads result.zip and report.html into `out`. Returns their paths. Raises DiskFull, StorageUnavailable, and what
    `service.result` raises."""
    key, head = service.result(job_status)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "result.zip"
    partial = out / f".result.{job_status['job_id']}.{head['ETag'].strip(chr(34))[:12]}.part"
    _download(key, head, partial)
    verify(partial)
    os.replace(partial, target)
    files = {"result": str(target)}
    report = s3.read(s3.key_of(job_status["folder"], "report.html"))
    if report is not None:
        (out / "report.html").write_bytes(report)
        files["report"] = str(out / "report.html")
    return files


def _download(key: str, head: dict[str, Any], partial: Path) -> None:
    """Appends the missing bytes to `partial`. If-Match on the ETag: the object must not have changed since."""
    size = partial.stat().st_size if partial.exists() else 0
    if size >= head["ContentLength"]:
        return
    body = s3.client().get_object(Bucket=s3.bucket(), Key=key, IfMatch=head["ETag"], Range=f"bytes={size}-")["Body"]
    try:
        with open(partial, "ab") as file:
            for piece in body.iter_chunks(CHUNK):
                file.write(piece)
    except OSError as error:
        raise DiskFull(
            f"The result could not be written: {error.strerror}.", "Free some space and fetch again: it goes on."
        ) from None


def verify(path: Path) -> None:
    """Compares every file in the ZIP with its SHA-256 in manifest.json. Deletes the ZIP and raises StorageUnavailable where one
    differs."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = json.loads(archive.read("manifest.json"))["files"]
            wrong = [name for name, entry in entries.items() if _sha256(archive, name) != entry["sha256"]]
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        wrong = [str(error)]
    if wrong:
        path.unlink()
        raise StorageUnavailable(f"What arrived is damaged: {', '.join(wrong[:3])}.", "Fetch it again.")


def _sha256(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as member:
        return sha256(member)
