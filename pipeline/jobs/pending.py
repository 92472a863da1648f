"""Why a pod does not start, in plain words: pure functions over pods, their events, nodes, and Argo's nodes where a pod could not
even be made. The words that are looked for are those of Kubernetes 1.28 to 1.34 and of Argo 3.7."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import workflows
from pipeline.jobs import placement
from steps.runtime.errors import ConfigurationError, ImageUnavailable, Unschedulable

IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
CONTAINER = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "RunContainerError",
)
EVENTS = (  # of a pod that has a node and no container yet; its status says ContainerCreating alone
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedMountOnFilesystemMismatch",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "NetworkNotReady",
)
MOST_CHARACTERS = 500  # of somebody else's words
QUIET_SECONDS = 30.0  # after which a pod that nobody has said anything of is worth a word

# what Argo says of a pod that the API server would not make
REFUSED = re.compile(
    r'pods? "[^"]*" is (forbidden|invalid)|admission webhook "[^"]*" denied|failed calling webhook', re.IGNORECASE
)
QUOTA = re.compile(r"exceeded quota: (\S+), requested: (.*), used: (.*), limited: (.*)")
CLAIM = re.compile(
    r"persistent ?volume|volume node affinity|volume zone|pvc\(s\)|storageclass|free storage", re.IGNORECASE
)
SHORT_OF = re.compile(r"Insufficient ([\w./-]+\w)|(Too many pods)")
NOT_HELPFUL, NO_VICTIMS = "Preemption is not helpful for scheduling", "No preemption victims found"

_KEYS = "Make it: kubectl create secret generic NAME --from-literal=access-key=… --from-literal=secret-key=…"
# their words -> ours, and what to do
WORDS: tuple[tuple[str, str, str], ...] = (
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
    """Something of a job that does not start. code: what the job ends as when it lasts; empty: it is nobody's fault."""

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
    """Why a pending pod does not start; None while it is on its way. events: its own; nodes: all, or None where they may not be
    read."""
    step = step_of(pod)
    if not pod["spec"].get("nodeName"):
        return _unscheduled(pod, nodes, step, now or datetime.now(UTC))
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE:
            said = _cut(f"{waiting['reason']}. {waiting.get('message', '')}")
            return Wait(
                step, ImageUnavailable.code, f"The image {container.get('image', '')} could not be had: {said}".strip()
            )
        if waiting.get("reason") in CONTAINER:
            return fault(step, f"{waiting['reason']}: {waiting.get('message', '')}")
    last = last_event(events)
    return fault(step, f"{last['reason']}: {last.get('message', '')}") if last.get("reason") in EVENTS else None


def step_of(pod: dict[str, Any]) -> str:
    """The template that a pod runs."""
    return str((pod["metadata"].get("annotations") or {}).get("sixview.dev/step", "")) or pod["metadata"]["name"]


def value_of(step: str) -> str:
    """A template's step, as values.yaml names it: nvdiffrec-pod, nvdiffrec-quality."""
    return step.removesuffix("-pod").rpartition("-")[2]


def fault(step: str, message: str) -> Wait:
    """A CONFIGURATION_ERROR in our words, with theirs behind it, but for the pod's name: each attempt has another."""
    message = re.sub(r'^pods? "[^"]*" is forbidden: ', "", message)
    for pattern, ours, advice in WORDS:
        found = re.search(pattern, message, re.IGNORECASE)
        if found:
            told = ours.format(*found.groups()) if found.groups() else ours
            advice = advice.replace("NAME", found.group(1)) if advice is _KEYS else advice
            return Wait(
                step, ConfigurationError.code, f"{step} does not start: {told}. ({_cut(message.strip('. '))})", advice
            )
    return Wait(step, ConfigurationError.code, f"{step} does not start: {_cut(message)}")


def last_event(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The newest event; what came before it is past."""
    return max(events, key=_seen, default={})


def _seen(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    return next((str(time)[:19] for time in times if time), "")


# -- without a node ------------------------------------------------------------------------------------------------------


def _unscheduled(pod: dict[str, Any], nodes: Sequence[placement.Node] | None, step: str, now: datetime) -> Wait | None:
    conditions = [c for c in pod.get("status", {}).get("conditions") or [] if c.get("type") == "PodScheduled"]
    if not conditions:
        made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
        late = (now - made).total_seconds() > QUIET_SECONDS
        return Wait(step, "", f"{step} waits: the scheduler has not looked at its pod yet.") if late else None
    message = str(conditions[0].get("message", ""))
    if CLAIM.search(message) and "max volume count" not in message:
        return fault(step, message)
    verdict = placement.never(pod, nodes, value_of(step)) if nodes is not None else _by_words(message)
    if verdict:
        reason = f"{step} fits on no node: {verdict.reason}."
        return Wait(step, Unschedulable.code, reason, verdict.advice)
    return Wait(step, "", busy(step, message))


def busy(step: str, message: str) -> str:
    """What a pod waits for that fits, but not now. Without the scheduler's numbers, which change with every other pod."""
    short = sorted({name or "room for another pod" for name, _ in SHORT_OF.findall(message)})
    if short:
        return f"{step} waits: no node has enough {' and '.join(short)} free at the moment."
    return f"{step} waits: no node takes it at the moment ({without_numbers(message)})."


def without_numbers(message: str) -> str:
    """The scheduler's message without its counts of nodes and what it says of preemption."""
    text = message.partition(" preemption: ")[0].partition("are available: ")[2] or message
    text = text.removesuffix("no new claims to deallocate,")
    return _cut(re.sub(r"\b\d+ (?=node|Insufficient|Too)", "", text).rstrip(". "))


def _by_words(message: str) -> placement.Verdict | None:
    """Whether the scheduler's words alone say that no node will do. Since 1.31 it says of a resource that no node has in all that
    preemption would not help; what is short for the moment is a matter of waiting."""
    helpless = NOT_HELPFUL in message and NO_VICTIMS not in message
    if message and (helpless or not SHORT_OF.search(message)) and "were unschedulable" not in message:
        return placement.Verdict(
            without_numbers(message),
            "Compare what the pod asks for (kubectl describe pod) with the nodes: size, labels, taints.",
        )
    return None


# -- without a pod -------------------------------------------------------------------------------------------------------


def of_workflow(workflow: dict[str, Any]) -> Iterator[Wait]:
    """What Argo could not make a pod for. Argo tries again: at once where a quota is used up, else by the template's retries."""
    nodes = workflows.read(workflow)["status"]["nodes"]
    for node in nodes.values():
        if node.get("type") == "Pod" and node.get("phase") == "Pending":
            yield from _refused(node)
        children = node.get("children") or []
        if node.get("type") == "Retry" and node.get("phase") in ("Running", "Pending") and children:
            last = nodes.get(children[-1], {})
            if last.get("phase") == "Error":
                yield from _refused(last)


def _refused(node: dict[str, Any]) -> Iterator[Wait]:
    message, step = str(node.get("message") or ""), str(node.get("templateName", ""))
    if not REFUSED.search(message):
        return
    quota = QUOTA.search(message)
    if quota is None:
        yield fault(step, message)
        return
    name, asked, used, limit = quota.groups()
    if _more(asked, limit):
        reason = f"{step} does not start: it asks for {asked}, and the quota {name} allows {limit} in all."
        yield Wait(step, ConfigurationError.code, reason, "Raise the quota, or lower `steps` in the chart's values.")
    else:
        yield Wait(step, "", f"{step} waits: of the quota {name} ({limit}) too much is in use at the moment.")


def _more(asked: str, limit: str) -> bool:
    """Whether one amount of `a=1,b=2` is above that of the same name."""
    allowed = dict(pair.partition("=")[::2] for pair in re.split(r",\s*", limit))
    pairs = [pair.partition("=")[::2] for pair in re.split(r",\s*", asked)]
    return any(name in allowed and placement.quantity(v) > placement.quantity(allowed[name]) for name, v in pairs)


def _cut(text: str) -> str:
    return text.strip() if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
