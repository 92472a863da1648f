"""Workflow objects of running jobs, for tests."""

from __future__ import annotations

import copy
from typing import Any

WORKFLOW: dict[str, Any] = {
    "metadata": {
        "name": "sixview-abc12345",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"sixview.dev/owner": "alice", "sixview.dev/source": "http"},
    },
    "spec": {
        "workflowTemplateRef": {"name": "sixview"},
        "arguments": {"parameters": [{"name": "model", "value": "both"}]},
    },
    "status": {"phase": "Running", "nodes": {}},
}


def with_nodes(*nodes: tuple[str, str, str], **status: Any) -> dict[str, Any]:
    """A workflow with pods (template, phase, progress)."""
    wf = copy.deepcopy(WORKFLOW)
    for i, (template, phase, progress) in enumerate(nodes):
        wf["status"]["nodes"][f"n{i}"] = {
            "id": f"sixview-abc12345-{i}",
            "name": f"sixview-abc12345.{template}",
            "displayName": template,
            "type": "Pod",
            "templateName": template,
            "phase": phase,
            "progress": progress,
            "startedAt": f"2026-01-01T00:00:0{i}Z",
        }
    wf["status"].update(status)
    return wf
