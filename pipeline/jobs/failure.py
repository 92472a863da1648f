"""How a workflow ended, and what it failed of: from its nodes, where every step left its own record if it could write at all, and
from the pods' states for what no step can say: a lost node, an image that cannot be had."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.clients import reading, workflows
from pipeline.clients.reading import MOST_RECORD, text
from pipeline.jobs import pending
from pipeline.jobs import pod_messages as says
from pipeline.jobs.nodes import (
    Node,
    first_failure,
    model_of,
    outputs,
    pod_of,
    step_nodes,
    step_of,
    warnings_of,
)
from steps.runtime.contract import FIRST_STAGE, MODELS
from steps.runtime.errors import (
    OOM_TYPES,
    Cancelled,
    ConfigurationError,
    DiskFull,
    GpuUnavailable,
    ImageUnavailable,
    Interrupted,
    Killed,
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
from steps.runtime.options import SET, refusal, wrong

# what the exit handler's node shows, and what stands there where there is nothing to say
RECORD = {
    "status": "failed",
    "error-code": "",
    "stage": "",
    "oom-type": "none",
    "model": "",
    "engine": "",
    "message": "",
    "warnings": "",
    "earlier-attempts": "",
    "failure": "",
}
ENDED_BY = (
    "sixview.dev/ended-by"  # annotation of a workflow that the reconciler stopped: {"code", "reason", "suggestion"}
)


def describe(workflow: dict[str, Any], pods: list[dict[str, Any]], status: str) -> dict[str, str]:
    """Every value of RECORD. workflow: as the API server has it; pods: its pods; status: how its tasks ended."""
    workflow = workflows.read(workflow)
    steps = step_nodes(workflow)
    values = dict(RECORD, status="completed", **_asked(workflow, steps))
    values["warnings"] = "\n".join(warnings_of(steps))
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


def _asked(workflow: dict[str, Any], steps: list[Node]) -> dict[str, str]:
    """The model that was asked for, the engines that were used, and what it took."""
    given = workflow["spec"]["arguments"]["parameters"]
    stored = workflow["status"]["storedWorkflowTemplateSpec"]["arguments"]["parameters"]
    asked = {item["name"]: text(item.get("value")) for item in [*stored, *given]}
    engines = [outputs(node).get("engine", "") for node in steps if model_of(node) and step_of(node) in MODELS]
    tried = {node["templateName"]: outputs(node).get("earlier-attempts", "") for node in steps}
    told = "; ".join(f"{model_of({'templateName': name})}: {text}" for name, text in tried.items() if text)
    return {
        "model": asked.get("model", ""),
        "engine": ".".join(dict.fromkeys(e for e in engines if e)),
        "earlier-attempts": told,
    }


# -- what went wrong ----------------------------------------------------------------------------------------------------


def failure(workflow: dict[str, Any], steps: list[Node], pods: list[dict[str, Any]]) -> Record:
    """The record of the first failure that no later attempt made good."""
    node = first_failure(steps)
    if workflow.get("spec", {}).get("shutdown"):
        return stopped(workflow, node, steps)
    if node is None:
        return completed(without_step(workflow), None, steps)
    return completed(of_node(node, pods, workflow), node, steps)


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


def without_step(workflow: dict[str, Any]) -> StepError:
    """Why a workflow ended in which no step had failed."""
    handler = [n for n in workflow["status"]["nodes"].values() if n["templateName"] == "report"]
    refused = [n for n in handler if pending.REFUSED.search(n["message"])]
    if refused:  # every step did its work, and the exit handler's pod could not be made
        wait = pending.fault("report", refused[-1]["message"])
        return ConfigurationError(wait.reason, wait.advice)
    message = workflow.get("status", {}).get("message") or "The workflow ended before any step had failed."
    if says.found(says.LATE, message):
        return ModelTimeout(f"Argo ended the workflow: {message}.")
    return UnknownError(message, "Read the workflow in the Argo UI.")


def of_node(node: Node, pods: list[dict[str, Any]], workflow: dict[str, Any]) -> StepError | Record:
    """What a failed pod says of itself, and where it could not, what Argo and the kubelet say of it."""
    message = node.get("message") or ""
    told = outputs(node).get("failure", "")
    own = reading.failure(told, MOST_RECORD) or (
        reading.unreadable("The failure record that the step left") if told else None
    )
    pod = pod_of(node, pods)
    if says.found(says.LIMIT, message):
        return DiskFull(
            f"The pod was ended for its use of disk: {message.strip()}",
            "Raise that limit: the volume's sizeLimit, or the containers' ephemeral-storage, which a LimitRange may set.",
        )
    if says.found(says.LOST, message):
        return NodeLost(f"The pod was lost: {message.strip().rstrip('.')}.")
    if own and own["code"] == "KILLED" and ("OOMKilled" in message or _oom_killed(pod)):
        return (
            own | ModelOom("The kernel killed the container for want of memory.").record() | {"details": own["details"]}
        )
    late = says.found(says.LATE, message)
    if own is None or own["code"] in ("INTERRUPTED", "KILLED"):
        ended = says.disruption(pod)
        if ended and not late:
            return NodeLost(f"The pod was lost: {ended.strip().rstrip('.')}.")
    if own and own["code"] == "INTERRUPTED" and not late:  # nobody has stopped the job
        return NodeLost("The pod was lost: Kubernetes ended it (SIGTERM) while its step was working.")
    if own and own["code"] != "INTERRUPTED":
        return own
    if late:
        return ModelTimeout(f"Kubernetes ended the pod: {message}.")
    return _outside(message, node, workflow)


def _outside(message: str, node: Node, workflow: dict[str, Any]) -> StepError:
    if known := _of_exit_code(message):
        return known
    given = {p["name"]: text(p.get("value")) for p in workflow["spec"]["arguments"]["parameters"]}
    source, first = given.pop(SET, ""), step_of(node) == "validate"
    if first and (allowed := wrong(given)):
        return refusal(given, allowed)  # validate could not even begin to say so
    if pending.REFUSED.search(message):
        wait = pending.fault(str(node.get("templateName", "")), message)
        return ConfigurationError(wait.reason, wait.advice)
    if first and (not re.match(r"s3://[^/]+/.", source) or re.search(r"[{}]", source)):
        return ValidationFailed(
            f"The input {source!r} is not an address in S3.",
            "Give input=s3://bucket/prefix or s3://bucket/set.zip.",
            field="input",
        )
    if says.found(says.NO_IMAGE, message):
        return ImageUnavailable(message)
    if says.found(says.NO_GPU, message):
        return GpuUnavailable(message, "Look at the node's NVIDIA driver and container toolkit.")
    if re.search(r"artifact '?input\b", message):
        return _of_input(message, source)
    return _of_store(message)


def _of_exit_code(message: str) -> StepError | None:
    """What the step's exit code alone says, where its outputs were lost: the node failed while Argo read them, or before."""
    told = re.match(r"main: (\w+) \(exit code (\d+)\)", message)
    if told is None:
        return None
    reason, number = told[1], int(told[2])
    if reason == "OOMKilled":
        return ModelOom("The kernel killed the container for want of memory.")
    if number == Interrupted.exit_code:
        return NodeLost("The pod was lost: Kubernetes ended it (SIGTERM) while its step was working.")
    if number == says.SIGKILLED:  # before the step could write that it began
        return Killed("The container was killed as a whole.")
    ours = [error for error in by_code().values() if error.exit_code == number]
    if len(ours) != 1:  # several errors have 1, 10 and 40
        return None
    return ours[0](f"The step ended with exit code {number}; what it said was lost.")


def _of_input(message: str, source: str) -> StepError:
    """Why the input could not be fetched: an address at which nothing can be had is the user's to correct."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if says.found(says.NO_BUCKET, message):
        return ValidationFailed(f"There is no bucket {bucket!r} in the store.", "Correct the input.", field="input")
    if says.found(says.NO_KEY, message):
        return ValidationFailed(f"Nothing lies at {source}.", "Upload the set, or correct the input.", field="input")
    if says.found(says.BAD_NAME, message):
        return ValidationFailed(f"{source} cannot be an address in S3: {message}.", "Correct the input.", field="input")
    if says.found(says.OTHER_REGION, message):
        return ValidationFailed(
            f"The bucket {bucket!r} lies in another region than the store that this installation reads: {message}.",
            "Copy the set into a bucket of the store's own region.",
            field="input",
        )
    if says.found(says.REFUSED, message):
        return StorageUnavailable(
            f"The store does not let the installation's keys read {source}: {message}.",
            f"Let the keys of the chart's Secret read {key} and list the bucket {bucket}, or copy the set into another one.",
        )
    return StorageUnavailable(message)


def _of_store(message: str) -> StepError:
    """Of the job's own files in the installation's own bucket."""
    if says.found(says.NO_KEY, message):
        return StorageUnavailable(
            f"A file that an earlier step had left is gone from the store: {message}.",
            "Submit the set again; see whether the bucket's lifecycle removes jobs/ sooner than jobs end.",
        )
    if says.found(says.REFUSED, message):
        return StorageUnavailable(
            f"The store refuses the installation's keys: {message}.",
            "Correct the keys in the chart's Secret, or what they may do: they read, write and list the bucket.",
        )
    if says.found(says.NO_BUCKET, message):
        return StorageUnavailable(message, "Correct `s3.bucket` in the values, or create the bucket.")
    if says.found(says.OTHER_REGION, message):
        return StorageUnavailable(
            message, "Set `s3.endpoint` in the values to the endpoint of the bucket's own region."
        )
    if says.found(says.STORE, message):
        return StorageUnavailable(message)
    return UnknownError(message or "The pod ended without a word.", "Read the pod's log in the Argo UI.")


def _oom_killed(pod: dict[str, Any]) -> bool:
    """Whether the kubelet says so of the pod's main container."""
    states = [c.get("state", {}) for c in pod.get("status", {}).get("containerStatuses") or [] if c["name"] == "main"]
    return any((s.get("terminated") or {}).get("reason") == "OOMKilled" for s in states)


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
