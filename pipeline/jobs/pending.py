"""Why a pod does not start: pure functions over pods, events, nodes, and workflow nodes whose pod was not admitted.

The messages are those of Kubernetes 1.28 to 1.34 and Argo 3.7."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import workflows
from pipeline.jobs import placement
from steps.runtime.errors import ConfigurationError, ImageUnavailable, Unschedulable

IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
CONTAINER_REASONS = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "RunContainerError",
)
EVENT_REASONS = (  # for pods with a node but without containers: their status has the reason ContainerCreating only
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedMountOnFilesystemMismatch",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "NetworkNotReady",
)
MAX_CHARACTERS = 500  # of a quoted message
SCHEDULER_SECONDS = 30.0  # after which a pod without the condition PodScheduled is reported

# node messages of Argo where the API server rejected the pod
POD_REJECTED = re.compile(
    r'pods? "[^"]*" is (forbidden|invalid)|admission webhook "[^"]*" denied|failed calling webhook', re.IGNORECASE
)
QUOTA_EXCEEDED = re.compile(r"exceeded quota: (\S+), requested: (.*), used: (.*), limited: (.*)")
VOLUME_MESSAGE = re.compile(
    r"persistent ?volume|volume node affinity|volume zone|pvc\(s\)|storageclass|free storage", re.IGNORECASE
)
INSUFFICIENT = re.compile(r"Insufficient ([\w./-]+\w)|(Too many pods)")
NOT_HELPFUL, NO_VICTIMS = "Preemption is not helpful for scheduling", "No preemption victims found"

_KEYS = "Make it: kubectl create secret generic NAME --from-literal=access-key=… --from-literal=secret-key=…"
# pattern of a message of Kubernetes -> reason (a format of the pattern's groups), advice
KNOWN_MESSAGES: tuple[tuple[str, str, str], ...] = (
    (r'secrets? "([^"]+)" not found', "the secret {0} is not there", _KEYS),
    (r"couldn't find key (\S+) in Secret \S+/(\S+)", "the secret {1} has no key {0}", "Add the key to the secret."),
    (r"references non-existent secret key: (\S+)", "a secret has no key {0}", "Add the key to the secret."),
    (r'configmaps? "([^"]+)" not found', "the ConfigMap {0} is not there", "Install the chart again: it makes it."),
    (
        r"couldn't find key (\S+) in ConfigMap \S+/(\S+)",
        "the ConfigMap {1} has no key {0}",
        "Add the key to the ConfigMap.",
    ),
    (
        r'persistentvolumeclaims? "([^"]+)" (not found|is being deleted)',
        "the PersistentVolumeClaim {0} is not there",
        "Make the claim, or correct weights.claim in the chart's values.",
    ),
    (
        r"(unbound immediate PersistentVolumeClaims|didn't find available persistent volumes|free storage)",
        "a PersistentVolumeClaim has no volume",
        "Look at the claim's events (kubectl describe pvc); give it a StorageClass or a volume.",
    ),
    (
        r"Multi-Attach error",
        "a volume is in use on another node",
        "Use a volume that several nodes may read (ReadOnlyMany or ReadWriteMany) for the weights.",
    ),
    (
        r"no PriorityClass with name (\S+) was found",
        "there is no PriorityClass {0}",
        "Install the chart with priorityClasses.create=true, or make the classes.",
    ),
    (
        r'(?:error looking up service account \S+: )?serviceaccounts? "([^"]+)" not found',
        "the service account {0} is not there",
        "Install the chart again: it makes it.",
    ),
    (
        r"violates PodSecurity \"([^\"]+)\"",
        "the namespace's Pod Security ({0}) does not admit the pod",
        "Set the executor's securityContext as the chart's notes say, or let the namespace enforce less.",
    ),
    (
        r'admission webhook "([^"]+)" denied',
        "the admission webhook {0} does not admit the pod",
        "Ask the cluster's administrators what it wants of pods.",
    ),
    (
        r'failed calling webhook "([^"]+)"',
        "the admission webhook {0} does not answer",
        "Ask the cluster's administrators to look at it.",
    ),
    (
        r'RuntimeClass "([^"]+)" not found',
        "there is no RuntimeClass {0}",
        "Correct runtimeClassName in the chart's values, or install the runtime.",
    ),
    (
        r"failed quota: (\S+):",
        "the quota {0} wants every pod to say what it uses",
        "Add a LimitRange with defaults to the namespace, or change the quota.",
    ),
    (
        r"((?:maximum|minimum) .* per (?:Container|Pod) is [^.]*)",
        "the namespace's LimitRange does not admit the pod: {0}",
        "Change the LimitRange, or `steps` in the chart's values.",
    ),
    (
        r"create pod sandbox|network is not ready|NetworkPluginNotReady",
        "its node cannot set up the pod's network or sandbox",
        "Look at the node's container runtime and network plugin.",
    ),
)


@dataclass(frozen=True)
class Wait:
    """Why a pod of a job does not start. code: error code with which the reconciler ends the job; "": normal queueing."""

    step: str
    code: str
    reason: str
    advice: str = ""


def of_pod(
    pod: dict[str, Any],
    events: Sequence[dict[str, Any]] = (),
    nodes: Sequence[placement.Node] | None = None,
    now: datetime | None = None,
) -> Wait | None:
    """Why a pending pod does not start; None while it is starting. events: of the pod; nodes: all, None without the right to list
    them; now: UTC."""
    step = step_of(pod)
    if not pod["spec"].get("nodeName"):
        return _unscheduled(pod, nodes, step, now or datetime.now(UTC))
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE_REASONS:
            detail = _truncated(f"{waiting['reason']}. {waiting.get('message', '')}")
            return Wait(
                step,
                ImageUnavailable.code,
                f"The image {container.get('image', '')} could not be had: {detail}".strip(),
            )
        if waiting.get("reason") in CONTAINER_REASONS:
            return configuration_error(step, f"{waiting['reason']}: {waiting.get('message', '')}")
    last = last_event(events)
    return (
        configuration_error(step, f"{last['reason']}: {last.get('message', '')}")
        if last.get("reason") in EVENT_REASONS
        else None
    )


def step_of(pod: dict[str, Any]) -> str:
    """Template name of a pod, from its annotation."""
    return str((pod["metadata"].get("annotations") or {}).get("sixview.dev/step", "")) or pod["metadata"]["name"]


def values_name(step: str) -> str:
    """Key below `steps` in values.yaml: nvdiffrec-pod -> nvdiffrec, nvdiffrec-quality -> quality."""
    return step.removesuffix("-pod").rpartition("-")[2]


def configuration_error(step: str, message: str) -> Wait:
    """CONFIGURATION_ERROR with the reason and advice of KNOWN_MESSAGES, followed by the message without the pod's name, which
    differs between attempts."""
    message = re.sub(r'^pods? "[^"]*" is forbidden: ', "", message)
    for pattern, template, advice in KNOWN_MESSAGES:
        match = re.search(pattern, message, re.IGNORECASE)
        if match:
            reason = template.format(*match.groups()) if match.groups() else template
            advice = advice.replace("NAME", match.group(1)) if advice is _KEYS else advice
            return Wait(
                step,
                ConfigurationError.code,
                f"{step} does not start: {reason}. ({_truncated(message.strip('. '))})",
                advice,
            )
    return Wait(step, ConfigurationError.code, f"{step} does not start: {_truncated(message)}")


def last_event(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The newest event; {} where there is none."""
    return max(events, key=_event_time, default={})


def _event_time(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    return next((str(time)[:19] for time in times if time), "")


# -- without a node ---------------------------------------------------------------------------------------------------


def _unscheduled(pod: dict[str, Any], nodes: Sequence[placement.Node] | None, step: str, now: datetime) -> Wait | None:
    conditions = [c for c in pod.get("status", {}).get("conditions") or [] if c.get("type") == "PodScheduled"]
    if not conditions:
        created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
        overdue = (now - created).total_seconds() > SCHEDULER_SECONDS
        return Wait(step, "", f"{step} waits: the scheduler has not looked at its pod yet.") if overdue else None
    message = str(conditions[0].get("message", ""))
    if VOLUME_MESSAGE.search(message) and "max volume count" not in message:
        return configuration_error(step, message)
    verdict = (
        placement.why_unschedulable(pod, nodes, values_name(step))
        if nodes is not None
        else _by_scheduler_message(message)
    )
    if verdict:
        reason = f"{step} fits on no node: {verdict.reason}."
        return Wait(step, Unschedulable.code, reason, verdict.advice)
    return Wait(step, "", busy_reason(step, message))


def busy_reason(step: str, message: str) -> str:
    """Why a pod that fits on some node is pending. Without the scheduler's counts, which change with every other pod."""
    resources = sorted({name or "room for another pod" for name, _ in INSUFFICIENT.findall(message)})
    if resources:
        return f"{step} waits: no node has enough {' and '.join(resources)} free at the moment."
    return f"{step} waits: no node takes it at the moment ({without_numbers(message)})."


def without_numbers(message: str) -> str:
    """The scheduler's message without node counts and preemption."""
    text = message.partition(" preemption: ")[0].partition("are available: ")[2] or message
    text = text.removesuffix("no new claims to deallocate,")
    return _truncated(re.sub(r"\b\d+ (?=node|Insufficient|Too)", "", text).rstrip(". "))


def _by_scheduler_message(message: str) -> placement.Verdict | None:
    """Why no node can ever take the pod, from the scheduler's message alone; None where it may fit later.

    Since 1.31 "Preemption is not helpful" also marks a request above every node's allocatable amount."""
    preemption_useless = NOT_HELPFUL in message and NO_VICTIMS not in message
    if message and (preemption_useless or not INSUFFICIENT.search(message)) and "were unschedulable" not in message:
        return placement.Verdict(
            without_numbers(message),
            "Compare what the pod asks for (kubectl describe pod) with the nodes: size, labels, taints.",
        )
    return None


# -- without a pod ----------------------------------------------------------------------------------------------------


def of_workflow(workflow: dict[str, Any]) -> Iterator[Wait]:
    """Waits for nodes whose pod the API server rejected. Argo retries: at once for an exceeded quota, else by retryStrategy."""
    nodes = workflows.read(workflow)["status"]["nodes"]
    for node in nodes.values():
        if node.get("type") == "Pod" and node.get("phase") == "Pending":
            yield from _rejected_pod(node)
        children = node.get("children") or []
        if node.get("type") == "Retry" and node.get("phase") in ("Running", "Pending") and children:
            last = nodes.get(children[-1], {})
            if last.get("phase") == "Error":
                yield from _rejected_pod(last)


def _rejected_pod(node: dict[str, Any]) -> Iterator[Wait]:
    message, step = str(node.get("message") or ""), str(node.get("templateName", ""))
    if not POD_REJECTED.search(message):
        return
    quota = QUOTA_EXCEEDED.search(message)
    if quota is None:
        yield configuration_error(step, message)
        return
    name, requested, used, limit = quota.groups()
    if _exceeds(requested, limit):
        reason = f"{step} does not start: it asks for {requested}, and the quota {name} allows {limit} in all."
        yield Wait(step, ConfigurationError.code, reason, "Raise the quota, or lower `steps` in the chart's values.")
    else:
        yield Wait(step, "", f"{step} waits: of the quota {name} ({limit}) too much is in use at the moment.")


def _exceeds(requested: str, limit: str) -> bool:
    """Whether a resource in `a=1,b=2` exceeds the same one in `limit`."""
    allowed = dict(pair.partition("=")[::2] for pair in re.split(r",\s*", limit))
    pairs = [pair.partition("=")[::2] for pair in re.split(r",\s*", requested)]
    return any(name in allowed and placement.quantity(v) > placement.quantity(allowed[name]) for name, v in pairs)


def _truncated(text: str) -> str:
    return text.strip() if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
