"""What is dropped into the bucket becomes a job: `python -m pipeline.drops NAMESPACE TEMPLATE [NAME]`.

A drop is `drops/<name>.zip`, or files under `drops/<name>/` completed by `drops/<name>/_READY.json`, written last:
  {"options": {"model": "nvdiffrec", …}, "checksums": {"multi_views/front.png": "<sha256, hex>", …}}      both may be left out
Every version (key + eTag) of either marker is one job, whose id follows from the two: however often and wherever this runs, there
is one workflow of that name, and its record when the name has expired. Every run looks at all versions of a name that the bucket
still has, so it does not matter which of several events arrives. Files are copied, as they were when the marker was written, to
`inputs/<job>/`; what happens to the drop afterwards does not touch the job.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from pipeline import dropped, jobs, records, storage, views
from pipeline.clusters import Cluster, connect
from pipeline.dropped import MARKS, ZIP, Drop, found, name_of, text_of
from pipeline.storage import DROPS
from pipeline.views import PREFIX
from steps.errors import FileTooLarge, StepError, UnknownError, ValidationFailed
from steps.formats.inputs import FIELDS, MAX_BYTES

MOST_FILES = 100
MOST_ZIP_BYTES = 13 * MAX_BYTES
MOST_READY_BYTES = 1_000_000
CHUNK = 1 << 20


def reconcile(cluster: Cluster, template: str, name: str = "") -> dict[str, str]:
    """Makes bucket and cluster agree, for one name or for all. Returns what was done: job -> "started", "refused" or "recorded".

    Nothing that a single drop does wrong keeps the others from being looked at."""
    listed = list(storage.versions(DROPS + name))
    marks = marked(listed)
    known = None if name else {o["Key"]: o["LastModified"] for o in storage.listed(storage.RECORDS)}
    done = {}
    for drop in found(listed):
        if name and drop.name != name:
            continue
        try:
            what = attend(cluster, template, drop, recorded(drop, known), marks.get(drop.name))
        except Exception as error:
            print(f"{drop.key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            what = "failed"
        if what:
            done[drop.job] = what
    return done


def marked(listed: list[dict[str, Any]]) -> dict[str, datetime]:
    """When each name got its last _DONE.json or _FAILED.json."""
    times: dict[str, datetime] = {}
    for version in listed:
        path, _, mark = version["Key"].removeprefix(DROPS).rpartition("/")
        if mark in MARKS and version.get("IsLatest"):
            times[path] = max(version["LastModified"], times.get(path, version["LastModified"]))
    return times


def recorded(drop: Drop, known: dict[str, datetime] | None) -> datetime | None:
    """When a drop's job was recorded as ended. known: by key, where all were listed at once."""
    key = storage.record_key(drop.job)
    if known is not None:
        return known.get(key)
    return next((o["LastModified"] for o in storage.listed(key)), None)


def attend(cluster: Cluster, template: str, drop: Drop, record: datetime | None, mark: datetime | None) -> str:
    """One version: starts its job, unless there is one; writes down how it ended, where that is not done yet. record, mark: when
    the job's record and the name's last mark were written. A mark is written after its record."""
    if record:
        overdue = mark is None or mark < record
        return "recorded" if overdue and dropped.mark(drop.name) else ""
    workflow = cluster.get(PREFIX + drop.job)
    if workflow is None:
        return start(cluster, template, drop)
    if workflow.get("status", {}).get("phase") in views.ENDED:
        records.settle(workflow)
        return "recorded"
    return ""


def start(cluster: Cluster, template: str, drop: Drop) -> str:
    """Submits a drop's job, or writes down why it cannot be one."""
    try:
        options, source = prepared(drop, jobs.known_options(cluster, template))
    except StepError as error:
        refuse(drop, error)
        return "refused"
    jobs.submit(cluster, drop.job, source, options, template, source="drop", drop=json.dumps(asdict(drop)))
    return "started"


def refuse(drop: Drop, error: StepError) -> None:
    """The record of a job that never was."""
    record = error.record()
    record["details"] = {
        "step": "validate",
        "model": "",
        "engine": "",
        "pipeline_stage": "validation",
        "oom_type": "none",
        **record["details"],
    }
    now = text_of(datetime.now(UTC))
    blank = dict.fromkeys(records.KEPT)
    told = {"job_id": drop.job, "status": "failed", "created_at": drop.dropped_at, "ended_at": now, "error": record}
    kept = {
        **blank,
        **told,
        "stage": "validation",
        "owner": "",
        "source": "drop",
        "priority": "normal",
        "drop": asdict(drop),
    }
    storage.write_json(storage.record_key(drop.job), kept)
    dropped.mark(drop.name)


# -- the files ----------------------------------------------------------------------------------------------------------


def prepared(drop: Drop, known: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Checks what can be checked without opening pictures, and copies the files to where the job takes them. Returns options and
    the job's input."""
    if drop.key.endswith(ZIP):
        head = storage.client().head_object(Bucket=storage.bucket(), Key=drop.key, VersionId=drop.version)
        _refuse_large(drop.key, head["ContentLength"], MOST_ZIP_BYTES)
        return {}, _copy({"set.zip": (drop.key, drop.version)}, drop.job) + "/set.zip"
    ready = read_ready(drop)
    files = at_the_time(drop)
    check_sums(files, ready.get("checksums", {}))
    options = jobs.options_from(ready.get("options", {}), known)
    return options, _copy(files, drop.job)


def read_ready(drop: Drop) -> dict[str, Any]:
    """The marker's content. Raises ValidationFailed."""
    text = storage.read(drop.key, VersionId=drop.version, Range=f"bytes=0-{MOST_READY_BYTES}") or b"{}"
    try:
        ready = json.loads(text.strip() or b"{}")
    except ValueError:
        ready = None
    if not isinstance(ready, dict) or not isinstance(ready.get("checksums", {}), dict):
        raise ValidationFailed(
            "_READY.json is not a JSON object with options and checksums.",
            'Write {"options": {"model": "reconviagen"}, "checksums": {"multi_views/front.png": "<sha256>"}}, or just {}.',
            file="_READY.json",
        )
    unknown = set(ready) - {"options", "checksums"}
    if unknown:
        raise ValidationFailed(
            f"_READY.json holds {', '.join(sorted(unknown))}.", "It may hold options and checksums.", file="_READY.json"
        )
    return ready


def at_the_time(drop: Drop) -> dict[str, tuple[str, str]]:
    """The drop's files as they were when its marker was written: path in the set -> key and version. Raises BadInput."""
    prefix = f"{DROPS}{drop.name}/"
    files: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int] = {}
    for version in sorted(storage.versions(prefix), key=lambda o: o["LastModified"]):
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
    return path == "cameras.json" or (folder in FIELDS and bool(name))


def _refuse_large(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLarge(f"{path} has {size / 1e6:.1f} MB; at most {limit / 1e6:.0f} MB are read.", file=path)


def check_sums(files: dict[str, tuple[str, str]], expected: dict[str, Any]) -> None:
    """Raises ValidationFailed for the first file that is missing or differs."""
    for path, digest in expected.items():
        if path not in files:
            raise ValidationFailed(
                f"_READY.json lists {path!r}, which was not there when it was written.", "Write it last.", file=path
            )
        if _sha256(*files[path]) != str(digest).lower():
            raise ValidationFailed(
                f"{path} differs from its checksum.", "Upload it again, then _READY.json.", file=path
            )


def _sha256(key: str, version: str) -> str:
    whole = hashlib.sha256()
    body = storage.client().get_object(Bucket=storage.bucket(), Key=key, VersionId=version)["Body"]
    for chunk in body.iter_chunks(CHUNK):
        whole.update(chunk)
    return whole.hexdigest()


def _copy(files: dict[str, tuple[str, str]], job: str) -> str:
    """Inside the store. Returns the address of the copy."""
    bucket, base = storage.bucket(), f"{storage.INPUTS}{job}"
    for path, (key, version) in files.items():
        source = {"Bucket": bucket, "Key": key, "VersionId": version}
        storage.client().copy_object(Bucket=bucket, Key=f"{base}/{path}", CopySource=source)
    return f"s3://{bucket}/{base}"


def main(namespace: str, template: str, key: str = "") -> None:
    """key: of the object that an event names, encoded as in a URL; empty: everything."""
    name = name_of(unquote_plus(key)) if key else ""
    if key and not name:
        print(f"{key} marks no drop")
        return
    done = reconcile(connect(namespace), template, name)
    print(json.dumps(done), flush=True)
    if "failed" in done.values():
        raise SystemExit(UnknownError.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
