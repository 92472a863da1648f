"""Creates a job for each drop in the bucket: `python -m pipeline.incluster.intake NAMESPACE TEMPLATE [KEY]`.

A drop is `drops/<name>.zip`, or files under `drops/<name>/` completed by `drops/<name>/_READY.json`, written last:
  {"options": {"model": "nvdiffrec", …}, "checksums": {"multi_views/front.png": "<sha256, hex>", …}}      both are optional
Every version of either marker is one job, whose id is a hash of key and ETag. So runs are idempotent, also concurrent ones: the
workflow of that name exists once, later its record does. Every run reads all versions of a name, so lost or reordered events do
not matter. Files are copied to `inputs/<job>/` in their versions at the time of the marker; later changes do not affect the job.

Every drop ends with _DONE.json or _FAILED.json. Errors of one drop do not delay others: it is retried after them, MAX_ATTEMPTS
times in all, then recorded as failed. An unavailable store or cluster ends the run with an error instead.
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

import click

from pipeline.clients import s3, workflows
from pipeline.clients.kubernetes import Cluster, Workflow, connect
from pipeline.clients.s3 import DROPS, ZIP
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.incluster import dropped_files, exit_handler, markers
from pipeline.incluster.markers import RESULT_MARKERS, Drop, drop_name, timestamp
from pipeline.jobs import records, service, status
from steps.io.input_set import sanitize
from steps.runtime.errors import ClusterUnavailable, StepError, StorageUnavailable, UnknownError, ValidationFailed

MAX_ATTEMPTS = 3
RETRY_DELAY_SECONDS = 2.0
RETRY_ADVICE = "Drop it again under another name; if that fails too, the log of the intake says more."


class Intake(NamedTuple):
    """Where jobs are created. parameters: of the WorkflowTemplate, by name."""

    cluster: Cluster
    template: str
    parameters: dict[str, Any]


class BucketState(NamedTuple):
    """Drops in the bucket. drops: one per job, oldest first; marked_at: name -> time of its last _DONE.json or _FAILED.json;
    recorded_at: job -> time of its record."""

    drops: list[Drop]
    marked_at: dict[str, datetime]
    recorded_at: dict[str, datetime]

    def unfinished(self) -> list[Drop]:
        """Drops without an up-to-date result marker, which is written after the record."""
        return [drop for drop in self.drops if not self._is_finished(drop)]

    def _is_finished(self, drop: Drop) -> bool:
        marked_at, recorded_at = self.marked_at.get(drop.name), self.recorded_at.get(drop.job)
        return marked_at is not None and recorded_at is not None and marked_at >= recorded_at


def reconcile(cluster: Cluster, template: str, name: str = "") -> dict[str, str]:
    """Processes the drops of one name, or all. Returns job -> "started", "refused", "recorded", or "waiting" where the cluster
    did not accept the workflow. Raises errors that affect all drops."""
    intake = Intake(cluster, template, service.template_parameters(cluster, template))
    actions: dict[str, str] = {}
    state = read_bucket(name)
    waiting = state.unfinished()
    for attempt in range(MAX_ATTEMPTS):
        time.sleep(attempt * RETRY_DELAY_SECONDS if waiting else 0)
        errors = {}
        for drop in waiting:
            try:
                actions[drop.job] = process(intake, drop, drop.job in state.recorded_at)
            except Exception as error:
                check_services(intake)
                errors[drop] = error
                log_error(drop, error)
        waiting = list(errors)
    actions |= {drop.job: record_unprocessed(drop, error) for drop, error in errors.items()}
    return {job: action for job, action in actions.items() if action}


def log_error(drop: Drop, error: Exception) -> None:
    print(sanitize(f"{drop.key}: {type(error).__name__}: {error}"), file=sys.stderr, flush=True)


def check_services(intake: Intake) -> None:
    """Raises where the store or the cluster is unavailable: then the drop is not at fault."""
    s3.client().list_objects_v2(Bucket=s3.bucket(), Prefix=DROPS, MaxKeys=1)
    service.template_parameters(intake.cluster, intake.template)


def record_unprocessed(drop: Drop, error: Exception) -> str:
    """Records a drop as failed after its last attempt; an unavailable cluster leaves it waiting. Returns the action."""
    if isinstance(error, ClusterUnavailable):
        return "waiting"
    from botocore.exceptions import BotoCoreError, ClientError

    of_store = isinstance(error, StorageUnavailable | BotoCoreError | ClientError)
    error_class, message = (
        (StorageUnavailable, "The store refused it") if of_store else (UnknownError, "It could not be taken")
    )
    try:
        record_failure(drop, error_class(sanitize(f"{message}: {error or type(error).__name__}")[:500], RETRY_ADVICE))
    except Exception as fault:  # the key of its result marker may be too long; the record is stored first
        log_error(drop, fault)
    return "refused"


# -- the bucket -------------------------------------------------------------------------------------------------------


def read_bucket(name: str = "") -> BucketState:
    """Lists drops, result markers and records; for one name only its own."""
    prefixes = (f"{DROPS}{name}/_", f"{DROPS}{name}{ZIP}") if name else (DROPS,)
    drops, marked_at = parse_versions(version for prefix in prefixes for version in s3.versions(prefix))
    own_drops = [drop for drop in drops if not name or drop.name == name]
    record_prefixes = [f"{s3.RECORDS}{drop.legacy_job}" for drop in own_drops] if name else [s3.RECORDS]
    return BucketState(
        own_drops, marked_at, record_times(own_drops, (item for head in record_prefixes for item in s3.listed(head)))
    )


def parse_versions(versions: Iterable[dict[str, Any]]) -> tuple[list[Drop], dict[str, datetime]]:
    """Drops and result markers among object versions: as in BucketState."""
    drops: dict[str, Drop] = {}
    marked_at: dict[str, datetime] = {}
    for version in versions:
        drop = markers.drop_of(version)
        if drop and (drop.job not in drops or drop.dropped_at < drops[drop.job].dropped_at):
            drops[drop.job] = drop
        path, _, file_name = version["Key"].removeprefix(DROPS).rpartition("/")
        if file_name in RESULT_MARKERS and version.get("IsLatest"):
            marked_at[path] = max(version["LastModified"], marked_at.get(path, version["LastModified"]))
    return sorted(drops.values(), key=lambda drop: drop.dropped_at), marked_at


def record_times(drops: list[Drop], objects: Iterable[dict[str, Any]]) -> dict[str, datetime]:
    """job -> LastModified of its record, for these drops. objects: listed under records/."""
    keys = {s3.record_key(drop.legacy_job): drop.job for drop in drops}
    jobs = set(keys.values())
    recorded_at: dict[str, datetime] = {}
    for item in objects:
        job = keys.get(item["Key"]) or s3.job_of_record(item["Key"])
        if job in jobs:
            recorded_at[job] = max(item["LastModified"], recorded_at.get(job, item["LastModified"]))
    return recorded_at


# -- one drop ---------------------------------------------------------------------------------------------------------


def process(intake: Intake, drop: Drop, has_record: bool) -> str:
    """Creates the drop's job or, where that has ended, its record and result marker. has_record: whether a record with its id
    exists, of any workflow. Returns the action; "" for none."""
    if has_record and markers.find_record(drop):
        return "recorded" if markers.write_result_marker(drop.name, rewrite=True) else ""
    try:
        workflow = workflow_of(intake.cluster, drop)
        if workflow is None:
            return start(intake, drop)
    except ClusterUnavailable:
        raise
    except StepError as error:
        record_failure(drop, error)
        return "refused"
    if workflows.read(workflow)["status"]["phase"] in status.ENDED:
        exit_handler.finalize(workflow)
        return "recorded"
    return ""


def workflow_of(cluster: Cluster, drop: Drop) -> Workflow | None:
    """The drop's workflow; None where there is none. Raises ValidationFailed where a foreign workflow has its name."""
    workflow = cluster.get(NAME_PREFIX + drop.job)
    if workflow is not None and not markers.is_workflow_of(workflow, drop):
        raise ValidationFailed(f"The workflow {NAME_PREFIX}{drop.job} did not come from this drop.", RETRY_ADVICE)
    legacy_workflow = None if workflow else cluster.get(NAME_PREFIX + drop.legacy_job)
    return workflow or (legacy_workflow if legacy_workflow and markers.is_workflow_of(legacy_workflow, drop) else None)


def start(intake: Intake, drop: Drop) -> str:
    """Submits the drop's job. Raises StepError, BadInput above all."""
    options, source = dropped_files.prepare_input(drop, intake.parameters)
    origin = {"source": "drop", "drop": json.dumps(asdict(drop))}
    service.submit(intake.cluster, drop.job, source, options, intake.template, **origin)
    return "started"


def record_failure(drop: Drop, error: StepError) -> None:
    """Stores the record and the _FAILED.json of a drop for which no workflow was created."""
    record = error.record()
    record["details"] = {
        "step": "validate",
        "model": "",
        "engine": "",
        "pipeline_stage": "validation",
        "oom_type": "none",
        **record["details"],
    }
    final = {
        **dict.fromkeys(records.FIELDS),
        "job_id": drop.job,
        "status": "failed",
        "created_at": drop.dropped_at,
        "ended_at": timestamp(datetime.now(UTC)),
        "error": record,
        "stage": "validation",
        "owner": "",
        "source": "drop",
        "priority": "normal",
        "workflow": "",
        "drop": asdict(drop),
    }
    s3.write_json(s3.record_key(drop.job), final)
    markers.write_result_marker(drop.name)


@click.command(
    context_settings={"ignore_unknown_options": True}
)  # a KEY may begin with "-": whoever writes to the bucket chose it
@click.argument("namespace")
@click.argument("template")
@click.argument("key", default="")
def main(namespace: str, template: str, key: str) -> None:
    """Create jobs of the WorkflowTemplate TEMPLATE in NAMESPACE for the drop of which KEY, encoded as in an S3 event, is the
    marker; without a KEY for every drop."""
    from botocore.exceptions import BotoCoreError, ClientError

    name = drop_name(unquote_plus(key)) if key else ""
    if key and not name:
        print(f"{sanitize(key)} marks no drop")
        return
    try:
        actions = reconcile(connect(namespace), template, name)
    except (StepError, BotoCoreError, ClientError) as fault:
        error = fault if isinstance(fault, StepError) else StorageUnavailable(f"The store does not answer: {fault}")
        print(sanitize(f"{error.code}: {error.message} {error.suggestion}"), file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    print(json.dumps(actions), flush=True)
    if "waiting" in actions.values():
        raise SystemExit(ClusterUnavailable.exit_code)


if __name__ == "__main__":
    main()
