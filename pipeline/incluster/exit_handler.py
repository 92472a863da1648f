"""The exit handler: writes one record of how a workflow ended.

`python -m pipeline.incluster.exit_handler NAMESPACE WORKFLOW STATUS FOLDER` writes a file for each of
`jobs.failure.EXIT_HANDLER_OUTPUTS`, and failure.json, to FOLDER, where Argo collects output parameters and artifacts; labels and
annotates the workflow; stores the record in S3.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pipeline.clients import reading, workflows
from pipeline.incluster import markers
from pipeline.jobs import records
from pipeline.jobs.failure import describe
from pipeline.jobs.status import labels_of_template

LABELS = ("status", "error-code", "stage", "oom-type", "model", "engine")
LABEL_PREFIX = "sixview.dev/"
WARNINGS = LABEL_PREFIX + "warnings"  # label: their number; annotation: one per line


def label_value(text: str) -> str:
    """A valid label value: at most 63 of [A-Za-z0-9_.-], alphanumeric at both ends; other characters become "_". May be ""."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63].strip("_.-")


def label_workflow(values: dict[str, str], record: str, namespace: str, workflow: dict[str, Any], api: Any) -> None:
    """Sets the workflow's labels, also those of its template if Argo has lost them, and annotations. values: of
    EXIT_HANDLER_OUTPUTS; record: `records.annotation`; api: CustomObjectsApi."""
    labels: dict[str, str | None] = dict(labels_of_template(workflow))
    labels |= {LABEL_PREFIX + key: label_value(values[key]) or None for key in LABELS}
    labels[WARNINGS] = str(len(values["warnings"].splitlines())) if values["warnings"] else None
    annotations = {LABEL_PREFIX + "record": record or None, WARNINGS: values["warnings"] or None}
    patch = {"metadata": {"labels": labels, "annotations": annotations}}
    name = workflows.read(workflow)["metadata"]["name"]
    api.patch_namespaced_custom_object("argoproj.io", "v1alpha1", namespace, "workflows", name, patch)


def write_outputs(values: dict[str, str], folder: Path) -> None:
    """Writes one file per output parameter, and failure.json after a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)
    if values["failure"]:
        (folder / "failure.json").write_text(json.dumps(json.loads(values["failure"]), indent=1))


@click.command()
@click.argument("namespace")
@click.argument("name", metavar="WORKFLOW")
@click.argument("status")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(namespace: str, name: str, status: str, folder: Path) -> None:
    """Record how WORKFLOW in NAMESPACE ended. STATUS is Argo's workflow.status; FOLDER gets the output parameters."""
    from kubernetes import client, config

    config.load_incluster_config()  # type: ignore[no-untyped-call]
    api, core = client.CustomObjectsApi(), client.CoreV1Api()
    response: Any = api.get_namespaced_custom_object(
        "argoproj.io", "v1alpha1", namespace, "workflows", name, _preload_content=False
    )
    workflow = workflows.read(reading.decoded(response.data))
    pod_list = core.list_namespaced_pod(namespace, label_selector=f"workflows.argoproj.io/workflow={name}")
    pods = client.ApiClient().sanitize_for_serialization(pod_list)["items"]  # type: ignore[no-untyped-call]
    values = describe(workflow, pods, status)
    print(json.dumps(values), flush=True)
    write_outputs(values, folder)
    changes = ending(values)
    label_workflow(values, records.annotation(workflow, changes), namespace, workflow, api)
    try:
        finalize(workflow, changes)
    except (
        Exception
    ) as error:  # the job has not failed for it: annotations have the record too, and the reconciler retries
        print(f"the record could not be stored: {error}", file=sys.stderr, flush=True)


def ending(values: dict[str, str], ended_at: str = "") -> dict[str, Any]:
    """Status fields for `records.record` that the workflow lacks while its exit handler runs. ended_at: default: now."""
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
        markers.write_result_marker(record["drop"]["name"])
    if record["error"] and record["error"]["code"] in records.PURGED_CODES:
        records.purge(job_status)
    return job_status


if __name__ == "__main__":
    main()
