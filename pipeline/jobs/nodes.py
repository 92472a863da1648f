"""Queries on status.nodes of a workflow: step, model, outputs and phase of its pod nodes."""

from __future__ import annotations

from typing import Any

from pipeline.clients import workflows
from pipeline.clients.reading import mapping, text
from steps.runtime.contract import MODELS

Node = dict[str, Any]
MAX_WARNINGS = 10  # of a job, in its record and its status


def step_nodes(workflow: dict[str, Any]) -> list[Node]:
    """The steps' pod nodes, one per attempt, by startedAt; without the exit handler's."""
    nodes = workflows.read(workflow)["status"]["nodes"].values()
    pods = [node for node in nodes if node["type"] == "Pod" and node["templateName"] != "report"]
    return sorted(pods, key=lambda node: (node["startedAt"], node["id"]))


def outputs(node: Node) -> dict[str, str]:
    """A node's output parameters, name -> value."""
    parameters = mapping(node.get("outputs")).get("parameters") or []
    return {item["name"]: item["value"] for item in parameters if "value" in item}


def warnings_of(steps: list[Node]) -> list[str]:
    """The steps' warnings, in order, without duplicates; at most MAX_WARNINGS."""
    lines = [line for node in steps for line in text(outputs(node).get("warnings")).splitlines() if line]
    return list(dict.fromkeys(lines))[:MAX_WARNINGS]


def step_of(node: Node) -> str:
    """Step of a pod node, from its template: reconviagen-pod -> reconviagen, reconviagen-quality -> quality."""
    return str(node.get("templateName", "")).removesuffix("-pod").rpartition("-")[2]


def model_of(node: Node) -> str:
    """Model of a pod node, from its template; "" for validate and package."""
    name = str(node.get("templateName", "")).partition("-")[0]
    return name if name in MODELS else ""


def tasks_phase(workflow: dict[str, Any]) -> str:
    """Phase of the root node: how the steps ended, independent of the exit handler."""
    workflow = workflows.read(workflow)
    root = workflow["status"]["nodes"].get(workflow["metadata"]["name"], {})
    return str(root.get("phase") or workflow["status"]["phase"])


def first_failure(steps: list[Node]) -> Node | None:
    """The last attempt of the first step without a successful one. package counts only where no other step failed: when a
    workflow is stopped, nodes that had not started may all have the same startedAt."""
    attempts: dict[str, list[Node]] = {}
    for node in steps:
        attempts.setdefault(node["templateName"], []).append(node)
    last_attempts = [
        node_attempts[-1]
        for node_attempts in attempts.values()
        if not any(t["phase"] == "Succeeded" for t in node_attempts)
    ]
    last_attempts.sort(key=lambda node: step_of(node) == "package")
    return next((node for node in last_attempts if node["phase"] in ("Failed", "Error")), None)


def pod_of(node: Node, pods: list[dict[str, Any]]) -> dict[str, Any]:
    """The node's pod; {} where it has been deleted."""
    annotation = "workflows.argoproj.io/node-id"
    return next((p for p in pods if p["metadata"].get("annotations", {}).get(annotation) == node["id"]), {})
