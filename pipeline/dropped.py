"""What has been dropped into the bucket, and the marks that say what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import ids, storage
from pipeline.storage import DROPS

READY, ZIP = "/_READY.json", ".zip"
MARKS = ("_DONE.json", "_FAILED.json")
TRIES = 20  # to bring the marks about while others do the same


@dataclass(frozen=True)
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


def name_of(key: str) -> str:
    """The name in a marker's key; empty where the key marks nothing."""
    inner = key.removeprefix(DROPS) if key.startswith(DROPS) else ""
    if inner.endswith(READY):
        return inner.removesuffix(READY)
    return inner.removesuffix(ZIP) if inner.endswith(ZIP) and "/" not in inner else ""


def found(listed: list[dict[str, Any]]) -> Iterator[Drop]:
    """The drops among some versions of objects, the oldest first."""
    for version in sorted(listed, key=lambda o: o["LastModified"]):
        name = name_of(version["Key"])
        if name:
            etag = version["ETag"].strip('"')
            yield Drop(name, version["Key"], etag, version["VersionId"], text_of(version["LastModified"]))


def text_of(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


# -- marks --------------------------------------------------------------------------------------------------------------


def mark(name: str) -> bool:
    """Leaves _DONE.json or _FAILED.json beside a drop, for the newest version whose job has ended. False where it was there.

    Jobs of several versions may end at once. Whoever changes a mark looks again afterwards: so the last one to change it leaves
    what the records say."""
    changed = False
    for _ in range(TRIES):
        record = newest_record(name)
        if record is None or not _bring_about(name, record):
            return changed
        changed = True
    return changed


def newest_record(name: str) -> dict[str, Any] | None:
    """Of the versions of a name that have ended, the newest one's record."""
    listed = [v for marker in (READY, ZIP) for v in storage.versions(f"{DROPS}{name}{marker}")]
    for drop in reversed([d for d in found(listed) if d.name == name]):
        record: dict[str, Any] | None = storage.read_json(storage.record_key(drop.job))
        if record:
            return record
    return None


def _bring_about(name: str, record: dict[str, Any]) -> bool:
    """Writes the mark that a record asks for and takes the other one away; False where nothing was to be done."""
    own, other = (f"{DROPS}{name}/{part}" for part in (MARKS if record["status"] == "completed" else reversed(MARKS)))
    content, wrong = told(record), storage.head(other) is not None
    missing = storage.read_json(own) != content
    if missing:
        storage.write_json(own, content)
    if wrong:
        storage.remove(f"s3://{storage.bucket()}/{other}")
    return missing or wrong


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What a mark says."""
    bucket, job, completed = storage.bucket(), record["job_id"], record["status"] == "completed"
    final = [name for name in storage.FINAL if name != "failure.json" or not completed]
    links = {name: f"s3://{bucket}/{storage.key_of(job, name)}" for name in final}
    found = {"job_id": job, "status": record["status"], **record["drop"], "links": links}
    return found if completed else {**found, "error": record["error"]}
