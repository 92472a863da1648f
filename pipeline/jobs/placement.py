"""Whether any node could ever take a pod: requests against allocatable, node selector, node affinity and taints.

Current usage does not count, nor do conditions that pass (not ready, under pressure, cordoned)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

HOSTNAME = "kubernetes.io/hostname"
CONDITION_TAINTS = "node.kubernetes.io/"  # prefix of taints by condition: not-ready, disk-pressure, unschedulable
EFFECTS = ("NoSchedule", "NoExecute")
GIB = Decimal(1 << 30)


@dataclass(frozen=True)
class Node:
    """The scheduling data of a Node. allocatable: resource -> amount, in bytes, cores or devices."""

    name: str
    labels: dict[str, str]
    taints: tuple[tuple[str, str, str], ...]  # key, value, effect
    allocatable: dict[str, Decimal]


@dataclass(frozen=True)
class Verdict:
    """Why no node can take a pod, and what can be done about it."""

    reason: str
    advice: str


def parse_node(manifest: dict[str, Any]) -> Node:
    """Scheduling data of a Node manifest. For extended resources the larger of allocatable and capacity: a device plugin that
    restarts sets allocatable to 0 for a while."""
    status, spec = manifest.get("status", {}), manifest.get("spec", {})
    allocatable_text, capacity = status.get("allocatable", {}), status.get("capacity", {})
    gives = {name: quantity(value) for name, value in allocatable_text.items()}
    gives |= {name: max(quantity(v), gives.get(name, Decimal(0))) for name, v in capacity.items() if "/" in name}
    taints = tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or [])
    return Node(manifest["metadata"]["name"], manifest["metadata"].get("labels") or {}, taints, gives)


def quantity(text: Any) -> Decimal:
    """A Kubernetes quantity (500m, 8192Mi) as a number."""
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def requests(pod: dict[str, Any]) -> dict[str, Decimal]:
    """A pod's effective requests: sum of its containers and sidecars or the largest init container, plus overhead."""
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *sidecars]:
        for name, amount in _container_requests(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in spec.get("initContainers") or []:
        for name, amount in _container_requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + quantity(text)
    return {name: amount for name, amount in total.items() if amount}


def _container_requests(container: dict[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(text) for name, text in amounts.items()}


# -- constraints of a pod ---------------------------------------------------------------------------------------------


def why_unschedulable(pod: dict[str, Any], nodes: Iterable[Node], step: str) -> Verdict | None:
    """Why none of the nodes can ever take the pod; None where one could. step: key below `steps` in values.yaml."""
    all_nodes = list(nodes)
    matching = [node for node in all_nodes if matches_selectors(pod, node)]
    if not matching:
        return _no_matching_node(pod, all_nodes)
    tolerated = [node for node in matching if not untolerated(pod, node)]
    if not tolerated:
        taints = ", ".join(sorted({_taint_text(t) for node in matching for t in untolerated(pod, node)}))
        return Verdict(
            f"every node that it may use has a taint that it does not tolerate ({taints})",
            "Add a toleration to `tolerations` in the chart's values, or take the taint away.",
        )
    requested = requests(pod)
    if any(
        all(amount <= node.allocatable.get(name, Decimal(0)) for name, amount in requested.items())
        for node in tolerated
    ):
        return None
    return _too_large(requested, tolerated, step)


def _no_matching_node(pod: dict[str, Any], nodes: list[Node]) -> Verdict:
    excluded = sorted(excluded_hosts(pod))
    if excluded and any(matches_selectors(pod, node, ignored_label=HOSTNAME) for node in nodes):
        return Verdict(
            f"only nodes are left on which it failed before ({', '.join(excluded)}), and retries.anotherNode wants another",
            "Set retries.anotherNode=false in the chart's values, or add a node.",
        )
    selector = ", ".join(f"{key}={value}" for key, value in (pod["spec"].get("nodeSelector") or {}).items())
    return Verdict(
        f"no node has the labels that it asks for ({selector or 'by its node affinity'})",
        "Correct `nodeSelector` or `affinity` in the chart's values, or label a node.",
    )


def _too_large(requested: dict[str, Decimal], nodes: list[Node], step: str) -> Verdict:
    for name, amount in sorted(requested.items()):
        largest = max(nodes, key=lambda node: node.allocatable.get(name, Decimal(0)))
        maximum = largest.allocatable.get(name, Decimal(0))
        if amount > maximum:
            has = (
                f"the largest node, {largest.name}, has {amount_text(name, maximum)}" if maximum else "no node has any"
            )
            return Verdict(f"it asks for {amount_text(name, amount)}, and {has}", _smaller(name, step))
    amounts = ", ".join(amount_text(name, amount) for name, amount in sorted(requested.items()))
    return Verdict(f"no node has all of {amounts} together", _smaller("", step))


def _smaller(resource: str, step: str) -> str:
    if resource == "memory":
        return (
            f"Lower steps.{step}.memoryMiB or, for what an attempt after MODEL_OOM asks for, retries.mostMemoryMiB in the "
            "chart's values; or add a node with more memory."
        )
    if "/" in resource:
        return f"Install the device plugin on a node, or set steps.{step}.gpus=0 in the chart's values."
    return f"Lower what steps.{step} asks for in the chart's values, or add a larger node."


def amount_text(resource: str, amount: Decimal) -> str:
    """An amount for messages: 64 GiB of memory, 2 nvidia.com/gpu."""
    if resource in ("memory", "ephemeral-storage"):
        return f"{float(amount / GIB):.4g} GiB of {resource}"
    return f"{float(amount):.4g} {resource}"


def _taint_text(taint: tuple[str, str, str]) -> str:
    key, value, effect = taint
    return f"{key}={value}:{effect}" if value else f"{key}:{effect}"


def untolerated(pod: dict[str, Any], node: Node) -> list[tuple[str, str, str]]:
    """Taints (key, value, effect) that the pod does not tolerate, without those of passing conditions."""
    tolerations = pod["spec"].get("tolerations") or []
    permanent = [t for t in node.taints if t[2] in EFFECTS and not t[0].startswith(CONDITION_TAINTS)]
    return [taint for taint in permanent if not any(_tolerates(toleration, taint) for toleration in tolerations)]


def _tolerates(toleration: dict[str, Any], taint: tuple[str, str, str]) -> bool:
    key, value, effect = taint
    same = toleration.get("operator", "Equal") == "Exists" or toleration.get("value", "") == value
    return toleration.get("key") in (None, "", key) and toleration.get("effect") in (None, "", effect) and same


def matches_selectors(pod: dict[str, Any], node: Node, ignored_label: str = "") -> bool:
    """Whether the node satisfies the pod's nodeSelector and required node affinity, without rules on `ignored_label`."""
    labels = {HOSTNAME: node.name, **node.labels}
    selector_matches = all(labels.get(key) == value for key, value in (pod["spec"].get("nodeSelector") or {}).items())
    terms = _terms(pod)
    return selector_matches and (not terms or any(_matches(term, labels, node.name, ignored_label) for term in terms))


def _terms(pod: dict[str, Any]) -> list[dict[str, Any]]:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    return list((affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or [])


def excluded_hosts(pod: dict[str, Any]) -> set[str]:
    """Hostnames excluded by node affinity: Argo's retry anti-affinity lists the nodes of earlier attempts."""
    rules = [rule for term in _terms(pod) for rule in term.get("matchExpressions") or []]
    return {host for rule in rules if (rule["key"], rule["operator"]) == (HOSTNAME, "NotIn") for host in rule["values"]}


def _matches(term: dict[str, Any], labels: dict[str, str], name: str, ignored_label: str) -> bool:
    rules = [rule for rule in term.get("matchExpressions") or [] if rule["key"] != ignored_label]
    fields = term.get("matchFields") or []
    return all(_requirement_holds(rule, labels) for rule in rules) and all(
        _requirement_holds(f, {"metadata.name": name}) for f in fields
    )


def _requirement_holds(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:
            return value is not None and int(value) < int(values[0])
