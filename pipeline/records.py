"""What stays of a job when its workflow is gone: one small object in S3, written by the exit handler, never expired.

Where the exit handler could not run (`argo terminate`, a store that was away), `settle` writes it later."""

from __future__ import annotations

import json
from typing import Any

from pipeline import dropped, storage, views

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
    "owner",
    "source",
    "priority",
    "workflow",
)
PURGED_AFTER = ("CANCELLED", "MODEL_TIMEOUT")  # codes whose inputs and intermediates go at once
RECORD_OF_A_PART = ("failure.json", "report.html", "outputs/")


def read(job: str) -> View | None:
    """The view of a job that has ended; None where there is no record."""
    record = storage.record_of(job)
    return views.of_record(record) if record else None


def settle(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> View:
    """Writes down how a workflow ended, marks the drop it came from, and takes away what nobody wants any more. May be repeated.

    changes: what the workflow's own state does not say yet, as its exit handler still runs."""
    view = views.view(workflow) | (changes or {})
    record = {name: view[name] for name in KEPT}
    record["drop"] = json.loads(workflow["metadata"].get("annotations", {}).get("sixview.dev/drop", "null"))
    storage.write_json(storage.record_key(view["folder"]), record)
    if record["drop"]:
        dropped.mark(record["drop"]["name"])
    if record["error"] and record["error"]["code"] in PURGED_AFTER:
        forget(view)
    return view


def forget(view: View) -> None:
    """Takes a job's uploads and intermediates away; its record, report and logs stay."""
    if (
        view["workflow"] == views.PREFIX + view["job_id"]
    ):  # uploads are kept by the job's id, which others may have in their names
        storage.purge(f"{storage.INPUTS}{view['job_id']}/")
        storage.purge(f"{storage.INPUTS}{view['job_id']}.")
    prefix = f"{storage.PARTS}{view['folder']}/"
    storage.purge(prefix, keep=tuple(prefix + part for part in RECORD_OF_A_PART))
    storage.purge(storage.key_of(view["folder"], "result.zip"))
