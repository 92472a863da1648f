"""The exit handler: one record of how a workflow ended.

`python -m pipeline.incluster.exit_handler NAMESPACE WORKFLOW STATUS FOLDER` writes RECORD's files and failure.json (see
`jobs.failure`) to FOLDER, from where Argo takes them, and labels the workflow for `kubectl get workflows -L`.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.clients import reading, workflows
from pipeline.incluster import markers
from pipeline.jobs import records
from pipeline.jobs.failure import describe

LABELS = ("status", "error-code", "stage", "oom-type", "model", "engine")
PREFIX = "sixview.dev/"
WARNINGS = PREFIX + "warnings"  # label: how many there are; annotation: a line for each


def label_value(text: str) -> str:
    """A text as Kubernetes takes it for a label: it begins and ends with a letter or a digit. Empty where nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63].strip("_.-")


def label(values: dict[str, str], record: str, namespace: str, name: str, api: Any) -> None:
    """Shows the record in lists of workflows. record: whole, in JSON, for whoever lists jobs; empty where it is too long."""
    labels = {PREFIX + key: label_value(values[key]) or None for key in LABELS}
    labels[WARNINGS] = str(len(values["warnings"].splitlines())) if values["warnings"] else None
    annotations = {PREFIX + "record": record or None, WARNINGS: values["warnings"] or None}
    patch = {"metadata": {"labels": labels, "annotations": annotations}}
    api.patch_namespaced_custom_object("argoproj.io", "v1alpha1", namespace, "workflows", name, patch)


def publish(values: dict[str, str], folder: Path) -> None:
    """The files that Argo takes from here: one for each value, failure.json only after a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)
    if values["failure"]:
        (folder / "failure.json").write_text(json.dumps(json.loads(values["failure"]), indent=1))


def main(namespace: str, name: str, status: str, folder: str) -> None:
    from kubernetes import client, config

    config.load_incluster_config()  # type: ignore[no-untyped-call]
    api, core = client.CustomObjectsApi(), client.CoreV1Api()
    answer: Any = api.get_namespaced_custom_object(
        "argoproj.io", "v1alpha1", namespace, "workflows", name, _preload_content=False
    )
    workflow = workflows.read(reading.decoded(answer.data))
    found = core.list_namespaced_pod(namespace, label_selector=f"workflows.argoproj.io/workflow={name}")
    pods = client.ApiClient().sanitize_for_serialization(found)["items"]  # type: ignore[no-untyped-call]
    values = describe(workflow, pods, status)
    print(json.dumps(values), flush=True)
    publish(values, Path(folder))
    changes = ending(values)
    label(values, records.annotation(workflow, changes), namespace, name, api)
    try:
        finalize(workflow, changes)
    except (
        Exception
    ) as error:  # the job has not failed for it: annotations have the record too, and the reconciler retries
        print(f"the record could not be stored: {error}", file=sys.stderr, flush=True)


def ending(values: dict[str, str], ended_at: str = "") -> dict[str, Any]:
    """What the record says, and the workflow's own state does not say yet. ended_at: now, where it is not given."""
    return {
        "status": values["status"],
        "error": json.loads(values["failure"] or "null"),
        "stage": values["stage"] or None,
        "engine": values["engine"].replace(".", ", ") or None,
        "ended_at": ended_at or datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def finalize(workflow: dict[str, Any], changes: dict[str, Any] | None = None) -> records.JobStatus:
    """Stores the job's record, marks its drop, and deletes the inputs and intermediates of a cancelled or timed-out job.

    changes: as in `records.record`. Idempotent. Returns the job's status."""
    record, job_status = records.write(workflow, changes)
    if record["drop"]:
        markers.mark(record["drop"]["name"])
    if record["error"] and record["error"]["code"] in records.PURGED_CODES:
        records.purge(job_status)
    return job_status


if __name__ == "__main__":
    main(*sys.argv[1:])
