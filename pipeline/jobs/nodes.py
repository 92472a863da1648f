"""Queries on status.nodes of a workflow: step, model, outputs and phase of its pod nodes."""

from __future__ import annotations

import re
from typing import Any

from pipeline.clients import workflows
from pipeline.clients.reading import mapping, text
from steps.runtime.contract import MODELS

Node = dict[str, Any]
MAX_WARNINGS = 10  # of a job, in its record and its status


def step_nodes(workflow: dict[str, Any]) -> list[Node]:
    """The steps' pod nodes, one per attempt, by startedAt, but a step's attempts in their order; without the exit handler's.

    Where an update of the workflow is lost, Argo makes a node anew: an attempt may then have started after the next one."""
    nodes = workflows.read(workflow)["status"]["nodes"].values()
    pods = [node for node in nodes if node["type"] == "Pod" and node["templateName"] != "report"]
    pods.sort(key=lambda node: (node["startedAt"], node["id"]))
    attempts: dict[str, list[Node]] = {}
    for node in pods:
        attempts.setdefault(node["templateName"], []).append(node)
    in_order = {template: iter(sorted(same, key=attempt_number)) for template, same in attempts.items()}
    return [next(in_order[node["templateName"]]) for node in pods]


def attempt_number(node: Node) -> tuple[int, int]:
    """The place of an attempt among those of its step, from the node's name: of the tasks `again` (see `workflow.oom_retry`),
    and of Argo's retries in each, as in `….again.attempt(1)`."""
    number = re.search(r"\((\d+)\)$", node["name"])
    return node["name"].split(".").count("again"), int(number[1]) if number else 0


def outputs(node: Node) -> dict[str, str]:
    """A node's output parameters, name -> value."""
    parameters = mapping(node.get("outputs")).get("parameters") or []
    return {item["name"]: item["value"] for item in parameters if "value" in item}


def warnings_of(steps: list[Node]) -> list[str]:
    """The steps' warnings, in order, without duplicates; at most MAX_WARNINGS."""
    lines = [line for node in steps for line in text(outputs(node).get("warnings")).splitlines() if line]
    return list(dict.fromkeys(lines))[:MAX_WARNINGS]


def step_name(node: Node) -> str:
    """Name of a pod node's step, as in the report: validate, reconviagen, reconviagen.quality."""
    return str(node.get("templateName", "")).removesuffix("-pod").replace("-", ".")


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
