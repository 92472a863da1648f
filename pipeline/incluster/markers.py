"""What has been dropped into the bucket, and the marks that say what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import json_text, s3
from pipeline.clients.s3 import DROPS, READY, ZIP
from pipeline.jobs import ids
from steps.runtime.errors import ValidationFailed

MARKS = ("_DONE.json", "_FAILED.json")
ANNOTATION = "sixview.dev/drop"  # of a workflow: the Drop that it was made from, as JSON
TRIES = 20  # to bring the marks about while others do the same


@dataclass(frozen=True, slots=True)
class Drop:
    """One version of a drop. key, etag, version: of its marker; dropped_at: ISO 8601."""

    name: str
    key: str
    etag: str
    version: str
    dropped_at: str

    @property
    def job(self) -> str:
        return ids.id_from(self.key, self.etag)

    @property
    def old_job(self) -> str:
        """The id that this had when ids were shorter."""
        return ids.legacy_id(self.job)


def name_of(key: str) -> str:
    """The name in a marker's key; empty where the key marks nothing."""
    inner = key.removeprefix(DROPS) if key.startswith(DROPS) else ""
    if inner.endswith(READY):
        return inner.removesuffix(READY)
    return inner.removesuffix(ZIP) if inner.endswith(ZIP) and "/" not in inner else ""


def found(listed: Iterable[dict[str, Any]]) -> Iterator[Drop]:
    """The drops among some versions of objects, the oldest first."""
    yield from filter(None, map(drop_of, sorted(listed, key=lambda o: o["LastModified"])))


def drop_of(version: dict[str, Any]) -> Drop | None:
    """The drop that a version of an object marks, if it does."""
    name = name_of(version["Key"])
    etag = version["ETag"].strip('"') if name else ""
    return Drop(name, version["Key"], etag, version["VersionId"], text_of(version["LastModified"])) if name else None


def is_of(workflow: dict[str, Any], drop: Drop) -> bool:
    """Whether a workflow was made from a drop, by the annotation that it got then."""
    text = (workflow["metadata"].get("annotations") or {}).get(ANNOTATION, "")
    try:
        return _same(json_text.parse_object(text, "The annotation", "Leave it as it was."), drop)
    except ValidationFailed:
        return False


def record_of(drop: Drop) -> dict[str, Any] | None:
    """How a drop's job ended, under today's id or the one from when ids were shorter; None where that is not known."""
    old = s3.read_json(s3.record_key(drop.old_job))
    told = s3.find_record(drop.job), {**old, "folder": drop.old_job} if isinstance(old, dict) else None
    return next((record for record in told if record and _same(record.get("drop"), drop)), None)


def _same(told: Any, drop: Drop) -> bool:
    return isinstance(told, dict) and (told.get("key"), told.get("etag")) == (drop.key, drop.etag)


def text_of(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


# -- marks --------------------------------------------------------------------------------------------------------------


def mark(name: str, anew: bool = False) -> bool:
    """Leaves _DONE.json or _FAILED.json beside a drop, for the newest version whose job has ended. False where it was there.
    anew: writes it even so, since the intake takes a mark that is older than a record for one that is missing.

    Jobs of several versions may end at once. Whoever changes a mark looks again afterwards: so the last one to change it leaves
    what the records say."""
    changed = False
    for _ in range(TRIES):
        record = newest_record(name)
        if record is None or not _bring_about(name, record, anew and not changed):
            return changed
        changed = True
    return changed


def newest_record(name: str) -> dict[str, Any] | None:
    """Of the versions of a name that have ended, the newest one's record."""
    listed = [v for marker in (READY, ZIP) for v in s3.versions(f"{DROPS}{name}{marker}")]
    for drop in reversed([d for d in found(listed) if d.name == name]):
        record = record_of(drop)
        if record:
            return record
    return None


def _bring_about(name: str, record: dict[str, Any], anew: bool) -> bool:
    """Writes the mark that a record asks for and takes the other one away; False where nothing was to be done."""
    own, other = (
        f"{DROPS}{name}/{part}" for part in (MARKS if record.get("status") == "completed" else reversed(MARKS))
    )
    content, wrong = told(record), s3.head(other) is not None
    missing = anew or s3.read_json(own) != content
    if missing:
        s3.write_json(own, content)
    if wrong:
        s3.remove(f"s3://{s3.bucket()}/{other}")
    return missing or wrong


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What a mark says."""
    bucket, completed = s3.bucket(), record.get("status") == "completed"
    final = [name for name in s3.RESULT_FILES if name != "failure.json" or not completed]
    links = {name: f"s3://{bucket}/{s3.key_of(record['folder'], name)}" for name in final}
    found = {"job_id": record.get("job_id"), "status": record.get("status"), **record["drop"], "links": links}
    return found if completed else {**found, "error": record.get("error")}
