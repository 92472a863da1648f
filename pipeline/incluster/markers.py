"""Drops in the bucket and their result markers, _DONE.json and _FAILED.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import json_text, s3
from pipeline.clients.s3 import DROPS, READY, ZIP
from pipeline.jobs import ids
from steps.runtime.errors import ValidationFailed

RESULT_MARKERS = ("_DONE.json", "_FAILED.json")
ANNOTATION = "sixview.dev/drop"  # of a workflow: its Drop, as JSON
MAX_UPDATES = 20  # of a result marker that concurrent processes change too


@dataclass(frozen=True, slots=True)
class Drop:
    """One version of a drop. key, etag, version (id): of its _READY.json or .zip; dropped_at: ISO 8601."""

    name: str
    key: str
    etag: str
    version: str
    dropped_at: str

    @property
    def job(self) -> str:
        return ids.id_from(self.key, self.etag)

    @property
    def legacy_job(self) -> str:
        """The job's id in earlier versions, eight characters."""
        return ids.legacy_id(self.job)


def drop_name(key: str) -> str:
    """Name of the drop that a key completes; "" for other keys."""
    path = key.removeprefix(DROPS) if key.startswith(DROPS) else ""
    if path.endswith(READY):
        return path.removesuffix(READY)
    return path.removesuffix(ZIP) if path.endswith(ZIP) and "/" not in path else ""


def drops_in(versions: Iterable[dict[str, Any]]) -> Iterator[Drop]:
    """The drops among object versions, oldest first."""
    yield from filter(None, map(drop_of, sorted(versions, key=lambda o: o["LastModified"])))


def drop_of(version: dict[str, Any]) -> Drop | None:
    """The drop that an object version completes; None for other objects."""
    name = drop_name(version["Key"])
    etag = version["ETag"].strip('"') if name else ""
    return Drop(name, version["Key"], etag, version["VersionId"], timestamp(version["LastModified"])) if name else None


def is_workflow_of(workflow: dict[str, Any], drop: Drop) -> bool:
    """Whether a workflow was created for this drop, by its annotation."""
    annotation = (workflow["metadata"].get("annotations") or {}).get(ANNOTATION, "")
    try:
        return _is_same_drop(json_text.parse_object(annotation, "The annotation", "Leave it as it was."), drop)
    except ValidationFailed:
        return False


def find_record(drop: Drop) -> dict[str, Any] | None:
    """The final record of a drop's job, under its id or its legacy id; None where there is none."""
    legacy_record = s3.read_json(s3.record_key(drop.legacy_job))
    candidates = (
        s3.find_record(drop.job),
        {**legacy_record, "folder": drop.legacy_job} if isinstance(legacy_record, dict) else None,
    )
    return next((record for record in candidates if record and _is_same_drop(record.get("drop"), drop)), None)


def _is_same_drop(content: Any, drop: Drop) -> bool:
    return isinstance(content, dict) and (content.get("key"), content.get("etag")) == (drop.key, drop.etag)


def timestamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds")


# -- result markers ---------------------------------------------------------------------------------------------------


def write_result_marker(name: str, rewrite: bool = False) -> bool:
    """Writes _DONE.json or _FAILED.json for the newest version of a drop whose job has ended. Returns whether anything changed.
    rewrite: also where it is up to date, since the intake compares its time with the record's.

    Jobs of several versions may end concurrently. Each writer reads again after its change, so the last one leaves the state that
    the records define."""
    changed = False
    for _ in range(MAX_UPDATES):
        record = newest_record(name)
        if record is None or not _update_markers(name, record, rewrite and not changed):
            return changed
        changed = True
    return changed


def newest_record(name: str) -> dict[str, Any] | None:
    """Record of the newest version of a drop whose job has ended; None where there is none."""
    versions = [v for marker in (READY, ZIP) for v in s3.versions(f"{DROPS}{name}{marker}")]
    for drop in reversed([d for d in drops_in(versions) if d.name == name]):
        record = find_record(drop)
        if record:
            return record
    return None


def _update_markers(name: str, record: dict[str, Any], rewrite: bool) -> bool:
    """Writes the result marker of a record and deletes the opposite one. Returns whether anything changed."""
    own, other = (
        f"{DROPS}{name}/{part}"
        for part in (RESULT_MARKERS if record.get("status") == "completed" else reversed(RESULT_MARKERS))
    )
    content, is_other_present = marker_content(record), s3.head(other) is not None
    is_outdated = rewrite or s3.read_json(own) != content
    if is_outdated:
        s3.write_json(own, content)
    if is_other_present:
        s3.remove(f"s3://{s3.bucket()}/{other}")
    return is_outdated or is_other_present


def marker_content(record: dict[str, Any]) -> dict[str, Any]:
    """Content of a result marker: job_id, status, the drop's fields, links and, after a failure, error."""
    bucket, completed = s3.bucket(), record.get("status") == "completed"
    final = [name for name in s3.RESULT_FILES if name != "failure.json" or not completed]
    links = {name: f"s3://{bucket}/{s3.key_of(record['folder'], name)}" for name in final}
    content = {"job_id": record.get("job_id"), "status": record.get("status"), **record["drop"], "links": links}
    return content if completed else {**content, "error": record.get("error")}
