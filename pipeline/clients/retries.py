"""`argo retry` for clients of the API server: edits a finished workflow so that Argo's controller continues it.

status.nodes records what has run. Nodes of tasks that succeeded or were skipped stay; failed and omitted ones, package and the
exit handler are removed. The controller then creates the missing pods."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import workflows
from steps.runtime.errors import ValidationFailed

REMOVED_LABELS = ("workflows.argoproj.io/completed",)
PHASE_LABEL = "workflows.argoproj.io/phase"  # set here: the controller updates it only when it changes the phase itself
REMOVED_PREFIX = "sixview.dev/"
KEPT_KEYS = ("sixview.dev/owner", "sixview.dev/source", "sixview.dev/model", "sixview.dev/drop", "sixview.dev/folder")
REMOVED_SPEC = ("shutdown", "suspend")
REMOVED_STATUS = ("message", "finishedAt", "conditions", "outputs", "artifactGCStatus", "taskResultsCompletionStatus")


def restarted(workflow: dict[str, Any], from_start: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The workflow to write back, and the names of the pods to delete. from_start: repeats every step. Raises ValidationFailed
    where the workflow or its nodes cannot be parsed."""
    parsed = workflows.read(workflow)
    sections = (workflow.get(section) for section in ("metadata", "spec", "status"))
    if parsed.parse_errors or not all(
        isinstance(section, dict) for section in sections
    ):  # it could not be written back
        raise ValidationFailed(
            f"The workflow cannot be read: {'; '.join(parsed.parse_errors)}.", "Submit the job again."
        )
    result = copy.deepcopy(dict(workflow))
    metadata, status = result["metadata"], result["status"]
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if _is_kept_label(k)} | {
        PHASE_LABEL: "Running"
    }
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {
        k: v for k, v in annotations.items() if k in KEPT_KEYS or not k.startswith(REMOVED_PREFIX)
    }
    for spec in (result["spec"], status.get("storedWorkflowTemplateSpec") or {}):  # the controller reads its copy
        for name in REMOVED_SPEC:
            spec.pop(name, None)
    nodes, parsed_nodes = status.get("nodes") or {}, parsed["status"]["nodes"]
    if metadata["name"] not in nodes:  # compressedNodes, or offloaded to Argo's database
        raise ValidationFailed("The workflow's nodes cannot be read.", "Use `argo retry`, or --argo-server.")
    root, kept_ids = nodes[metadata["name"]], set() if from_start else kept_nodes(parsed_nodes, metadata["name"])
    deleted_pods = [
        pod_name(parsed, n) for key, n in parsed_nodes.items() if n["type"] == "Pod" and key not in kept_ids
    ]
    root.update(phase="Running", message="", finishedAt=None)
    status["nodes"] = {key: node for key, node in nodes.items() if key in kept_ids or node is root}
    _remove_dangling_links(status["nodes"])
    for name in REMOVED_STATUS:
        status.pop(name, None)
    status["phase"] = "Running"
    status["startedAt"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return result, deleted_pods


def kept_nodes(nodes: dict[str, dict[str, Any]], name: str) -> set[str]:
    """Ids of the nodes of tasks that succeeded or were skipped, with all nodes inside them (also failed attempts of a task that
    then succeeded). Not package, whose inputs change, nor the exit handler."""

    def is_finished_task(node: dict[str, Any]) -> bool:
        is_repeated = node["name"].startswith((f"{name}.onExit", f"{name}.package"))
        return node.get("boundaryID") == name and node["phase"] in ("Succeeded", "Skipped") and not is_repeated

    tasks = [node["name"] for node in nodes.values() if is_finished_task(node)]
    return {key for key, node in nodes.items() if any(_within(node["name"], task) for task in tasks)}


def kept_artifact_keys(workflow: dict[str, Any]) -> list[str]:
    """S3 keys of the kept nodes' output artifacts, which the repeated steps read; without logs."""
    nodes = workflow.get("status", {}).get("nodes") or {}
    kept = [nodes[key] for key in kept_nodes(nodes, workflow["metadata"]["name"])]
    artifacts = [
        a for node in kept if node["type"] == "Pod" for a in (node.get("outputs") or {}).get("artifacts") or []
    ]
    input_artifacts = [a for a in artifacts if not a["name"].endswith("-logs")]
    return sorted({a["s3"]["key"] for a in input_artifacts if (a.get("s3") or {}).get("key")})


def _within(node: str, task: str) -> bool:
    """Whether a node is a task or inside it, by its name: job.task, job.task(0), job.task.inner."""
    return node == task or node.startswith((f"{task}.", f"{task}("))


def pod_name(workflow: dict[str, Any], node: dict[str, Any]) -> str:
    """The name that Argo gives a node's pod (its v2 pod names)."""
    name = workflow["metadata"]["name"]
    return str(node["id"]) if node["id"] == name else f"{name}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def _is_kept_label(label: str) -> bool:
    return label in KEPT_KEYS or not (label in REMOVED_LABELS or label.startswith(REMOVED_PREFIX))


def _remove_dangling_links(nodes: dict[str, dict[str, Any]]) -> None:
    for node in nodes.values():
        for kind in ("children", "outboundNodes"):
            if isinstance(node.get(kind), list):
                node[kind] = [child for child in node[kind] if isinstance(child, str) and child in nodes]
