"""result.zip: streamed and reproducible, with a manifest."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from steps.package.evidence import Model
from steps.runtime.files import sha256

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP can hold: file times would make equal results differ
VARYING = ("run.json", "report/")  # times, memory, host and versions


def archive_files(models: list[Model], report: Path, run: Path) -> dict[str, Path]:
    """All files of the archive and their sources, sorted."""
    files = {f"{m.name}/{name}": path for m in models for name, path in m.files().items() if path.is_file()}
    files |= {f"report/{p.relative_to(report).as_posix()}": p for p in report.rglob("*") if p.is_file()}
    return dict(sorted({**files, "run.json": run}.items()))


def manifest(files: dict[str, Path], missing: list[str]) -> dict[str, Any]:
    """SHA-256 and size of each file, missing files, and one digest over all that is reproducible."""
    listed = {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
    lines = [f"{entry['sha256']}  {name}\n" for name, entry in listed.items() if not name.startswith(VARYING)]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {
        "format": "sixview-manifest/1",
        "content_digest": digest,
        "not_in_digest": list(VARYING),
        "missing": missing,
        "files": listed,
    }


def write(path: Path, files: dict[str, Path], listing: dict[str, Any]) -> None:
    """The archive: deflate, level 6, one file after the other without holding any whole."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        with archive.open(_info("manifest.json"), "w") as member:
            member.write((json.dumps(listing, indent=2) + "\n").encode())
        for name, source in files.items():
            with archive.open(_info(name), "w") as member, open(source, "rb") as file:
                while piece := file.read(1 << 20):
                    member.write(piece)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info
