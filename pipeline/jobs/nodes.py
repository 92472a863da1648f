"""A workflow's nodes, as Argo keeps them: which step a pod ran, for which model, how the steps ended."""

from __future__ import annotations

from typing import Any

from pipeline.clients import workflows
from pipeline.clients.reading import mapping, text
from steps.runtime.contract import MODELS

Node = dict[str, Any]
MOST_WARNINGS = 10  # of a job, in its record and its view


def step_nodes(workflow: dict[str, Any]) -> list[Node]:
    """The steps' pods, attempt by attempt, in the order in which they began."""
    nodes = workflows.read(workflow)["status"]["nodes"].values()
    pods = [node for node in nodes if node["type"] == "Pod" and node["templateName"] != "report"]
    return sorted(pods, key=lambda node: (node["startedAt"], node["id"]))


def outputs(node: Node) -> dict[str, str]:
    """A node's output parameters."""
    given = mapping(node.get("outputs")).get("parameters") or []
    return {item["name"]: item["value"] for item in given if "value" in item}


def warnings_of(steps: list[Node]) -> list[str]:
    """What the steps warn of, in their order; the same words once, however many attempts said them."""
    lines = [line for node in steps for line in text(outputs(node).get("warnings")).splitlines() if line]
    return list(dict.fromkeys(lines))[:MOST_WARNINGS]


def step_of(node: Node) -> str:
    """The step that a pod ran, by its template: reconviagen-pod, reconviagen-quality."""
    return str(node.get("templateName", "")).removesuffix("-pod").rpartition("-")[2]


def model_of(node: Node) -> str:
    """The model that a pod worked for, empty where for none."""
    name = str(node.get("templateName", "")).partition("-")[0]
    return name if name in MODELS else ""


def tasks_phase(workflow: dict[str, Any]) -> str:
    """How the steps ended as a whole, whatever became of the exit handler afterwards."""
    workflow = workflows.read(workflow)
    root = workflow["status"]["nodes"].get(workflow["metadata"]["name"], {})
    return str(root.get("phase") or workflow["status"]["phase"])


def first_failure(steps: list[Node]) -> Node | None:
    """The last attempt of the first step that never succeeded. Nodes that a stop ends before they have begun may all be of one
    second: package, which comes after every other, is only looked at where nothing else has failed."""
    attempts: dict[str, list[Node]] = {}
    for node in steps:
        attempts.setdefault(node["templateName"], []).append(node)
    failed = [tries[-1] for tries in attempts.values() if not any(t["phase"] == "Succeeded" for t in tries)]
    failed.sort(key=lambda node: step_of(node) == "package")
    return next((node for node in failed if node["phase"] in ("Failed", "Error")), None)


def pod_of(node: Node, pods: list[dict[str, Any]]) -> dict[str, Any]:
    """A node's pod, empty where Kubernetes has forgotten it."""
    known = "workflows.argoproj.io/node-id"
    return next((p for p in pods if p["metadata"].get("annotations", {}).get(known) == node["id"]), {})
