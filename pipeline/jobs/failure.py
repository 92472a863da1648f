"""The failure record of a finished workflow: from the steps' own records in the nodes' outputs, and from node messages and pod
statuses for failures that no step can report (lost node, image pull error)."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.clients import reading, workflows
from pipeline.clients.reading import MAX_RECORD, text
from pipeline.jobs import pending, pod_messages
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

# output parameters of the exit handler's node, and their defaults
EXIT_HANDLER_OUTPUTS = {
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
    "sixview.dev/ended-by"  # annotation by the reconciler on workflows that it stops: {"code", "reason", "suggestion"}
)


def describe(workflow: dict[str, Any], pods: list[dict[str, Any]], status: str) -> dict[str, str]:
    """A value for each of EXIT_HANDLER_OUTPUTS. workflow: from the API server; pods: its pods; status: `{{workflow.status}}`."""
    workflow = workflows.read(workflow)
    steps = step_nodes(workflow)
    values = dict(EXIT_HANDLER_OUTPUTS, status="completed", **_models_and_engines(workflow, steps))
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


def _models_and_engines(workflow: dict[str, Any], steps: list[Node]) -> dict[str, str]:
    """The output parameters model, engine (of every model step) and earlier-attempts."""
    arguments = workflow["spec"]["arguments"]["parameters"]
    template_arguments = workflow["status"]["storedWorkflowTemplateSpec"]["arguments"]["parameters"]
    parameters = {item["name"]: text(item.get("value")) for item in [*template_arguments, *arguments]}
    engines = [outputs(node).get("engine", "") for node in steps if model_of(node) and step_of(node) in MODELS]
    attempts = {node["templateName"]: outputs(node).get("earlier-attempts", "") for node in steps}
    earlier_attempts = "; ".join(
        f"{model_of({'templateName': name})}: {text}" for name, text in attempts.items() if text
    )
    return {
        "model": parameters.get("model", ""),
        "engine": ".".join(dict.fromkeys(e for e in engines if e)),
        "earlier-attempts": earlier_attempts,
    }


# -- failure records --------------------------------------------------------------------------------------------------


def failure(workflow: dict[str, Any], steps: list[Node], pods: list[dict[str, Any]]) -> Record:
    """The record of the first step that failed in all of its attempts."""
    node = first_failure(steps)
    if workflow.get("spec", {}).get("shutdown"):
        return of_shutdown(workflow, node, steps)
    if node is None:
        return with_details(of_workflow(workflow), None, steps)
    return with_details(of_node(node, pods, workflow), node, steps)


def of_shutdown(workflow: dict[str, Any], node: Node | None, steps: list[Node]) -> Record:
    """The record of a workflow with spec.shutdown: CANCELLED, or the reason in the reconciler's annotation."""
    annotation = workflow["metadata"].get("annotations", {}).get(ENDED_BY)
    return with_details(of_annotation(annotation) if annotation else Cancelled("The job was stopped."), node, steps)


def of_annotation(annotation: str) -> StepError:
    """The error in the reconciler's annotation. Old annotations are plain text: IMAGE_UNAVAILABLE."""
    try:
        content = json.loads(annotation)
        return by_code()[content["code"]](str(content["reason"]), str(content.get("suggestion", "")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ImageUnavailable(str(annotation))


def of_workflow(workflow: dict[str, Any]) -> StepError:
    """The error of a workflow that failed without a failed step."""
    exit_handlers = [n for n in workflow["status"]["nodes"].values() if n["templateName"] == "report"]
    rejected = [n for n in exit_handlers if pending.POD_REJECTED.search(n["message"])]
    if rejected:  # the steps succeeded, but the exit handler's pod was not admitted
        wait = pending.configuration_error("report", rejected[-1]["message"])
        return ConfigurationError(wait.reason, wait.advice)
    message = workflow.get("status", {}).get("message") or "The workflow ended before any step had failed."
    if pod_messages.matches(pod_messages.DEADLINE, message):
        return ModelTimeout(f"Argo ended the workflow: {message}.")
    return UnknownError(message, "Read the workflow in the Argo UI.")


def of_node(node: Node, pods: list[dict[str, Any]], workflow: dict[str, Any]) -> StepError | Record:
    """The step's own record, unless the node's message or the pod's status shows a cause outside of the step."""
    message = node.get("message") or ""
    output = outputs(node).get("failure", "")
    step_record = reading.failure(output, MAX_RECORD) or (
        reading.unreadable("The failure record that the step left") if output else None
    )
    pod = pod_of(node, pods)
    if pod_messages.matches(pod_messages.DISK_LIMIT, message):
        return DiskFull(
            f"The pod was ended for its use of disk: {message.strip()}",
            "Raise that limit: the volume's sizeLimit, or the containers' ephemeral-storage, which a LimitRange may set.",
        )
    if pod_messages.matches(pod_messages.LOST, message):
        return NodeLost(f"The pod was lost: {message.strip().rstrip('.')}.")
    if step_record and step_record["code"] == "KILLED" and ("OOMKilled" in message or _oom_killed(pod)):
        return (
            step_record
            | ModelOom("The kernel killed the container for want of memory.").record()
            | {"details": step_record["details"]}
        )
    timed_out = pod_messages.matches(pod_messages.DEADLINE, message)
    if step_record and _is_outdated(step_record, message):
        step_record = None
    if step_record is None or step_record["code"] in ("INTERRUPTED", "KILLED"):
        disruption = pod_messages.disruption(pod)
        if disruption and not timed_out:
            return NodeLost(f"The pod was lost: {disruption.strip().rstrip('.')}.")
    if step_record and step_record["code"] == "INTERRUPTED" and not timed_out:  # the job itself was not stopped
        return NodeLost("The pod was lost: Kubernetes ended it (SIGTERM) while its step was working.")
    if step_record and step_record["code"] != "INTERRUPTED":
        return step_record
    if timed_out:
        return ModelTimeout(f"Kubernetes ended the pod: {message}.")
    return _of_message(message, node, workflow)


def _is_outdated(step_record: Record, message: str) -> bool:
    """Whether a record is still the KILLED that the step wrote when it began, by another cause in the message: the disk had no
    room for the last one, or the wait container was ended together with the step and read it too early."""
    if step_record["code"] != Killed.code:
        return False
    end = _end_of_main(message)
    is_kill = end is None or end[1] in (Killed.exit_code, pod_messages.SIGKILLED)
    return not is_kill or pod_messages.matches(pod_messages.DEADLINE, message)


def _of_message(message: str, node: Node, workflow: dict[str, Any]) -> StepError:
    if from_exit_code := _of_exit_code(message):
        return from_exit_code
    parameters = {p["name"]: text(p.get("value")) for p in workflow["spec"]["arguments"]["parameters"]}
    source, is_validate = parameters.pop(SET, ""), step_of(node) == "validate"
    if is_validate and (faults := wrong(parameters)):
        return refusal(parameters, faults)  # validate did not start, so it could not report them
    if pending.POD_REJECTED.search(message):
        wait = pending.configuration_error(str(node.get("templateName", "")), message)
        return ConfigurationError(wait.reason, wait.advice)
    if is_validate and (not re.match(r"s3://[^/]+/.", source) or re.search(r"[{}]", source)):
        return ValidationFailed(
            f"The input {source!r} is not an address in S3.",
            "Give input=s3://bucket/prefix or s3://bucket/set.zip.",
            field="input",
        )
    if pod_messages.matches(pod_messages.NO_IMAGE, message):
        return ImageUnavailable(message)
    if pod_messages.matches(pod_messages.NO_GPU, message):
        return GpuUnavailable(message, "Look at the node's NVIDIA driver and container toolkit.")
    if re.search(r"artifact '?input\b", message):
        return _of_input(message, source)
    return _of_store(message)


def _end_of_main(message: str) -> tuple[str, int] | None:
    """Reason and exit code of the main container in a failed node's message, None where another cause is named."""
    match = re.match(r"main: (\w+) \(exit code (\d+)\)", message)
    return (match[1], int(match[2])) if match else None


def _of_exit_code(message: str) -> StepError | None:
    """The error of the step's exit code, for a step whose outputs were lost; None where the code is ambiguous."""
    end = _end_of_main(message)
    if end is None:
        return None
    reason, exit_code = end
    if reason == "OOMKilled":
        return ModelOom("The kernel killed the container for want of memory.")
    if exit_code in (Interrupted.exit_code, pod_messages.SIGTERMED):
        return NodeLost("The pod was lost: Kubernetes ended it (SIGTERM) while its step was working.")
    if exit_code == pod_messages.SIGKILLED:  # killed before the step wrote failure.json
        return Killed("The container was killed as a whole.")
    errors = [error for error in by_code().values() if error.exit_code == exit_code]
    if len(errors) != 1:  # 1, 10 and 40 are shared by several errors
        return None
    return errors[0](f"The step ended with exit code {exit_code}; what it said was lost.")


def _of_input(message: str, source: str) -> StepError:
    """The error of a failed download of the job's input: VALIDATION_FAILED where the user can correct the address."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if pod_messages.matches(pod_messages.NO_SUCH_BUCKET, message):
        return ValidationFailed(f"There is no bucket {bucket!r} in the store.", "Correct the input.", field="input")
    if pod_messages.matches(pod_messages.NO_SUCH_KEY, message):
        return ValidationFailed(f"Nothing lies at {source}.", "Upload the set, or correct the input.", field="input")
    if pod_messages.matches(pod_messages.INVALID_NAME, message):
        return ValidationFailed(f"{source} cannot be an address in S3: {message}.", "Correct the input.", field="input")
    if pod_messages.matches(pod_messages.OTHER_REGION, message):
        return ValidationFailed(
            f"The bucket {bucket!r} lies in another region than the store that this installation reads: {message}.",
            "Copy the set into a bucket of the store's own region.",
            field="input",
        )
    if pod_messages.matches(pod_messages.ACCESS_DENIED, message):
        return StorageUnavailable(
            f"The store does not let the installation's keys read {source}: {message}.",
            f"Let the keys of the chart's Secret read {key} and list the bucket {bucket}, or copy the set into another one.",
        )
    return StorageUnavailable(message)


def _of_store(message: str) -> StepError:
    """The error of a failed transfer of the job's own artifacts."""
    if pod_messages.matches(pod_messages.NO_SUCH_KEY, message):
        return StorageUnavailable(
            f"A file that an earlier step had left is gone from the store: {message}.",
            "Submit the set again; see whether the bucket's lifecycle removes jobs/ sooner than jobs end.",
        )
    if pod_messages.matches(pod_messages.ACCESS_DENIED, message):
        return StorageUnavailable(
            f"The store refuses the installation's keys: {message}.",
            "Correct the keys in the chart's Secret, or what they may do: they read, write and list the bucket.",
        )
    if pod_messages.matches(pod_messages.NO_SUCH_BUCKET, message):
        return StorageUnavailable(message, "Correct `s3.bucket` in the values, or create the bucket.")
    if pod_messages.matches(pod_messages.OTHER_REGION, message):
        return StorageUnavailable(
            message, "Set `s3.endpoint` in the values to the endpoint of the bucket's own region."
        )
    if pod_messages.matches(pod_messages.STORAGE, message):
        return StorageUnavailable(message)
    return UnknownError(message or "The pod ended without a word.", "Read the pod's log in the Argo UI.")


def _oom_killed(pod: dict[str, Any]) -> bool:
    """Whether the pod's main container has the reason OOMKilled."""
    states = [c.get("state", {}) for c in pod.get("status", {}).get("containerStatuses") or [] if c["name"] == "main"]
    return any((s.get("terminated") or {}).get("reason") == "OOMKilled" for s in states)


def with_details(failure: StepError | Record, node: Node | None, steps: list[Node]) -> Record:
    """The record with all details of the contract (step, model, engine, pipeline_stage, oom_type, …). node: that failed."""
    record = failure.record() if isinstance(failure, StepError) else dict(failure)
    step, model = (step_of(node), model_of(node)) if node else ("", "")
    node_outputs = outputs(node) if node else {}
    engines = [outputs(n).get("engine", "") for n in steps if model and n["templateName"] == f"{model}-pod"]
    defaults = {
        "step": step,
        "model": model,
        "engine": next((e for e in reversed(engines) if e), ""),
        "pipeline_stage": node_outputs.get("stage") or FIRST_STAGE.get(step, ""),
        "oom_type": OOM_TYPES.get(record["code"], "none"),
        "attempts": sum(n["templateName"] == node["templateName"] for n in steps) if node else 0,
        "node": node["displayName"] if node else "",
        "argo_message": (node.get("message") or "") if node else "",
    }
    details = {name: value for name, value in record["details"].items() if value not in ("", None)}
    return record | {"details": {**defaults, **details, "oom_type": defaults["oom_type"]}}
