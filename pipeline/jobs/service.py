"""Jobs for everyone who is not Argo: submit, status, list, cancel, fetch, retry. CLI, gateway and drops are thin over it.

There is no database: a workflow in the cluster, its record and its files in S3 are all there is of a job."""

from __future__ import annotations

import contextlib
import heapq
import json
import posixpath
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from pipeline.clients import reading, retries, s3, workflows
from pipeline.clients.kubernetes import FINISHED, UNFINISHED, Cluster, Conflict, Expired, Workflow
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import records
from pipeline.jobs import status as job_status
from pipeline.jobs.status import ASKED, OWNER, SOURCE, View
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
from steps.runtime.options import refusal, wrong

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
MOST_ADDRESS = 1100  # characters; a key in S3 has 1024 bytes at most
JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
# Thirty seconds (a pod's grace period) after a step has failed, Argo's controller kills what still runs in the pod of that name.
# A workflow that goes on gives its pods the same names again: one made sooner would be killed for the one before it
QUIET_SECONDS = 35.0
MOST_LISTED = 50
LISTINGS = 3  # begun before one gives up


# -- submission ---------------------------------------------------------------------------------------------------------


def submit(
    cluster: Cluster,
    job: str,
    address: str,
    options: dict[str, Any],
    template: str = "sixview",
    **about: str,
) -> View:
    """Starts a job whose input lies in S3. address: of the input; options: the template's parameters; about: owner, source (who
    asked) and drop (JSON). The same id twice is the same job: the one that is there is returned. Raises ValidationFailed where
    that one is somebody else's."""
    workflow = manifest(job, address, options, template, **about)
    try:
        return job_status.view(cluster.create(workflow))
    except Conflict:
        return own(find(cluster, job), about.get("owner", ""), about.get("source", "cli"))


def own(view: View, owner: str, source: str) -> View:
    """The view, where the job came from this owner by this way. Raises ValidationFailed, which tells nothing of the job."""
    if (view["owner"] or "", view["source"]) != (owner, source):
        raise ValidationFailed(
            "The id that this leads to is another job's.", "Send it under another key or name, or without one."
        )
    return view


def manifest(job: str, address: str, options: dict[str, Any], template: str, **about: str) -> dict[str, Any]:
    """The Workflow that a job is: a reference to the template and its arguments."""
    given = {
        "input": address,
        **{name.replace("_", "-"): value for name, value in options.items() if value is not None},
    }
    labels = {"app.kubernetes.io/name": "sixview", SOURCE: about.get("source", "cli")}
    if about.get("owner"):
        labels[OWNER] = about["owner"]
    metadata: dict[str, Any] = {"name": NAME_PREFIX + job, "labels": labels}
    if about.get("drop"):
        metadata["annotations"] = {"sixview.dev/drop": about["drop"]}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": metadata,
        "spec": {
            "workflowTemplateRef": {"name": template},
            "arguments": {"parameters": [{"name": name, "value": str(value)} for name, value in given.items()]},
            "priority": job_status.PRIORITIES.get(str(options.get("priority", "normal")), 0),
        },
    }


def upload(source: Path, job: str) -> str:
    """Puts a folder's set, or a .zip, into the bucket. Returns its address, the input of the job."""
    base = f"s3://{s3.bucket()}/{s3.INPUTS}{job}"
    if source.is_file():
        s3.upload(source, f"{base}/set.zip")
        return f"{base}/set.zip"
    found = input_set.opened(source)
    for entry in [*found.cameras, *found.pictures]:
        if entry.source and not entry.problem:
            s3.upload(entry.source, f"{base}/{entry.path.as_posix()}")
    return base


# -- questions ----------------------------------------------------------------------------------------------------------


def find(cluster: Cluster, job: str) -> View:
    """A job's view, with its place in the queue. Raises JobNotFound."""
    workflow = cluster.get(NAME_PREFIX + checked(job))
    if workflow is None:
        return ended(job)
    found = job_status.view(workflow)
    return job_status.with_queue(found, unfinished(cluster)) if found["status"] == "queued" else found


def ended(job: str) -> View:
    """A job whose workflow is gone, by its record."""
    found = records.read(checked(job))
    if found is None:
        raise JobNotFound(f"There is no job {job}.")
    return found


def checked(job: str) -> str:
    """A job's id as it may stand in names and keys. Raises JobNotFound for what never was one."""
    job = job.removeprefix(NAME_PREFIX)
    if not JOB.fullmatch(job):
        raise JobNotFound("There is no such job: an id consists of lower-case letters, digits and hyphens.")
    return job


def listing(cluster: Cluster, limit: int = MOST_LISTED) -> list[View]:
    """The newest jobs that the cluster still knows, the newest first. Of those that have ended only the ones that are shown are
    read whole, where their metadata does not say how they ended."""
    waiting = unfinished(cluster)
    found = {view["job_id"]: Shown(view["created_at"], view["job_id"], view) for view in waiting}
    found |= ended_heads(cluster)
    newest = heapq.nlargest(limit, found.values(), key=lambda shown: (shown.created_at, shown.job_id))
    views_of = (shown.view or _whole(cluster, shown.job_id) for shown in newest)
    return [job_status.with_queue(view, waiting) for view in views_of if view]


class Shown(NamedTuple):
    """A job in a list. view: None where its workflow has to be read whole."""

    created_at: str
    job_id: str
    view: View | None


def unfinished(cluster: Cluster) -> list[View]:
    """The jobs that have not ended, a page of workflows in memory at a time."""
    return list(
        _listed(cluster, UNFINISHED, True, lambda w: job_status.view(w) if job_status.is_job(w) else None).values()
    )


def ended_heads(cluster: Cluster) -> dict[str, Shown]:
    """The jobs that have ended, by their metadata."""

    def shown(workflow: Workflow) -> Shown:
        head = workflows.read(workflow)["metadata"]
        return Shown(head["creationTimestamp"], job_status.job_of(head["name"]), job_status.recorded(workflow))

    return _listed(cluster, FINISHED, False, shown)


def _listed(cluster: Cluster, selector: str, whole: bool, reduced: Callable[[Workflow], Any]) -> dict[str, Any]:
    """Job -> what is kept of its workflow; nothing where `reduced` gives None. A listing that expired on the way begins anew."""
    for _ in range(LISTINGS):
        with contextlib.suppress(Expired):
            pairs = (
                (job_status.job_of(workflows.read(workflow)["metadata"]["name"]), reduced(workflow))
                for page in cluster.pages(selector, whole)
                for workflow in page.items
            )
            return {job: kept for job, kept in pairs if kept is not None}
    raise ClusterUnavailable("The jobs could not be listed: each listing expired on the way.", "Try again in a moment.")


def _whole(cluster: Cluster, job: str) -> View | None:
    """Of a job that has ended; None where it is gone by now, or was made without a template."""
    found = cluster.get(NAME_PREFIX + job)
    return job_status.view(found) if found and job_status.is_job(found) else None


# -- orders -------------------------------------------------------------------------------------------------------------


def may_cancel(view: View) -> bool:
    """Whether there is something to cancel; False where it was cancelled already. Raises JobNotReady for a job that has ended."""
    if view["status"] in ("completed", "failed"):
        raise JobNotReady(
            f"The job {view['job_id']} has {view['status']}: it cannot be cancelled.", "Nothing is to be done."
        )
    return bool(view["status"] != "cancelled")


def cancel(cluster: Cluster, job: str, who: str = "") -> View:
    """Stops a job: what runs is ended, the exit handler tells. Raises JobNotReady, JobNotFound."""
    found = find(cluster, job)
    if may_cancel(found):
        cluster.stop(NAME_PREFIX + found["job_id"], {"sixview.dev/cancelled-by": who or "cli"})
    return found | {"status": "cancelled"}


def request_cancel(cluster: Any, job: str) -> str:
    """Notes that somebody wants the job cancelled. Returns when, ISO 8601."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cluster.patch(NAME_PREFIX + job, {"metadata": {"annotations": {ASKED: now}}})
    return now


def retry(cluster: Cluster, job: str) -> View:
    """Goes on with a job from the step that failed, or from the first where what the others have left is gone from the store.
    QUIET_SECONDS after its end at the earliest: until then it waits. Raises JobNotReady where it has not failed, JobExpired where
    it, or its input, is gone."""
    found = find(cluster, job)
    if found["status"] not in ("failed", "cancelled") or not found["ended_at"]:
        raise JobNotReady(f"The job {job} is {found['status']}: only a job that has failed can be tried again.")
    workflow = cluster.get(NAME_PREFIX + found["job_id"])
    if workflow is None:
        raise JobExpired(f"The workflow of the job {job} is gone from the cluster.")
    address = job_status.parameters(workflow).get("input", "")
    if not input_is_there(address):
        raise JobExpired(f"The input of the job {job} is gone: nothing lies at {address}.")
    time.sleep(quiet_in(workflow, datetime.now(UTC)))
    cluster.retry(
        NAME_PREFIX + found["job_id"],
        from_start=any(s3.head(key) is None for key in retries.kept_artifact_keys(workflow)),
    )
    s3.remove(f"s3://{s3.bucket()}/{s3.record_key(found['folder'])}")
    return find(cluster, job)


def input_is_there(address: str) -> bool:
    """Whether a set lies at an address. Of a bucket that these keys may not read, the job itself finds out."""
    try:
        name, key = s3.split(address)
    except ValueError:
        return True  # the job says so itself
    return name != s3.bucket() or next(s3.listed(key), None) is not None


def quiet_in(workflow: dict[str, Any], now: datetime) -> float:
    """Seconds until Argo no longer kills pods for what has ended; at most QUIET_SECONDS, whatever the clocks say."""
    ended = reading.parse_time(workflows.read(workflow)["status"]["finishedAt"])
    since = (now - ended).total_seconds() if ended else 0.0
    return min(QUIET_SECONDS, max(0.0, QUIET_SECONDS - since))


# -- results ------------------------------------------------------------------------------------------------------------


def result(view: View) -> tuple[str, dict[str, Any]]:
    """Key and head of a completed job's result.zip. Raises JobNotReady (details: progress), JobFailed (details: the failure),
    IncompleteResults (details: missing) and JobExpired."""
    job, error = view["job_id"], view["error"] or {}
    if view["status"] in ("queued", "processing"):
        raise JobNotReady(f"The job {job} is {view['status']} ({view['progress']} %).", progress=view["progress"])
    if error.get("code") == IncompleteResults.code:
        missing = reading.sequence(error["details"].get("missing"))
        raise IncompleteResults(error["message"], error["suggestion"], missing=missing)
    if view["status"] != "completed":
        record = error or Cancelled("The job was stopped.").record()
        raise JobFailed(
            f"The job {job} has {_past(view['status'])}: {record['message']}", record["suggestion"], failure=record
        )
    key = s3.key_of(view["folder"], "result.zip")
    found = s3.head(key)
    if found is None:
        raise JobExpired(f"The result of the job {job} is no longer kept.")
    return key, found


def _past(status: str) -> str:
    return "been cancelled" if status == "cancelled" else status


def source(address: str) -> tuple[str, str]:
    """Bucket and key of an input's address, as every store reads them: without doubled or closing slashes. Raises
    ValidationFailed for what names no set, or not the same one to everybody: `.` and `..`, backslashes, control characters."""
    how = "Give s3://bucket/prefix or s3://bucket/set.zip."
    scheme, separator, rest = address.partition("://")
    try:
        bucket, key = s3.split(scheme.lower() + separator + rest)
    except ValueError:
        raise ValidationFailed(f"{shown(address)!r} is no address in S3.", how, field="input") from None
    parts = [part for part in key.split("/") if part]
    strange = not address.isprintable() or "\\" in address or "{{" in address or not BUCKET.fullmatch(bucket)
    if strange or not parts or {".", ".."} & set(parts) or len(address) > MOST_ADDRESS:
        raise ValidationFailed(f"{shown(address)!r} names no set.", how, field="input")
    return bucket, "/".join(parts)


def allowed_source(address: str, buckets: tuple[str, ...]) -> str:
    """An address in one of these buckets, in the form that `source` gives it, and not where other people's jobs lie. Raises
    ValidationFailed for anything else."""
    bucket, key = source(address)
    if bucket not in buckets or (bucket == s3.bucket() and any(map(_is_ours, _readings(key)))):
        raise ValidationFailed(
            f"Inputs are not taken from {shown(address)!r}.",
            f"Allowed are sets in {', '.join(buckets) or 'no bucket'}; or upload the twelve files.",
            field="input",
        )
    return f"s3://{bucket}/{key}"


def _is_ours(key: str) -> bool:
    return f"{key}/".startswith(s3.PREFIXES)


def _readings(key: str) -> list[str]:
    """The key, and what it becomes wherever something on the way decodes it once more."""
    found = [key]
    while (decoded := posixpath.normpath("/" + unquote(found[-1]).replace("\\", "/")).lstrip("/")) != found[-1]:
        found.append(decoded)
    return found


def shown(address: str) -> str:
    return address if len(address) <= 200 else f"{address[:200]}…"


def options_from(given: Any, known: dict[str, Any]) -> dict[str, str]:
    """A job's options as text. known: the template's parameters, as the cluster has them, which may offer less than a job can be
    asked for. Raises ValidationFailed, which names each that is wrong."""
    if not isinstance(given, dict):
        raise ValidationFailed("The options are not a JSON object.", 'Write {"model": "nvdiffrec"}, for example.')
    found = {str(name).replace("_", "-"): value for name, value in given.items()}
    if len(found) < len(given):
        raise ValidationFailed("An option is given twice, with hyphens and with underscores.", "Leave one out.")
    allowed = wrong(found)
    for name, value in found.items():
        offered = known.get(name, {}).get("enum")
        if name not in known:
            allowed[name] = None
        elif name not in allowed and offered and str(value) not in offered:
            allowed[name] = f"one of {', '.join(offered)}"
    if allowed:
        raise refusal(found, allowed)
    return {name: str(value) for name, value in found.items()}


def known_options(cluster: Cluster, template: str) -> dict[str, Any]:
    """The parameters of a WorkflowTemplate, by name. Raises ValidationFailed where there is none."""
    found = cluster.template(template)
    if found is None:
        raise ValidationFailed(
            f"There is no WorkflowTemplate {template} in the namespace {cluster.namespace}.",
            "Install the chart, or name the template.",
        )
    return {item["name"]: item for item in found["spec"]["arguments"]["parameters"]}


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
