"""What stays of a job when its workflow is gone: one small object in S3, written by the exit handler, never expired.

Where the exit handler could not run (`argo terminate`, a store that was away), `settle` writes it later."""

from __future__ import annotations

import json
from typing import Any

from pipeline.clients import reading, s3, workflows
from pipeline.incluster import markers
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
PURGED_AFTER = ("CANCELLED", "MODEL_TIMEOUT")  # codes whose inputs and intermediates go at once
RECORD_OF_A_PART = ("failure.json", "report.html", "outputs/")


def read(job: str) -> View | None:
    """The view of a job that has ended; None where there is no record. What is wrong with a record is told in its error."""
    found = s3.find_record(job)
    return None if found is None else status.of_record(found) | {"job_id": job, "workflow": status.PREFIX + job}


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


def settle(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> View:
    """Writes down how a workflow ended, marks the drop it came from, and takes away what nobody wants any more. May be repeated.

    changes: as `record` has them."""
    found = record(workflow, changes)
    view = status.view(workflow) | (changes or {})
    s3.write_json(s3.record_key(view["folder"]), found)
    if found["drop"]:
        markers.mark(found["drop"]["name"])
    if found["error"] and found["error"]["code"] in PURGED_AFTER:
        forget(view)
    return view


def forget(view: View) -> None:
    """Takes a job's uploads and intermediates away; its record, report and logs stay."""
    if (
        view["workflow"] == status.PREFIX + view["job_id"]
    ):  # uploads are kept by the job's id, which others may have in their names
        s3.purge(f"{s3.INPUTS}{view['job_id']}/")
        s3.purge(f"{s3.INPUTS}{view['job_id']}.")
    prefix = f"{s3.INTERMEDIATES}{view['folder']}/"
    s3.purge(prefix, keep=tuple(prefix + part for part in RECORD_OF_A_PART))
    s3.purge(s3.key_of(view["folder"], "result.zip"))
