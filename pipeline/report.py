"""The exit handler: one record of how a workflow ended. `python -m pipeline.report NAMESPACE WORKFLOW STATUS FOLDER`.

It reads the workflow's nodes, where every step left its own record if it could write at all, and the pods' states for what no
step can say: a lost node, an image that cannot be had. It writes RECORD's files and failure.json to FOLDER, from where Argo
takes them, and labels the workflow for `kubectl get workflows -L`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import pending
from steps.contracts import FIRST_STAGE, MODELS
from steps.errors import (
    OOM_TYPES,
    Cancelled,
    ConfigurationError,
    ImageUnavailable,
    ModelOom,
    ModelTimeout,
    NodeLost,
    Record,
    StepError,
    StorageUnavailable,
    UnknownError,
    ValidationFailed,
    by_code,
)

Node = dict[str, Any]
# what the exit handler's node shows, and what stands there where there is nothing to say
RECORD = {
    "status": "failed",
    "error-code": "",
    "stage": "",
    "oom-type": "none",
    "model": "",
    "engine": "",
    "message": "",
    "earlier-attempts": "",
    "failure": "",
}
LABELS = ("status", "error-code", "stage", "oom-type", "model", "engine")
PREFIX = "sixview.dev/"
ENDED_BY = PREFIX + "ended-by"  # annotation of a workflow that the reconciler stopped: {"code", "reason", "suggestion"}

# what Argo and the kubelet say of a pod; the first two stand in the workflow, too, in a syntax that Go reads as well. Go's
# "context deadline exceeded" is no deadline of the pod's, but a server that did not answer in time
LOST = "(?i)pod deleted|evict|node shutdown|preempt|node ?lost"
LATE = "(?i)(specified|its) deadline"
IMAGE = re.compile(r"ImagePull|ErrImage|InvalidImageName")
STORE = re.compile(
    r"artifact|s3|bucket|failed to (?:put|get|load|save|stat)|access ?denied|no such key|connection refused",
    re.IGNORECASE,
)


def describe(workflow: dict[str, Any], pods: list[dict[str, Any]], status: str) -> dict[str, str]:
    """Every value of RECORD. workflow: as the API server has it; pods: its pods; status: how its tasks ended."""
    steps = step_nodes(workflow)
    values = dict(RECORD, status="completed", **_asked(workflow, steps))
    record = failure(workflow, steps, pods) if status != "Succeeded" else None
    if record is None:
        return values
    details = record["details"]
    return values | {
        "status": "cancelled" if record["code"] == Cancelled.code else "failed",
        "error-code": record["code"],
        "stage": details["pipeline_stage"],
        "oom-type": details["oom_type"],
        "model": details["model"] or values["model"],
        "engine": details["engine"] or values["engine"],
        "message": record["message"],
        "failure": json.dumps(record),
    }


def step_nodes(workflow: dict[str, Any]) -> list[Node]:
    """The steps' pods, attempt by attempt, in the order in which they began. Large workflows keep their nodes packed."""
    status = workflow.get("status", {})
    nodes = status.get("nodes") or {}
    if not nodes and status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    pods = [node for node in nodes.values() if node["type"] == "Pod" and node.get("templateName") != "report"]
    return sorted(pods, key=lambda node: (node.get("startedAt") or "", node["id"]))


def outputs(node: Node) -> dict[str, str]:
    """A node's output parameters."""
    given = node.get("outputs", {}).get("parameters", [])
    return {item["name"]: item["value"] for item in given if "value" in item}


def _asked(workflow: dict[str, Any], steps: list[Node]) -> dict[str, str]:
    """The model that was asked for, the engines that were used, and what it took."""
    given = workflow.get("spec", {}).get("arguments", {}).get("parameters", [])
    stored = workflow.get("status", {}).get("storedWorkflowTemplateSpec", {}).get("arguments", {}).get("parameters", [])
    asked = {item["name"]: item.get("value", "") for item in [*stored, *given]}
    engines = [outputs(node).get("engine", "") for node in steps if model_of(node) and step_of(node) in MODELS]
    tried = {node["templateName"]: outputs(node).get("earlier-attempts", "") for node in steps}
    told = "; ".join(f"{model_of({'templateName': name})}: {text}" for name, text in tried.items() if text)
    return {
        "model": asked.get("model", ""),
        "engine": ".".join(dict.fromkeys(e for e in engines if e)),
        "earlier-attempts": told,
    }


def step_of(node: Node) -> str:
    """The step that a pod ran, by its template: reconviagen-pod, reconviagen-quality."""
    return str(node.get("templateName", "")).removesuffix("-pod").rpartition("-")[2]


def model_of(node: Node) -> str:
    """The model that a pod worked for, empty where for none."""
    name = str(node.get("templateName", "")).partition("-")[0]
    return name if name in MODELS else ""


# -- what went wrong ----------------------------------------------------------------------------------------------------


def failure(workflow: dict[str, Any], steps: list[Node], pods: list[dict[str, Any]]) -> Record:
    """The record of the first failure that no later attempt made good."""
    node = first_failure(steps)
    if workflow.get("spec", {}).get("shutdown"):
        return stopped(workflow, node, steps)
    if node is None:
        handler = [n for n in pending.packed_nodes(workflow).values() if n.get("templateName") == "report"]
        refused = [n for n in handler if pending.REFUSED.search(str(n.get("message") or ""))]
        if refused:  # every step did its work, and the exit handler's pod could not be made
            wait = pending.fault("report", refused[-1]["message"])
            return completed(ConfigurationError(wait.reason, wait.advice), None, steps)
        message = workflow.get("status", {}).get("message") or "The workflow ended before any step had failed."
        return completed(UnknownError(message, "Read the workflow in the Argo UI."), None, steps)
    return completed(of_node(node, pods, workflow), node, steps)


def first_failure(steps: list[Node]) -> Node | None:
    """The last attempt of the first step that never succeeded."""
    attempts: dict[str, list[Node]] = {}
    for node in steps:
        attempts.setdefault(node["templateName"], []).append(node)
    failed = [tries[-1] for tries in attempts.values() if not any(t["phase"] == "Succeeded" for t in tries)]
    return next((node for node in failed if node["phase"] in ("Failed", "Error")), None)


def stopped(workflow: dict[str, Any], node: Node | None, steps: list[Node]) -> Record:
    """Somebody ended the workflow: a person, or the reconciler, which leaves word."""
    word = workflow["metadata"].get("annotations", {}).get(ENDED_BY)
    return completed(ended_by(word) if word else Cancelled("The job was stopped."), node, steps)


def ended_by(word: str) -> StepError:
    """What the reconciler's annotation says. Earlier ones were plain text, and all for want of an image."""
    try:
        told = json.loads(word)
        return by_code()[told["code"]](str(told["reason"]), str(told.get("suggestion", "")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ImageUnavailable(str(word))


def of_node(node: Node, pods: list[dict[str, Any]], workflow: dict[str, Any]) -> StepError | Record:
    """What a failed pod says of itself, and where it could not, what Argo and the kubelet say of it."""
    message = node.get("message") or ""
    own: Record | None = json.loads(outputs(node).get("failure") or "null")
    if re.search(LOST, message):
        return NodeLost(f"The pod was lost: {message}.")
    if own and own["code"] == "KILLED" and ("OOMKilled" in message or _oom_killed(node, pods)):
        return (
            own | ModelOom("The kernel killed the container for want of memory.").record() | {"details": own["details"]}
        )
    if own and not (own["code"] == "INTERRUPTED" and re.search(LATE, message)):
        return own
    if re.search(LATE, message):
        return ModelTimeout(f"Kubernetes ended the pod: {message}.")
    return _outside(message, node, workflow)


def _outside(message: str, node: Node, workflow: dict[str, Any]) -> StepError:
    if pending.REFUSED.search(message):
        wait = pending.fault(str(node.get("templateName", "")), message)
        return ConfigurationError(wait.reason, wait.advice)
    given = {p["name"]: p.get("value", "") for p in workflow["spec"].get("arguments", {}).get("parameters", [])}
    if step_of(node) == "validate" and not re.match(r"s3://[^/]+/.", given.get("input", "")):
        return ValidationFailed(
            f"The input {given.get('input', '')!r} is not an address in S3.",
            "Give input=s3://bucket/prefix or s3://bucket/set.zip.",
        )
    if IMAGE.search(message):
        return ImageUnavailable(message)
    if STORE.search(message):
        return StorageUnavailable(message)
    return UnknownError(message or "The pod ended without a word.", "Read the pod's log in the Argo UI.")


def _oom_killed(node: Node, pods: list[dict[str, Any]]) -> bool:
    """Whether the kubelet says so of the node's main container."""
    for pod in pods:
        if pod["metadata"].get("annotations", {}).get("workflows.argoproj.io/node-id") == node["id"]:
            states = [
                c.get("state", {}) for c in pod.get("status", {}).get("containerStatuses", []) if c["name"] == "main"
            ]
            return any((s.get("terminated") or {}).get("reason") == "OOMKilled" for s in states)
    return False


def completed(what: StepError | Record, node: Node | None, steps: list[Node]) -> Record:
    """The record with every detail of the contract."""
    record = what.record() if isinstance(what, StepError) else dict(what)
    step, model = (step_of(node), model_of(node)) if node else ("", "")
    said = outputs(node) if node else {}
    engines = [outputs(n).get("engine", "") for n in steps if model and n["templateName"] == f"{model}-pod"]
    known = {
        "step": step,
        "model": model,
        "engine": next((e for e in reversed(engines) if e), ""),
        "pipeline_stage": said.get("stage") or FIRST_STAGE.get(step, ""),
        "oom_type": OOM_TYPES.get(record["code"], "none"),
        "attempts": sum(n["templateName"] == node["templateName"] for n in steps) if node else 0,
        "node": node["displayName"] if node else "",
        "argo_message": (node.get("message") or "") if node else "",
    }
    given = {name: value for name, value in record["details"].items() if value not in ("", None)}
    return record | {"details": {**known, **given, "oom_type": known["oom_type"]}}


# -- the cluster --------------------------------------------------------------------------------------------------------


def label(values: dict[str, str], namespace: str, name: str, api: Any) -> None:
    """Shows the record in lists of workflows."""
    labels = {PREFIX + key: re.sub(r"[^A-Za-z0-9_.-]", "_", values[key])[:63] or None for key in LABELS}
    patch = {"metadata": {"labels": labels}}
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
    workflow: Any = api.get_namespaced_custom_object("argoproj.io", "v1alpha1", namespace, "workflows", name)
    found = core.list_namespaced_pod(namespace, label_selector=f"workflows.argoproj.io/workflow={name}")
    pods = client.ApiClient().sanitize_for_serialization(found)["items"]  # type: ignore[no-untyped-call]
    values = describe(workflow, pods, status)
    print(json.dumps(values), flush=True)
    publish(values, Path(folder))
    label(values, namespace, name, api)
    settle(workflow, values)


def settle(workflow: dict[str, Any], values: dict[str, str]) -> None:
    """The record that outlives the workflow. A store that refuses it is not the job's failure: the record is in the labels too,
    and for drops the reconciler tries again."""
    from pipeline import records

    changes = {
        "status": values["status"],
        "error": json.loads(values["failure"] or "null"),
        "stage": values["stage"] or None,
        "engine": values["engine"].replace(".", ", ") or None,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    try:
        records.settle(workflow, changes)
    except Exception as error:
        print(f"the record could not be stored: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
