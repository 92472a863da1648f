"""A finished workflow, from the test cluster, with the fields that this program reads and every kind of node."""

from __future__ import annotations

import copy
import json
from typing import Any

JOB = "abc12345"
NAME = f"sixview-{JOB}"
FAILURE = {
    "code": "QUALITY_THRESHOLD_FAILED",
    "message": "PSNR 18.1 dB is below 99 dB.",
    "suggestion": "Look at the pictures in the report.",
    "details": {"step": "quality", "model": "reconviagen", "pipeline_stage": "quality_metrics", "oom_type": "none"},
}
WARNING = "The pictures of left and right are exchanged."
RECORD = {
    "job_id": JOB,
    "status": "failed",
    "model_type": "reconviagen",
    "stage": "quality_metrics",
    "engine": "fusion",
    "created_at": "2026-01-01T00:00:00Z",
    "ended_at": "2026-01-01T00:01:00Z",
    "error": FAILURE,
    "owner": "alice",
    "source": "http",
    "priority": "normal",
    "warnings": [WARNING],
}
VIEW_TYPES: dict[str, tuple[type, ...]] = {
    "job_id": (str,),
    "status": (str,),
    "progress": (int,),
    "model_type": (str,),
    "current_model": (str, type(None)),
    "stage": (str, type(None)),
    "engine": (str, type(None)),
    "queue_position": (int, type(None)),
    "created_at": (str,),
    "updated_at": (str,),
    "ended_at": (str, type(None)),
    "error": (dict, type(None)),
    "note": (str, type(None)),
    "warnings": (list,),
    "gpu": (dict, type(None)),
    "owner": (str,),
    "source": (str,),
    "priority": (str,),
}


def workflow(name: str = NAME, version: int = 100) -> dict[str, Any]:
    """The workflow of a job that failed with QUALITY_THRESHOLD_FAILED."""
    metadata = {
        "name": name,
        "namespace": "sixview",
        "uid": "0b7c6f0e-6a57-4b5c-9d38-3a2f4a1f8a01",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {
            "app.kubernetes.io/name": "sixview",
            "sixview.dev/owner": "alice",
            "sixview.dev/source": "http",
            "sixview.dev/status": "failed",
            "workflows.argoproj.io/completed": "true",
            "workflows.argoproj.io/phase": "Failed",
        },
        "annotations": {"sixview.dev/drop": json.dumps({"name": "mug", "key": "drops/mug.zip", "etag": "1"})},
    }
    spec = {
        "workflowTemplateRef": {"name": "sixview"},
        "arguments": {
            "parameters": [{"name": "input", "value": "s3://b/k"}, {"name": "model", "value": "reconviagen"}]
        },
        "priority": 0,
    }
    status = {
        "phase": "Failed",
        "message": "child failed",
        "progress": "4/5",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:01:00Z",
        "nodes": {node["id"]: node for node in _nodes(name)},
        "storedWorkflowTemplateSpec": {
            "arguments": {"parameters": [{"name": "priority", "value": "normal"}, {"name": "grid", "value": "64"}]}
        },
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }


def with_record(wf: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with the exit handler's record in its annotation."""
    wf = copy.deepcopy(wf)
    record = {**RECORD, "job_id": wf["metadata"]["name"].removeprefix("sixview-"), **changes}
    wf["metadata"]["annotations"]["sixview.dev/record"] = json.dumps(record)
    return wf


def head(wf: dict[str, Any]) -> dict[str, Any]:
    """The workflow's metadata alone, as in a PartialObjectMetadataList."""
    return {"metadata": wf["metadata"]}


def _nodes(job: str) -> list[dict[str, Any]]:
    rows: list[tuple[str, str, str, str, dict[str, str]]] = [  # name, type, template, phase, outputs
        ("", "DAG", "job", "Failed", {}),
        (".validate", "Retry", "validate", "Succeeded", {}),
        (".validate(0)", "Pod", "validate", "Succeeded", {"stage": "rig", "warnings": WARNING}),
        (".reconviagen", "DAG", "reconviagen", "Succeeded", {}),
        (
            ".reconviagen.attempt(0)",
            "Pod",
            "reconviagen-pod",
            "Succeeded",
            {"engine": "fusion", "earlier-attempts": ""},
        ),
        (
            ".reconviagen-quality(0)",
            "Pod",
            "reconviagen-quality",
            "Failed",
            {"failure": json.dumps(FAILURE), "engine": "fusion"},
        ),
        (".nvdiffrec", "Skipped", "nvdiffrec", "Skipped", {}),
        (".package(0)", "Pod", "package", "Succeeded", {}),
        (".onExit(0)", "Pod", "report", "Succeeded", {"failure": json.dumps(FAILURE)}),
    ]
    return [
        {
            "id": f"{job}-{i}" if i else job,
            "name": job + name,
            "displayName": name.strip(".") or job,
            "type": kind,
            "templateName": template,
            "phase": phase,
            "message": "main: Error (exit code 12)" if phase == "Failed" else "",
            "progress": "1/1",
            "boundaryID": job if name.count(".") == 1 else "",
            "startedAt": f"2026-01-01T00:00:0{i}Z",
            "finishedAt": f"2026-01-01T00:00:1{i}Z",
            "children": [f"{job}-{i + 1}"],
            "outputs": {"parameters": [{"name": n, "value": v} for n, v in outputs.items()]},
        }
        for i, (name, kind, template, phase, outputs) in enumerate(rows)
    ]
