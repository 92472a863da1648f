"""A job's final record: one small object in S3 that outlives the workflow and never expires.

The exit handler writes it; where that could not run (`argo terminate`, an unavailable store), the reconciler does."""

from __future__ import annotations

import json
from typing import Any

from pipeline.clients import reading, s3, workflows
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import status

JobStatus = dict[str, Any]
FIELDS = (
    "job_id",
    "status",
    "model_type",
    "stage",
    "engine",
    "created_at",
    "ended_at",
    "error",
    "warnings",
    "gpu",
    "owner",
    "source",
    "priority",
    "workflow",
)
MAX_ANNOTATION = 16384  # characters; Kubernetes allows 256 kB for all of an object's annotations
PURGED_CODES = ("CANCELLED", "MODEL_TIMEOUT")  # error codes after which inputs and intermediates are deleted at once
KEPT_INTERMEDIATES = ("failure.json", "report.html", "outputs/")


def read(job: str) -> JobStatus | None:
    """Status of a finished job, from its record; None where there is no record. A malformed record gives an error in `error`."""
    final = s3.find_record(job)
    return None if final is None else status.of_record(final) | {"job_id": job, "workflow": NAME_PREFIX + job}


def record(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The final record of a workflow. changes: status fields that differ from the workflow while its exit handler runs."""
    workflow = workflows.read(workflow)
    job_status = status.of_workflow(workflow) | (changes or {})
    return {**{name: job_status[name] for name in FIELDS}, "drop": drop_of(workflow)}


def drop_of(workflow: dict[str, Any]) -> dict[str, str] | None:
    """The drop in a workflow's annotation; None where it is missing or malformed."""
    content = reading.mapping(reading.json_of(workflow["metadata"]["annotations"].get("sixview.dev/drop", "null")))
    return {name: reading.text(value) for name, value in content.items()} if reading.text(content.get("name")) else None


def annotation(workflow: dict[str, Any], changes: dict[str, Any]) -> str:
    """The record as JSON for the workflow's annotation; "" above MAX_ANNOTATION."""
    text = json.dumps({name: value for name, value in record(workflow, changes).items() if name != "drop"})
    return text if len(text) <= MAX_ANNOTATION else ""


def write(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> tuple[dict[str, Any], JobStatus]:
    """Stores a workflow's final record in S3, and its error as failure.json: the exit handler's artifact may be missing, as where
    Argo could not reach the store. changes: as in `record`. Returns the record and the job's status."""
    final = record(workflow, changes)
    job_status = status.of_workflow(workflow) | (changes or {})
    if final["error"]:
        s3.write_json(s3.key_of(job_status["folder"], "failure.json"), final["error"])
    s3.write_json(s3.record_key(job_status["folder"]), final)
    return final, job_status


def purge(job_status: JobStatus) -> None:
    """Deletes a job's uploads and intermediates; its record, report and logs stay."""
    # uploads are keyed by job id, which is also part of other workflows' names
    if job_status["workflow"] == NAME_PREFIX + job_status["job_id"]:
        s3.purge(f"{s3.INPUTS}{job_status['job_id']}/")
        s3.purge(f"{s3.INPUTS}{job_status['job_id']}.")
    prefix = f"{s3.INTERMEDIATES}{job_status['folder']}/"
    s3.purge(prefix, keep=tuple(prefix + name for name in KEPT_INTERMEDIATES))
    s3.purge(s3.key_of(job_status["folder"], "result.zip"))
