"""A finished workflow, made ready to go on from where it failed: what `argo retry` does, and the API server cannot.

Nodes are the workflow's memory. Those of pods that succeeded stay; everything that failed, was left out or looked at the result
is forgotten; the groups around them run again. The controller then makes what is missing."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import workflows
from steps.runtime.errors import ValidationFailed

FORGOTTEN_LABELS = ("workflows.argoproj.io/completed",)
PHASE = "workflows.argoproj.io/phase"  # label; the controller sets it where the phase changes, and here none does
FORGOTTEN_PREFIX = "sixview.dev/"
KEPT = ("sixview.dev/owner", "sixview.dev/source", "sixview.dev/model", "sixview.dev/drop", "sixview.dev/folder")
FORGOTTEN_ORDERS = ("shutdown", "suspend")
FORGOTTEN_STATUS = ("message", "finishedAt", "conditions", "outputs", "artifactGCStatus", "taskResultsCompletionStatus")


def restarted(workflow: dict[str, Any], anew: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The workflow as it goes on, and the names of the pods that have to go. anew: from the first step, whatever succeeded."""
    read = workflows.read(workflow)
    parts = (workflow.get(part) for part in ("metadata", "spec", "status"))
    if read.unread or not all(isinstance(part, dict) for part in parts):  # what is not read would not be written back
        raise ValidationFailed(f"The workflow cannot be read: {'; '.join(read.unread)}.", "Submit the job again.")
    again = copy.deepcopy(dict(workflow))
    metadata, status = again["metadata"], again["status"]
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if _stays(k)} | {PHASE: "Running"}
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {k: v for k, v in annotations.items() if k in KEPT or not k.startswith(FORGOTTEN_PREFIX)}
    for spec in (again["spec"], status.get("storedWorkflowTemplateSpec") or {}):  # the controller goes by its copy
        for name in FORGOTTEN_ORDERS:
            spec.pop(name, None)
    nodes, known = status.get("nodes") or {}, read["status"]["nodes"]
    if metadata["name"] not in nodes:  # a very large workflow keeps them packed, or outside of itself
        raise ValidationFailed("The workflow's nodes cannot be read.", "Use `argo retry`, or --argo-server.")
    root, kept = nodes[metadata["name"]], set() if anew else kept_nodes(known, metadata["name"])
    gone = [pod_name(read, n) for key, n in known.items() if n["type"] == "Pod" and key not in kept]
    root.update(phase="Running", message="", finishedAt=None)
    status["nodes"] = {key: node for key, node in nodes.items() if key in kept or node is root}
    _forget_links(status["nodes"])
    for name in FORGOTTEN_STATUS:
        status.pop(name, None)
    status["phase"] = "Running"
    status["startedAt"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return again, gone


def kept_nodes(nodes: dict[str, dict[str, Any]], name: str) -> set[str]:
    """The tasks that succeeded or were not asked for, with all that lies within them: a failed attempt of a task that then
    succeeded is part of it. package has to see what is made from now on, and is cheap."""

    def settled(node: dict[str, Any]) -> bool:
        looks_after = node["name"].startswith((f"{name}.onExit", f"{name}.package"))
        return node.get("boundaryID") == name and node["phase"] in ("Succeeded", "Skipped") and not looks_after

    tasks = [node["name"] for node in nodes.values() if settled(node)]
    return {key for key, node in nodes.items() if any(_within(node["name"], task) for task in tasks)}


def left_files(workflow: dict[str, Any]) -> list[str]:
    """The keys of what the kept steps have left in the bucket for those that run again; their logs are nobody's input."""
    nodes = workflow.get("status", {}).get("nodes") or {}
    kept = [nodes[key] for key in kept_nodes(nodes, workflow["metadata"]["name"])]
    artifacts = [
        a for node in kept if node["type"] == "Pod" for a in (node.get("outputs") or {}).get("artifacts") or []
    ]
    needed = [a for a in artifacts if not a["name"].endswith("-logs")]
    return sorted({a["s3"]["key"] for a in needed if (a.get("s3") or {}).get("key")})


def _within(node: str, task: str) -> bool:
    """Whether a node is a task or lies in it, by their names: job.task, job.task(0), job.task.inner."""
    return node == task or node.startswith((f"{task}.", f"{task}("))


def pod_name(workflow: dict[str, Any], node: dict[str, Any]) -> str:
    """How Argo calls a node's pod."""
    name = workflow["metadata"]["name"]
    return str(node["id"]) if node["id"] == name else f"{name}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def _stays(label: str) -> bool:
    return label in KEPT or not (label in FORGOTTEN_LABELS or label.startswith(FORGOTTEN_PREFIX))


def _forget_links(nodes: dict[str, dict[str, Any]]) -> None:
    for node in nodes.values():
        for kind in ("children", "outboundNodes"):
            if isinstance(node.get(kind), list):
                node[kind] = [child for child in node[kind] if isinstance(child, str) and child in nodes]
