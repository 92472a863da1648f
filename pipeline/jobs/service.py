"""Job operations shared by CLI, gateway and intake: submit, status, list, cancel, retry, result.

There is no database: a job is its Workflow, its record and its files in S3."""

from __future__ import annotations

import contextlib
import heapq
import json
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from pipeline.clients import reading, retries, s3, workflows
from pipeline.clients.kubernetes import FINISHED, UNFINISHED, Cluster, Conflict, Expired, Workflow
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import records, status
from pipeline.jobs.status import CANCEL_REQUESTED, OWNER, SOURCE, JobStatus
from steps.io import input_set
from steps.runtime.errors import (
    Cancelled,
    ClusterUnavailable,
    IncompleteResults,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobNotReady,
    ValidationFailed,
)
from steps.runtime.options import JOB_OPTIONS, Option, parse

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
MAX_ADDRESS = 1100  # characters; a key in S3 has 1024 bytes at most
JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
# Argo's controller kills the containers of a failed node's pod, by pod name, after the grace period of 30 seconds. A retried
# workflow reuses its pod names, so a pod created sooner would be killed in place of its predecessor
RETRY_SECONDS = 35.0
MAX_LISTED = 50
LIST_ATTEMPTS = 3  # restarts of a list whose continue token expires


# -- submission -------------------------------------------------------------------------------------------------------


def submit(
    cluster: Cluster,
    job: str,
    address: str,
    options: dict[str, Any],
    template: str = "sixview",
    **origin: str,
) -> JobStatus:
    """Creates a job's Workflow and returns the job's status. address: s3:// URL of the input; options: workflow parameters;
    origin: owner, source (cli, http, drop) and drop (JSON). Idempotent per id: returns the existing job, or raises
    ValidationFailed where it has another owner or source."""
    workflow = manifest(job, address, options, template, **origin)
    try:
        return status.of_workflow(cluster.create(workflow))
    except Conflict:
        return check_owner(find(cluster, job), origin.get("owner", ""), origin.get("source", "cli"))


def check_owner(job_status: JobStatus, owner: str, source: str) -> JobStatus:
    """Returns the job if owner and source match. Raises ValidationFailed, without details of the job."""
    if (job_status["owner"] or "", job_status["source"]) != (owner, source):
        raise ValidationFailed(
            "The id that this leads to is another job's.", "Send it under another key or name, or without one."
        )
    return job_status


def manifest(job: str, address: str, options: dict[str, Any], template: str, **origin: str) -> dict[str, Any]:
    """The Workflow manifest of a job: workflowTemplateRef and arguments."""
    arguments = {
        "input": address,
        **{name.replace("_", "-"): value for name, value in options.items() if value is not None},
    }
    labels = {"app.kubernetes.io/name": "sixview", SOURCE: origin.get("source", "cli")}
    if origin.get("owner"):
        labels[OWNER] = origin["owner"]
    metadata: dict[str, Any] = {"name": NAME_PREFIX + job, "labels": labels}
    if origin.get("drop"):
        metadata["annotations"] = {"sixview.dev/drop": origin["drop"]}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": metadata,
        "spec": {
            "workflowTemplateRef": {"name": template},
            "arguments": {"parameters": [{"name": name, "value": str(value)} for name, value in arguments.items()]},
            "priority": status.PRIORITIES.get(str(options.get("priority", "normal")), 0),
        },
    }


def upload(source: Path, job: str) -> str:
    """Uploads a folder's input set, or a .zip, to inputs/<job>. Returns its s3:// URL."""
    base = f"s3://{s3.bucket()}/{s3.INPUTS}{job}"
    if source.is_file():
        s3.upload(source, f"{base}/set.zip")
        return f"{base}/set.zip"
    input_files = input_set.open_set(source)
    for entry in [*input_files.cameras, *input_files.pictures]:
        if entry.source and not entry.problem:
            s3.upload(entry.source, f"{base}/{entry.path.as_posix()}")
    return base


# -- status ----------------------------------------------------------------------------------------------------------


def find(cluster: Cluster, job: str) -> JobStatus:
    """A job's status with its queue position. Raises JobNotFound."""
    workflow = cluster.get(NAME_PREFIX + check_id(job))
    if workflow is None:
        return archived(job)
    job_status = status.of_workflow(workflow)
    return status.with_queue(job_status, unfinished_jobs(cluster)) if job_status["status"] == "queued" else job_status


def archived(job: str) -> JobStatus:
    """Status of a job whose workflow has been deleted, from its record. Raises JobNotFound."""
    job_status = records.read(check_id(job))
    if job_status is None:
        raise JobNotFound(f"There is no job {job}.")
    return job_status


def check_id(job: str) -> str:
    """The job id without the workflow prefix. Raises JobNotFound where it is not valid in names and keys."""
    job = job.removeprefix(NAME_PREFIX)
    if not JOB.fullmatch(job):
        raise JobNotFound("There is no such job: an id consists of lower-case letters, digits and hyphens.")
    return job


def listing(cluster: Cluster, limit: int = MAX_LISTED) -> list[JobStatus]:
    """The newest jobs with a Workflow, newest first. Finished ones are read by metadata; in full only those that are returned and
    lack the record annotation."""
    unfinished = unfinished_jobs(cluster)
    items = {
        job_status["job_id"]: ListItem(job_status["created_at"], job_status["job_id"], job_status)
        for job_status in unfinished
    }
    items |= finished_items(cluster)
    newest = heapq.nlargest(limit, items.values(), key=lambda item: (item.created_at, item.job_id))
    statuses = (item.job_status or _full_status(cluster, item.job_id) for item in newest)
    return [status.with_queue(job_status, unfinished) for job_status in statuses if job_status]


class ListItem(NamedTuple):
    """A job in a list. job_status: None where its workflow has to be read in full."""

    created_at: str
    job_id: str
    job_status: JobStatus | None


def unfinished_jobs(cluster: Cluster) -> list[JobStatus]:
    """Status of all unfinished jobs; holds one page of workflows in memory at a time."""
    return list(
        _collect(cluster, UNFINISHED, True, lambda w: status.of_workflow(w) if status.is_job(w) else None).values()
    )


def finished_items(cluster: Cluster) -> dict[str, ListItem]:
    """Finished jobs by id, from their workflows' metadata."""

    def to_item(workflow: Workflow) -> ListItem:
        metadata = workflows.read(workflow)["metadata"]
        return ListItem(metadata["creationTimestamp"], status.job_of(metadata["name"]), status.of_annotation(workflow))

    return _collect(cluster, FINISHED, False, to_item)


def _collect(cluster: Cluster, selector: str, full: bool, reduce: Callable[[Workflow], Any]) -> dict[str, Any]:
    """Job id -> `reduce(workflow)`, without None. Restarts a list that expires. Raises ClusterUnavailable after LIST_ATTEMPTS."""
    for _ in range(LIST_ATTEMPTS):
        with contextlib.suppress(Expired):
            pairs = (
                (status.job_of(workflows.read(workflow)["metadata"]["name"]), reduce(workflow))
                for page in cluster.pages(selector, full)
                for workflow in page.items
            )
            return {job: item for job, item in pairs if item is not None}
    raise ClusterUnavailable("The jobs could not be listed: each listing expired on the way.", "Try again in a moment.")


def _full_status(cluster: Cluster, job: str) -> JobStatus | None:
    """Status of a job from its full workflow; None where it has been deleted or is no job."""
    workflow = cluster.get(NAME_PREFIX + job)
    return status.of_workflow(workflow) if workflow and status.is_job(workflow) else None


# -- cancel and retry -------------------------------------------------------------------------------------------------


def may_cancel(job_status: JobStatus) -> bool:
    """True for an unfinished job, False for a cancelled one. Raises JobNotReady for a completed or failed one."""
    if job_status["status"] in ("completed", "failed"):
        raise JobNotReady(
            f"The job {job_status['job_id']} has {job_status['status']}: it cannot be cancelled.",
            "Nothing is to be done.",
        )
    return bool(job_status["status"] != "cancelled")


def cancel(cluster: Cluster, job: str, who: str = "") -> JobStatus:
    """Stops a job's workflow; its exit handler still runs. Raises JobNotReady, JobNotFound."""
    job_status = find(cluster, job)
    if may_cancel(job_status):
        cluster.stop(NAME_PREFIX + job_status["job_id"], {"sixview.dev/cancelled-by": who or "cli"})
    return job_status | {"status": "cancelled"}


def request_cancel(cluster: Any, job: str) -> str:
    """Annotates the workflow with an unconfirmed cancellation request. Returns its time, ISO 8601."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cluster.patch(NAME_PREFIX + job, {"metadata": {"annotations": {CANCEL_REQUESTED: now}}})
    return now


def retry(cluster: Cluster, job: str) -> JobStatus:
    """Retries a job from the step that failed, or from the first step where artifacts of the others were deleted. Sleeps until
    RETRY_SECONDS after the job's end. Raises JobNotReady where it has not failed, JobExpired where its workflow or input has been
    deleted."""
    job_status = find(cluster, job)
    if job_status["status"] not in ("failed", "cancelled") or not job_status["ended_at"]:
        raise JobNotReady(f"The job {job} is {job_status['status']}: only a job that has failed can be tried again.")
    workflow = cluster.get(NAME_PREFIX + job_status["job_id"])
    if workflow is None:
        raise JobExpired(f"The workflow of the job {job} is gone from the cluster.")
    address = status.parameters(workflow).get("input", "")
    if not input_exists(address):
        raise JobExpired(f"The input of the job {job} is gone: nothing lies at {address}.")
    time.sleep(retry_delay(workflow, datetime.now(UTC)))
    cluster.retry(
        NAME_PREFIX + job_status["job_id"],
        from_start=any(s3.head(key) is None for key in retries.kept_artifact_keys(workflow)),
    )
    for key in (s3.record_key(job_status["folder"]), s3.key_of(job_status["folder"], "failure.json")):
        s3.remove(f"s3://{s3.bucket()}/{key}")
    return find(cluster, job)


def input_exists(address: str) -> bool:
    """Whether an object exists at the address. True for other buckets, which these keys may not read: validate checks them."""
    try:
        name, key = s3.split(address)
    except ValueError:
        return True  # validate reports it
    return name != s3.bucket() or next(s3.listed(key), None) is not None


def retry_delay(workflow: dict[str, Any], now: datetime) -> float:
    """Seconds to wait before a retry, 0 to RETRY_SECONDS; the upper bound guards against clock skew."""
    finished_at = reading.parse_time(workflows.read(workflow)["status"]["finishedAt"])
    elapsed = (now - finished_at).total_seconds() if finished_at else 0.0
    return min(RETRY_SECONDS, max(0.0, RETRY_SECONDS - elapsed))


# -- results ----------------------------------------------------------------------------------------------------------


def result(job_status: JobStatus) -> tuple[str, dict[str, Any]]:
    """Key and HeadObject response of a completed job's result.zip. Raises JobNotReady (details: progress), JobFailed (details:
    failure), IncompleteResults (details: missing), JobExpired."""
    job, error = job_status["job_id"], job_status["error"] or {}
    if job_status["status"] in ("queued", "processing"):
        raise JobNotReady(
            f"The job {job} is {job_status['status']} ({job_status['progress']} %).", progress=job_status["progress"]
        )
    if error.get("code") == IncompleteResults.code:
        missing = reading.sequence(error["details"].get("missing"))
        raise IncompleteResults(error["message"], error["suggestion"], missing=missing)
    if job_status["status"] != "completed":
        record = error or Cancelled("The job was stopped.").record()
        raise JobFailed(
            f"The job {job} has {_past(job_status['status'])}: {record['message']}",
            record["suggestion"],
            failure=record,
        )
    key = s3.key_of(job_status["folder"], "result.zip")
    head = s3.head(key)
    if head is None:
        raise JobExpired(f"The result of the job {job} is no longer kept.")
    return key, head


def _past(status: str) -> str:
    return "been cancelled" if status == "cancelled" else status


def parse_source(address: str) -> tuple[str, str]:
    """(bucket, key) of an input's s3:// URL, without doubled and trailing slashes. Raises ValidationFailed for keys that are
    empty or that stores read differently: `.` and `..`, backslashes, control characters."""
    advice = "Give s3://bucket/prefix or s3://bucket/set.zip."
    scheme, separator, path = address.partition("://")
    try:
        bucket, key = s3.split(scheme.lower() + separator + path)
    except ValueError:
        raise ValidationFailed(f"{shortened(address)!r} is no address in S3.", advice, field="input") from None
    parts = [part for part in key.split("/") if part]
    is_malformed = not address.isprintable() or "\\" in address or "{{" in address or not BUCKET.fullmatch(bucket)
    if is_malformed or not parts or {".", ".."} & set(parts) or len(address) > MAX_ADDRESS:
        raise ValidationFailed(f"{shortened(address)!r} names no set.", advice, field="input")
    return bucket, "/".join(parts)


def allowed_source(address: str, buckets: tuple[str, ...]) -> str:
    """The normalised s3:// URL, if its bucket is one of `buckets` and its key not under a prefix of the pipeline (other users'
    jobs). Raises ValidationFailed."""
    bucket, key = parse_source(address)
    if bucket not in buckets or (bucket == s3.bucket() and any(map(_is_reserved, _decodings(key)))):
        raise ValidationFailed(
            f"Inputs are not taken from {shortened(address)!r}.",
            f"Allowed are sets in {', '.join(buckets) or 'no bucket'}; or upload the twelve files.",
            field="input",
        )
    return f"s3://{bucket}/{key}"


def _is_reserved(key: str) -> bool:
    return f"{key}/".startswith(s3.PREFIXES)


def _decodings(key: str) -> list[str]:
    """The key and its repeated percent-decodings and path normalisations, as a proxy or store may apply them."""
    forms = [key]
    while (decoded := posixpath.normpath("/" + unquote(forms[-1]).replace("\\", "/")).lstrip("/")) != forms[-1]:
        forms.append(decoded)
    return forms


def shortened(address: str) -> str:
    return address if len(address) <= 200 else f"{address[:200]}…"


def options_from(options: Any, parameters: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Options as workflow parameters, names with hyphens, values as text. parameters: of the installed template, which may offer
    fewer options and choices; None: whatever a job may have. Raises ValidationFailed naming every wrong option."""
    if not isinstance(options, dict):
        raise ValidationFailed("The options are not a JSON object.", 'Write {"model": "nvdiffrec"}, for example.')
    values = {str(name).replace("_", "-"): value for name, value in options.items()}
    if len(values) < len(options):
        raise ValidationFailed("An option is given twice, with hyphens and with underscores.", "Leave one out.")
    parse(values, JOB_OPTIONS if parameters is None else offered(parameters))
    return {name: str(value) for name, value in values.items()}


def offered(parameters: Mapping[str, Any]) -> dict[str, Option]:
    """The options that a template has, with those of their choices that it offers. parameters: the template's, by name."""
    options: dict[str, Option] = {}
    for name, option in JOB_OPTIONS.items():
        enum = [str(choice) for choice in parameters.get(name, {}).get("enum") or option.choices]
        choices = tuple(choice for choice in enum if choice in (option.choices or enum))
        if name in parameters and (choices or not enum):
            options[name] = replace(option, choices=choices)
    return options


def template_parameters(cluster: Cluster, template: str) -> dict[str, Any]:
    """The parameters of a WorkflowTemplate, by name. Raises ValidationFailed where there is none."""
    manifest = cluster.template(template)
    if manifest is None:
        raise ValidationFailed(
            f"There is no WorkflowTemplate {template} in the namespace {cluster.namespace}.",
            "Install the chart, or name the template.",
        )
    return {item["name"]: item for item in manifest["spec"]["arguments"]["parameters"]}


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
