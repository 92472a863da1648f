"""The files of a drop, as they were when its marker was written, on their way to `inputs/<job>/`."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.clients import json_text, s3
from pipeline.clients.s3 import DROPS, ZIP
from pipeline.incluster.markers import Drop, text_of
from pipeline.jobs import service
from steps.io.input_set import FIELDS, MAX_BYTES, named_as_cameras, shown
from steps.runtime.errors import FileTooLarge, InvalidFileCount, ValidationFailed

MOST_FILES = 100
MOST_ZIP_BYTES = 13 * MAX_BYTES
MOST_READY_BYTES = 1_000_000
CHUNK = 1 << 20
READY_FORM = (
    'Write {"options": {"model": "reconviagen"}, "checksums": {"multi_views/front.png": "<sha256>"}}, or just {}.'
)


def prepared(drop: Drop, known: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Checks what can be checked without opening pictures, and copies the files to where the job takes them. Returns options and
    the job's input."""
    if drop.key.endswith(ZIP):
        head = s3.client().head_object(Bucket=s3.bucket(), Key=drop.key, VersionId=drop.version)
        _refuse_large(drop.key, head["ContentLength"], MOST_ZIP_BYTES)
        return {}, _copy({"set.zip": (drop.key, drop.version)}, drop.job) + "/set.zip"
    ready = read_ready(drop)
    files = at_the_time(drop)
    if not any(path.rpartition("/")[0] in FIELDS for path in files):
        raise InvalidFileCount("The drop holds no files: there were none when _READY.json was written.")
    check_sums(files, ready.get("checksums", {}))
    options = service.options_from(ready.get("options", {}), known)
    return options, _copy(files, drop.job)


def read_ready(drop: Drop) -> dict[str, Any]:
    """The marker's content; an empty marker is {}. Raises ValidationFailed."""
    data = s3.read(drop.key, MOST_READY_BYTES + 1, VersionId=drop.version)
    if data is None:
        raise ValidationFailed("_READY.json was taken away.", READY_FORM, file="_READY.json")
    return ready_from(data)


def ready_from(data: bytes) -> dict[str, Any]:
    """What a marker says: options and checksums. Raises ValidationFailed."""
    if len(data) > MOST_READY_BYTES:
        raise ValidationFailed(
            f"_READY.json has more than {MOST_READY_BYTES / 1e6:.0f} MB.", READY_FORM, file="_READY.json"
        )
    ready = json_text.parse_object(data.strip() or b"{}", "_READY.json", READY_FORM, file="_READY.json")
    unknown = sorted(set(ready) - {"options", "checksums"})
    if unknown:
        told = ", ".join(shown(name)[:40] for name in unknown[:3])
        raise ValidationFailed(f"_READY.json holds {told}.", "It may hold options and checksums.", file="_READY.json")
    if not all(isinstance(ready.get(name, {}), dict) for name in ("options", "checksums")):
        raise ValidationFailed("options or checksums in _READY.json are no object.", READY_FORM, file="_READY.json")
    return ready


def at_the_time(drop: Drop) -> dict[str, tuple[str, str]]:
    """The drop's files as they were when its marker was written: path in the set -> key and version. Raises BadInput."""
    prefix = f"{DROPS}{drop.name}/"
    files: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int] = {}
    for version in sorted(s3.versions(prefix), key=lambda o: o["LastModified"]):
        path = version["Key"].removeprefix(prefix)
        if _wanted(path) and text_of(version["LastModified"]) <= drop.dropped_at:
            files[path], sizes[path] = (version["Key"], version["VersionId"]), version["Size"]
    if len(files) > MOST_FILES:
        raise ValidationFailed(
            f"The drop holds {len(files)} files.", "A set has twelve pictures and perhaps a cameras.json."
        )
    for path, size in sizes.items():
        _refuse_large(path, size, MAX_BYTES)
    return files


def _wanted(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    cameras = "/" not in folder and named_as_cameras(name)  # validate says what becomes of those at another place
    return cameras or (folder in FIELDS and bool(name))


def _refuse_large(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLarge(f"{path} has {size / 1e6:.1f} MB; at most {limit / 1e6:.0f} MB are read.", file=path)


def check_sums(files: dict[str, tuple[str, str]], expected: dict[str, Any]) -> None:
    """Raises ValidationFailed for the first file that is missing or differs."""
    for path, digest in expected.items():
        if path not in files:
            raise ValidationFailed(
                f"_READY.json lists {path[:200]!r}, which was not there when it was written.",
                "Write it last.",
                file=shown(path)[:200],
            )
        if _sha256(*files[path]) != str(digest).lower():
            raise ValidationFailed(
                f"{path} differs from its checksum.", "Upload it again, then _READY.json.", file=path
            )


def _sha256(key: str, version: str) -> str:
    whole = hashlib.sha256()
    body = s3.client().get_object(Bucket=s3.bucket(), Key=key, VersionId=version)["Body"]
    for chunk in body.iter_chunks(CHUNK):
        whole.update(chunk)
    return whole.hexdigest()


def _copy(files: dict[str, tuple[str, str]], job: str) -> str:
    """Inside the store. Returns the address of the copy."""
    bucket, base = s3.bucket(), f"{s3.INPUTS}{job}"
    for path, (key, version) in files.items():
        source = {"Bucket": bucket, "Key": key, "VersionId": version}
        s3.client().copy_object(Bucket=bucket, Key=f"{base}/{path}", CopySource=source)
    return f"s3://{bucket}/{base}"
