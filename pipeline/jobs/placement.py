"""Whether any node could ever take a pod: its requests against what each node can give, its selector and affinity, and taints.

What is merely in use at the moment does not count here, nor does a node that is away, full or drained for a while."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

HOSTNAME = "kubernetes.io/hostname"
PASSING = "node.kubernetes.io/"  # taints of a node's condition: not-ready, disk-pressure, unschedulable
EFFECTS = ("NoSchedule", "NoExecute")
GIB = Decimal(1 << 30)


@dataclass(frozen=True)
class Node:
    """What placement reads of a node. gives: resource -> amount, in bytes or pieces."""

    name: str
    labels: dict[str, str]
    taints: tuple[tuple[str, str, str], ...]  # key, value, effect
    gives: dict[str, Decimal]


@dataclass(frozen=True)
class Verdict:
    """Why no node can take a pod, and what can be done about it."""

    reason: str
    advice: str


def node(found: dict[str, Any]) -> Node:
    """A Node object's digest. A device plugin that restarts takes its devices out of `allocatable` for a while: of these the
    larger of both amounts counts."""
    status, spec = found.get("status", {}), found.get("spec", {})
    allocatable, capacity = status.get("allocatable", {}), status.get("capacity", {})
    gives = {name: quantity(value) for name, value in allocatable.items()}
    gives |= {name: max(quantity(v), gives.get(name, Decimal(0))) for name, v in capacity.items() if "/" in name}
    taints = tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or [])
    return Node(found["metadata"]["name"], found["metadata"].get("labels") or {}, taints, gives)


def quantity(text: Any) -> Decimal:
    """An amount as Kubernetes writes it, 500m or 8192Mi, as a number."""
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def requests(pod: dict[str, Any]) -> dict[str, Decimal]:
    """What a pod asks for as a whole: its containers together, or its largest init container where that is more."""
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    beside = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *beside]:
        for name, amount in _asked(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in spec.get("initContainers") or []:
        for name, amount in _asked(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Decimal(0)) + quantity(text)
    return {name: amount for name, amount in total.items() if amount}


def _asked(container: dict[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    given = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(text) for name, text in given.items()}


# -- what a pod wants of a node ------------------------------------------------------------------------------------------


def never(pod: dict[str, Any], nodes: Iterable[Node], step: str) -> Verdict | None:
    """Why none of the nodes can ever take the pod; None where one could. step: as values.yaml names it."""
    found = list(nodes)
    chosen = [one for one in found if selected(pod, one)]
    if not chosen:
        return _nowhere(pod, found)
    reachable = [one for one in chosen if not untolerated(pod, one)]
    if not reachable:
        taints = ", ".join(sorted({_written(t) for one in chosen for t in untolerated(pod, one)}))
        return Verdict(
            f"every node that it may use has a taint that it does not tolerate ({taints})",
            "Add a toleration to `tolerations` in the chart's values, or take the taint away.",
        )
    wanted = requests(pod)
    if any(all(amount <= one.gives.get(name, Decimal(0)) for name, amount in wanted.items()) for one in reachable):
        return None
    return _too_large(wanted, reachable, step)


def _nowhere(pod: dict[str, Any], nodes: list[Node]) -> Verdict:
    earlier = sorted(excluded_hosts(pod))
    if earlier and any(selected(pod, one, besides=HOSTNAME) for one in nodes):
        return Verdict(
            f"only nodes are left on which it failed before ({', '.join(earlier)}), and retries.anotherNode wants another",
            "Set retries.anotherNode=false in the chart's values, or add a node.",
        )
    selector = ", ".join(f"{key}={value}" for key, value in (pod["spec"].get("nodeSelector") or {}).items())
    return Verdict(
        f"no node has the labels that it asks for ({selector or 'by its node affinity'})",
        "Correct `nodeSelector` or `affinity` in the chart's values, or label a node.",
    )


def _too_large(wanted: dict[str, Decimal], nodes: list[Node], step: str) -> Verdict:
    for name, amount in sorted(wanted.items()):
        largest = max(nodes, key=lambda one: one.gives.get(name, Decimal(0)))
        most = largest.gives.get(name, Decimal(0))
        if amount > most:
            has = f"the largest node, {largest.name}, has {shown(name, most)}" if most else "no node has any"
            return Verdict(f"it asks for {shown(name, amount)}, and {has}", _smaller(name, step))
    everything = ", ".join(shown(name, amount) for name, amount in sorted(wanted.items()))
    return Verdict(f"no node has all of {everything} together", _smaller("", step))


def _smaller(resource: str, step: str) -> str:
    if resource == "memory":
        return (
            f"Lower steps.{step}.memoryMiB or, for what an attempt after MODEL_OOM asks for, retries.mostMemoryMiB in the "
            "chart's values; or add a node with more memory."
        )
    if "/" in resource:
        return f"Install the device plugin on a node, or set steps.{step}.gpus=0 in the chart's values."
    return f"Lower what steps.{step} asks for in the chart's values, or add a larger node."


def shown(resource: str, amount: Decimal) -> str:
    """64 GiB of memory, 2 nvidia.com/gpu."""
    if resource in ("memory", "ephemeral-storage"):
        return f"{float(amount / GIB):.4g} GiB of {resource}"
    return f"{float(amount):.4g} {resource}"


def _written(taint: tuple[str, str, str]) -> str:
    key, value, effect = taint
    return f"{key}={value}:{effect}" if value else f"{key}:{effect}"


def untolerated(pod: dict[str, Any], one: Node) -> list[tuple[str, str, str]]:
    """The taints that keep the pod away, but for those of a condition that passes."""
    given = pod["spec"].get("tolerations") or []
    lasting = [t for t in one.taints if t[2] in EFFECTS and not t[0].startswith(PASSING)]
    return [taint for taint in lasting if not any(_tolerates(toleration, taint) for toleration in given)]


def _tolerates(toleration: dict[str, Any], taint: tuple[str, str, str]) -> bool:
    key, value, effect = taint
    same = toleration.get("operator", "Equal") == "Exists" or toleration.get("value", "") == value
    return toleration.get("key") in (None, "", key) and toleration.get("effect") in (None, "", effect) and same


def selected(pod: dict[str, Any], one: Node, besides: str = "") -> bool:
    """Whether the node has the labels that the pod asks for. besides: a label that does not count."""
    labels = {HOSTNAME: one.name, **one.labels}
    plain = all(labels.get(key) == value for key, value in (pod["spec"].get("nodeSelector") or {}).items())
    terms = _terms(pod)
    return plain and (not terms or any(_matches(term, labels, one.name, besides) for term in terms))


def _terms(pod: dict[str, Any]) -> list[dict[str, Any]]:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    return list((affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or [])


def excluded_hosts(pod: dict[str, Any]) -> set[str]:
    """Where Argo's anti-affinity keeps the pod from: the nodes of its earlier attempts."""
    rules = [rule for term in _terms(pod) for rule in term.get("matchExpressions") or []]
    return {host for rule in rules if (rule["key"], rule["operator"]) == (HOSTNAME, "NotIn") for host in rule["values"]}


def _matches(term: dict[str, Any], labels: dict[str, str], name: str, besides: str) -> bool:
    rules = [rule for rule in term.get("matchExpressions") or [] if rule["key"] != besides]
    fields = term.get("matchFields") or []
    return all(_holds(rule, labels) for rule in rules) and all(_holds(f, {"metadata.name": name}) for f in fields)


def _holds(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    found, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return found in values
        case "NotIn":
            return found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt":
            return found is not None and int(found) > int(values[0])
        case _:
            return found is not None and int(found) < int(values[0])
