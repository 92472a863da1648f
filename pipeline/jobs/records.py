"""A job's final record: one small object in S3 that outlives the workflow and never expires.

The exit handler writes it; where that could not run (`argo terminate`, an unavailable store), the reconciler does."""

from __future__ import annotations

import json
from typing import Any

from pipeline.clients import reading, s3, workflows
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import status

View = dict[str, Any]
KEPT = (
    "job_id",
    "status",
    "model_type",
    "stage",
    "engine",
    "created_at",
    "ended_at",
    "error",
    "warnings",
    "owner",
    "source",
    "priority",
    "workflow",
)
MOST_ANNOTATION = 16384  # characters; Kubernetes allows 256 kB for all of an object's annotations
PURGED_CODES = ("CANCELLED", "MODEL_TIMEOUT")  # error codes after which inputs and intermediates are deleted at once
KEPT_INTERMEDIATES = ("failure.json", "report.html", "outputs/")


def read(job: str) -> View | None:
    """The view of a job that has ended; None where there is no record. What is wrong with a record is told in its error."""
    found = s3.find_record(job)
    return None if found is None else status.of_record(found) | {"job_id": job, "workflow": NAME_PREFIX + job}


def record(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """How a workflow ended. changes: what its own state does not say yet, as its exit handler still runs."""
    workflow = workflows.read(workflow)
    view = status.view(workflow) | (changes or {})
    return {**{name: view[name] for name in KEPT}, "drop": drop_of(workflow)}


def drop_of(workflow: dict[str, Any]) -> dict[str, str] | None:
    """The drop that a workflow was made for; None where for none, or where its annotation cannot be read."""
    given = reading.mapping(reading.json_of(workflow["metadata"]["annotations"].get("sixview.dev/drop", "null")))
    return {name: reading.text(value) for name, value in given.items()} if reading.text(given.get("name")) else None


def annotation(workflow: dict[str, Any], changes: dict[str, Any]) -> str:
    """The record in JSON, to be left on the workflow; empty where it is too long for that."""
    told = json.dumps({name: value for name, value in record(workflow, changes).items() if name != "drop"})
    return told if len(told) <= MOST_ANNOTATION else ""


def write(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> tuple[dict[str, Any], View]:
    """Stores a workflow's final record in S3. changes: as in `record`. Returns the record and the job's status."""
    final = record(workflow, changes)
    view = status.view(workflow) | (changes or {})
    s3.write_json(s3.record_key(view["folder"]), final)
    return final, view


def purge(view: View) -> None:
    """Deletes a job's uploads and intermediates; its record, report and logs stay."""
    # uploads are keyed by job id, which is also part of other workflows' names
    if view["workflow"] == NAME_PREFIX + view["job_id"]:
        s3.purge(f"{s3.INPUTS}{view['job_id']}/")
        s3.purge(f"{s3.INPUTS}{view['job_id']}.")
    prefix = f"{s3.INTERMEDIATES}{view['folder']}/"
    s3.purge(prefix, keep=tuple(prefix + name for name in KEPT_INTERMEDIATES))
    s3.purge(s3.key_of(view["folder"], "result.zip"))
