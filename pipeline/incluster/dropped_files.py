"""Validates a drop's files, in their versions at the time of its marker, and copies them to `inputs/<job>/`."""

from __future__ import annotations

from typing import Any

from pipeline.clients import json_text, s3
from pipeline.clients.s3 import DROPS, ZIP
from pipeline.incluster.markers import Drop, timestamp
from pipeline.jobs import service
from steps.io.input_set import FIELDS, MAX_BYTES, named_as_cameras, sanitize
from steps.runtime.errors import FileTooLarge, InvalidFileCount, ValidationFailed
from steps.runtime.files import sha256

MAX_FILES = 100
MAX_ZIP_BYTES = 13 * MAX_BYTES
MAX_MARKER_BYTES = 1_000_000
MARKER_FORM = (
    'Write {"options": {"model": "reconviagen"}, "checksums": {"multi_views/front.png": "<sha256>"}}, or just {}.'
)


def prepare_input(drop: Drop, parameters: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Checks marker, number, sizes and checksums, and copies the files to inputs/. parameters: of the WorkflowTemplate. Returns
    the job's options and the s3:// URL of its input. Raises BadInput."""
    if drop.key.endswith(ZIP):
        head = s3.client().head_object(Bucket=s3.bucket(), Key=drop.key, VersionId=drop.version)
        _check_size(drop.key, head["ContentLength"], MAX_ZIP_BYTES)
        return {}, _copy({"set.zip": (drop.key, drop.version)}, drop.job) + "/set.zip"
    marker = read_marker(drop)
    files = files_at_marker_time(drop)
    if not any(path.rpartition("/")[0] in FIELDS for path in files):
        raise InvalidFileCount("The drop holds no files: there were none when _READY.json was written.")
    verify_checksums(files, marker.get("checksums", {}))
    options = service.options_from(marker.get("options", {}), parameters)
    return options, _copy(files, drop.job)


def read_marker(drop: Drop) -> dict[str, Any]:
    """Content of the drop's _READY.json. Raises ValidationFailed."""
    data = s3.read(drop.key, MAX_MARKER_BYTES + 1, VersionId=drop.version)
    if data is None:
        raise ValidationFailed("_READY.json was taken away.", MARKER_FORM, file="_READY.json")
    return parse_marker(data)


def parse_marker(data: bytes) -> dict[str, Any]:
    """options and checksums in a _READY.json; {} for an empty file. Raises ValidationFailed."""
    if len(data) > MAX_MARKER_BYTES:
        raise ValidationFailed(
            f"_READY.json has more than {MAX_MARKER_BYTES / 1e6:.0f} MB.", MARKER_FORM, file="_READY.json"
        )
    marker = json_text.parse_object(data.strip() or b"{}", "_READY.json", MARKER_FORM, file="_READY.json")
    unknown = sorted(set(marker) - {"options", "checksums"})
    if unknown:
        names = ", ".join(sanitize(name)[:40] for name in unknown[:3])
        raise ValidationFailed(f"_READY.json holds {names}.", "It may hold options and checksums.", file="_READY.json")
    if not all(isinstance(marker.get(name, {}), dict) for name in ("options", "checksums")):
        raise ValidationFailed("options or checksums in _READY.json are no object.", MARKER_FORM, file="_READY.json")
    return marker


def files_at_marker_time(drop: Drop) -> dict[str, tuple[str, str]]:
    """The drop's files in their versions at the time of its marker: path in the set -> (key, version id). Raises BadInput."""
    prefix = f"{DROPS}{drop.name}/"
    files: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int] = {}
    for version in sorted(s3.versions(prefix), key=lambda o: o["LastModified"]):
        path = version["Key"].removeprefix(prefix)
        if _is_input_file(path) and timestamp(version["LastModified"]) <= drop.dropped_at:
            files[path], sizes[path] = (version["Key"], version["VersionId"]), version["Size"]
    if len(files) > MAX_FILES:
        raise ValidationFailed(
            f"The drop holds {len(files)} files.", "A set has twelve pictures and perhaps a cameras.json."
        )
    for path, size in sizes.items():
        _check_size(path, size, MAX_BYTES)
    return files


def _is_input_file(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    cameras = "/" not in folder and named_as_cameras(name)  # at other paths they are ignored: validate reports them
    return cameras or (folder in FIELDS and bool(name))


def _check_size(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLarge(f"{path} has {size / 1e6:.1f} MB; at most {limit / 1e6:.0f} MB are read.", file=path)


def verify_checksums(files: dict[str, tuple[str, str]], expected: dict[str, Any]) -> None:
    """Compares files with their SHA-256. Raises ValidationFailed for the first that is missing or differs."""
    for path, digest in expected.items():
        if path not in files:
            raise ValidationFailed(
                f"_READY.json lists {path[:200]!r}, which was not there when it was written.",
                "Write it last.",
                file=sanitize(path)[:200],
            )
        if _sha256(*files[path]) != str(digest).lower():
            raise ValidationFailed(
                f"{path} differs from its checksum.", "Upload it again, then _READY.json.", file=path
            )


def _sha256(key: str, version: str) -> str:
    return sha256(s3.client().get_object(Bucket=s3.bucket(), Key=key, VersionId=version)["Body"])


def _copy(files: dict[str, tuple[str, str]], job: str) -> str:
    """Copies objects within the bucket to inputs/<job>. files: path -> (key, version id). Returns the s3:// URL of the copy."""
    bucket, base = s3.bucket(), f"{s3.INPUTS}{job}"
    for path, (key, version) in files.items():
        source = {"Bucket": bucket, "Key": key, "VersionId": version}
        s3.client().copy_object(Bucket=bucket, Key=f"{base}/{path}", CopySource=source)
    return f"s3://{bucket}/{base}"
