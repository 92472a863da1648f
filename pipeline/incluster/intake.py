"""What is dropped into the bucket becomes a job: `python -m pipeline.incluster.intake NAMESPACE TEMPLATE [NAME]`.

A drop is `drops/<name>.zip`, or files under `drops/<name>/` completed by `drops/<name>/_READY.json`, written last:
  {"options": {"model": "nvdiffrec", …}, "checksums": {"multi_views/front.png": "<sha256, hex>", …}}      both may be left out
Every version (key + eTag) of either marker is one job, whose id follows from the two: however often and wherever this runs, there
is one workflow of that name, and its record when the name has expired. Every run looks at all versions of a name that the bucket
still has, so it does not matter which of several events arrives. Files are copied, as they were when the marker was written, to
`inputs/<job>/`; what happens to the drop afterwards does not touch the job.

Every drop ends as _DONE.json or _FAILED.json, and none costs another its turn: what goes wrong with one is tried again after all
others, TRIES times, and is then its own failure. A store or a cluster that is away for all ends the run instead, as failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from pipeline.clients import s3, workflows
from pipeline.clients.kubernetes import Cluster, Workflow, connect
from pipeline.clients.s3 import DROPS, ZIP
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.incluster import dropped_files, exit_handler, markers
from pipeline.incluster.markers import MARKS, Drop, name_of, text_of
from pipeline.jobs import records, service, status
from steps.io.input_set import shown
from steps.runtime.errors import ClusterUnavailable, StepError, StorageUnavailable, UnknownError, ValidationFailed

TRIES = 3
PAUSE_SECONDS = 2.0
ANEW = "Drop it again under another name; if that fails too, the log of the intake says more."


class Intake(NamedTuple):
    """Where drops become jobs. known: the template's parameters."""

    cluster: Cluster
    template: str
    known: dict[str, Any]


class Listed(NamedTuple):
    """What the bucket says of drops. drops: one of each job, the oldest first; marks: when each name got its last _DONE.json or
    _FAILED.json; ended: when each job was recorded as ended."""

    drops: list[Drop]
    marks: dict[str, datetime]
    ended: dict[str, datetime]

    def unsettled(self) -> list[Drop]:
        """The drops for which there may be something to do. A mark is written after its record."""
        return [drop for drop in self.drops if not self._is_settled(drop)]

    def _is_settled(self, drop: Drop) -> bool:
        mark, ended = self.marks.get(drop.name), self.ended.get(drop.job)
        return mark is not None and ended is not None and mark >= ended


def reconcile(cluster: Cluster, template: str, name: str = "") -> dict[str, str]:
    """Makes bucket and cluster agree, for one name or for all. Returns what was done: job -> "started", "refused", "recorded", or
    "waiting" for what the cluster did not take. Raises what keeps all drops from their turn."""
    intake = Intake(cluster, template, service.template_parameters(cluster, template))
    done: dict[str, str] = {}
    listing = listed(name)
    waiting = listing.unsettled()
    for turn in range(TRIES):
        time.sleep(turn * PAUSE_SECONDS if waiting else 0)
        faults = {}
        for drop in waiting:
            try:
                done[drop.job] = attend(intake, drop, drop.job in listing.ended)
            except Exception as error:
                refuse_to_go_on(intake)
                faults[drop] = error
                told(drop, error)
        waiting = list(faults)
    return {job: what for job, what in done.items() if what} | {d.job: give_up(d, e) for d, e in faults.items()}


def told(drop: Drop, error: Exception) -> None:
    print(shown(f"{drop.key}: {type(error).__name__}: {error}"), file=sys.stderr, flush=True)


def refuse_to_go_on(intake: Intake) -> None:
    """Raises where the store or the cluster is away for everybody: then nothing is a drop's own fault."""
    s3.client().list_objects_v2(Bucket=s3.bucket(), Prefix=DROPS, MaxKeys=1)
    service.template_parameters(intake.cluster, intake.template)


def give_up(drop: Drop, error: Exception) -> str:
    """What becomes of a drop that nobody could attend to: its failure, unless it was the cluster that refused."""
    if isinstance(error, ClusterUnavailable):
        return "waiting"
    from botocore.exceptions import BotoCoreError, ClientError

    of_store = isinstance(error, StorageUnavailable | BotoCoreError | ClientError)
    kind, what = (StorageUnavailable, "The store refused it") if of_store else (UnknownError, "It could not be taken")
    try:
        refuse(drop, kind(shown(f"{what}: {error or type(error).__name__}")[:500], ANEW))
    except Exception as fault:  # a name that leaves no room for a mark beside it: its record tells
        told(drop, fault)
    return "refused"


# -- the bucket ---------------------------------------------------------------------------------------------------------


def listed(name: str = "") -> Listed:
    """Reads the bucket page by page, and keeps of it what `Listed` says."""
    prefixes = (f"{DROPS}{name}/_", f"{DROPS}{name}{ZIP}") if name else (DROPS,)
    drops, marks = sorted_out(version for prefix in prefixes for version in s3.versions(prefix))
    mine = [drop for drop in drops if not name or drop.name == name]
    heads = [f"{s3.RECORDS}{drop.old_job}" for drop in mine] if name else [s3.RECORDS]
    return Listed(mine, marks, endings(mine, (item for head in heads for item in s3.listed(head))))


def sorted_out(versions: Iterable[dict[str, Any]]) -> tuple[list[Drop], dict[str, datetime]]:
    """The drops and the marks among versions of objects."""
    drops: dict[str, Drop] = {}
    marks: dict[str, datetime] = {}
    for version in versions:
        drop = markers.drop_of(version)
        if drop and (drop.job not in drops or drop.dropped_at < drops[drop.job].dropped_at):
            drops[drop.job] = drop
        path, _, mark = version["Key"].removeprefix(DROPS).rpartition("/")
        if mark in MARKS and version.get("IsLatest"):
            marks[path] = max(version["LastModified"], marks.get(path, version["LastModified"]))
    return sorted(drops.values(), key=lambda drop: drop.dropped_at), marks


def endings(drops: list[Drop], objects: Iterable[dict[str, Any]]) -> dict[str, datetime]:
    """When the jobs of some drops were recorded as ended, by a listing of records."""
    keys = {s3.record_key(drop.old_job): drop.job for drop in drops}
    wanted = set(keys.values())
    ended: dict[str, datetime] = {}
    for item in objects:
        job = keys.get(item["Key"]) or s3.job_of_record(item["Key"])
        if job in wanted:
            ended[job] = max(item["LastModified"], ended.get(job, item["LastModified"]))
    return ended


# -- one drop -----------------------------------------------------------------------------------------------------------


def attend(intake: Intake, drop: Drop, has_record: bool) -> str:
    """One version: starts its job, unless there is one; writes down how it ended, where that is not done yet. has_record: whether
    there is one of its id, of whatever workflow."""
    if has_record and markers.record_of(drop):
        return "recorded" if markers.mark(drop.name, anew=True) else ""
    try:
        workflow = workflow_of(intake.cluster, drop)
        if workflow is None:
            return start(intake, drop)
    except ClusterUnavailable:
        raise
    except StepError as error:
        refuse(drop, error)
        return "refused"
    if workflows.read(workflow)["status"]["phase"] in status.ENDED:
        exit_handler.finalize(workflow)
        return "recorded"
    return ""


def workflow_of(cluster: Cluster, drop: Drop) -> Workflow | None:
    """The workflow that a drop has become. Raises ValidationFailed where another one has its name."""
    found = cluster.get(NAME_PREFIX + drop.job)
    if found is not None and not markers.is_of(found, drop):
        raise ValidationFailed(f"The workflow {NAME_PREFIX}{drop.job} did not come from this drop.", ANEW)
    older = None if found else cluster.get(NAME_PREFIX + drop.old_job)
    return found or (older if older and markers.is_of(older, drop) else None)


def start(intake: Intake, drop: Drop) -> str:
    """Submits a drop's job. Raises StepError where it cannot be one."""
    options, source = dropped_files.prepared(drop, intake.known)
    about = {"source": "drop", "drop": json.dumps(asdict(drop))}
    service.submit(intake.cluster, drop.job, source, options, intake.template, **about)
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
    kept = {
        **dict.fromkeys(records.FIELDS),
        "job_id": drop.job,
        "status": "failed",
        "created_at": drop.dropped_at,
        "ended_at": text_of(datetime.now(UTC)),
        "error": record,
        "stage": "validation",
        "owner": "",
        "source": "drop",
        "priority": "normal",
        "workflow": "",
        "drop": asdict(drop),
    }
    s3.write_json(s3.record_key(drop.job), kept)
    markers.mark(drop.name)


def main(namespace: str, template: str, key: str = "") -> None:
    """key: of the object that an event names, encoded as in a URL; empty: everything."""
    from botocore.exceptions import BotoCoreError, ClientError

    name = name_of(unquote_plus(key)) if key else ""
    if key and not name:
        print(f"{shown(key)} marks no drop")
        return
    try:
        done = reconcile(connect(namespace), template, name)
    except (StepError, BotoCoreError, ClientError) as fault:
        error = fault if isinstance(fault, StepError) else StorageUnavailable(f"The store does not answer: {fault}")
        print(shown(f"{error.code}: {error.message} {error.suggestion}"), file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    print(json.dumps(done), flush=True)
    if "waiting" in done.values():
        raise SystemExit(ClusterUnavailable.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
