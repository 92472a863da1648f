"""What `sixview doctor` finds of an installation in the cluster: everything that the WorkflowTemplate names has to be there, and
what the chart runs beside it has to be up. What may not be read is said to be so, and is no fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.clients.kubernetes import Kubernetes
from pipeline.jobs import pending, placement
from steps.runtime.options import PRIORITIES

AGAIN = "Install the chart again, with the same values: it makes what is missing."


@dataclass(frozen=True)
class Finding:
    """ok: None where it could not be looked at, or is worth knowing and no fault."""

    what: str
    ok: bool | None
    advice: str = ""


class Hidden(Exception):
    """What may not be read here."""


class Reader:
    """The API server's objects as plain data. None where there is none; raises Hidden where it may not be read."""

    def __init__(self, cluster: Kubernetes) -> None:
        self.core, self.custom, self.namespace = cluster.core, cluster.custom, cluster.namespace

    def core_object(self, kind: str, name: str) -> dict[str, Any] | None:
        """kind: secret, config_map, service_account, persistent_volume_claim."""
        return self._read(getattr(self.core, f"read_namespaced_{kind}"), name, self.namespace)

    def resource_quotas(self) -> list[dict[str, Any]]:
        return items(self._read(self.core.list_namespaced_resource_quota, self.namespace))

    def nodes(self) -> list[dict[str, Any]]:
        return items(self._read(self.core.list_node))

    def priority_class(self, name: str) -> dict[str, Any] | None:
        return self._read(self.custom.get_cluster_custom_object, "scheduling.k8s.io", "v1", "priorityclasses", name)

    def of_argo(self, plural: str, name: str) -> dict[str, Any] | None:
        where = ("argoproj.io", "v1alpha1", self.namespace, plural, name)
        return self._read(self.custom.get_namespaced_custom_object, *where)

    def deployments(self) -> list[dict[str, Any]]:
        return items(self._read(self.custom.list_namespaced_custom_object, "apps", "v1", self.namespace, "deployments"))

    def _read(self, ask: Callable[..., Any], *arguments: str) -> dict[str, Any] | None:
        from kubernetes.client import ApiException

        try:
            answer = ask(*arguments, _preload_content=False, _request_timeout=(5, 30))
        except ApiException as error:
            answer = error
        if answer.status == 404:
            return None
        if answer.status in (401, 403):
            raise Hidden
        if answer.status >= 400:
            raise RuntimeError(f"the API server answers {answer.status} {answer.reason}")
        return dict(json.loads(answer.data))


def items(listing: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list((listing or {}).get("items") or [])


def looked(what: str, findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one look, or that it could not be taken."""
    try:
        yield from findings()
    except Hidden:
        yield Finding(f"{what}: may not be looked at here", None)
    except Exception as error:  # one look that fails hides no other one
        yield Finding(f"{what}: could not be looked at ({type(error).__name__}: {error})", None)


def parts(reader: Reader, name: str, template: dict[str, Any]) -> Iterator[Finding]:
    """Everything in the cluster that jobs of this WorkflowTemplate need."""
    spec = template["spec"]
    yield from looked("secrets", lambda: secrets(reader, name, spec))
    yield from looked("ConfigMaps", lambda: config_maps(reader, spec))
    yield from looked("service accounts", lambda: accounts(reader, spec))
    yield from looked("PriorityClasses", lambda: priorities(reader, name, spec))
    yield from looked("volumes", lambda: claims(reader, spec))
    yield from looked("quotas", lambda: quotas(reader))
    yield from looked("the nodes' sizes", lambda: sizes(reader, spec))
    yield from looked("the chart's Deployments", lambda: deployments(reader, name))
    yield from looked("Argo Events", lambda: events(reader, name))


# -- what the template names ------------------------------------------------------------------------------------------


def named(tree: Any, field: str) -> Iterator[Any]:
    """Every value of a field, wherever it stands."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key == field:
            yield value
        yield from named(value, field)
    for value in tree if isinstance(tree, list) else ():
        yield from named(value, field)


def secrets(reader: Reader, name: str, spec: dict[str, Any]) -> Iterator[Finding]:
    wanted: dict[str, set[str]] = {f"{name}-s3": {"access-key", "secret-key"}}  # the artifact repository's, too
    for field in ("secretKeyRef", "accessKeySecret", "secretKeySecret"):
        for reference in named(spec, field):
            wanted.setdefault(reference["name"], set()).add(reference["key"])
    for account in named(spec.get("executor") or {}, "serviceAccountName"):
        wanted.setdefault(f"{account}.service-account-token", set()).add("token")
    for reference in spec.get("imagePullSecrets") or []:
        wanted.setdefault(reference["name"], set())
    for secret, keys in sorted(wanted.items()):
        found = reader.core_object("secret", secret)
        literals = " ".join(f"--from-literal={key}=…" for key in sorted(keys))
        make = f"kubectl -n {reader.namespace} create secret generic {secret} {literals}".strip()
        if found is None:
            advice = AGAIN if secret.endswith("-token") else f"Make it: {make}"
            yield Finding(f"the secret {secret} is not there: no pod of a job can start", False, advice)
        elif missing := keys - set(found.get("data") or {}):
            yield Finding(
                f"the secret {secret} has no {', '.join(sorted(missing))}", False, "Add the key to the secret."
            )
        else:
            yield Finding(f"the secret {secret}", True)


def config_maps(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    wanted = [(r["configMap"], r.get("key", "")) for r in named(spec, "artifactRepositoryRef")]
    wanted += [(r["name"], r["key"]) for r in named(spec, "configMapKeyRef")]
    for name, key in dict.fromkeys(wanted):
        found = reader.core_object("config_map", name)
        if found is None or (key and key not in (found.get("data") or {})):
            what = f"the ConfigMap {name} is not there" if found is None else f"the ConfigMap {name} has no {key}"
            yield Finding(f"{what}: no job can begin", False, AGAIN)
        else:
            yield Finding(f"the ConfigMap {name}", True)


def accounts(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    for name in dict.fromkeys(named(spec, "serviceAccountName")):
        found = reader.core_object("service_account", name) is not None
        what = f"the service account {name}"
        yield Finding(
            what if found else f"{what} is not there: pods that use it cannot be made", found, "" if found else AGAIN
        )


def priorities(reader: Reader, name: str, spec: dict[str, Any]) -> Iterator[Finding]:
    if "priorityClassName" not in json.dumps(spec):
        return
    missing = [f"{name}-{which}" for which in PRIORITIES if reader.priority_class(f"{name}-{which}") is None]
    if missing:
        advice = "Install the chart with priorityClasses.create=true, or make them."
        yield Finding(f"there is no PriorityClass {', '.join(missing)}: such jobs' pods cannot be made", False, advice)
    else:
        yield Finding(f"the PriorityClasses of {name}", True)


def claims(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    for name in dict.fromkeys(r["claimName"] for r in named(spec, "persistentVolumeClaim")):
        found = reader.core_object("persistent_volume_claim", name)
        if found is None:
            advice = "Make it, or correct weights.claim in the chart's values."
            yield Finding(f"the PersistentVolumeClaim {name} is not there", False, advice)
        elif (phase := found.get("status", {}).get("phase")) != "Bound":
            advice = f"Look at its events: kubectl -n {reader.namespace} describe pvc {name}"
            waits = phase == "Pending"  # perhaps for its first pod, as some StorageClasses want it
            yield Finding(f"the PersistentVolumeClaim {name} is {phase}", None if waits else False, advice)
        else:
            yield Finding(f"the PersistentVolumeClaim {name}", True)


def quotas(reader: Reader) -> Iterator[Finding]:
    for quota in reader.resource_quotas():
        status = quota.get("status") or {}
        used = status.get("used") or {}
        full = {
            name: text
            for name, text in (status.get("hard") or {}).items()
            if placement.quantity(used.get(name, "0")) >= placement.quantity(text)
        }
        what = f"the quota {quota['metadata']['name']}"
        if full:
            told = ", ".join(f"{name} {text}" for name, text in sorted(full.items()))
            yield Finding(f"{what} is used up ({told}): jobs wait", None, "Raise the quota if they wait too long.")
        else:
            yield Finding(what, True)


def sizes(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    """Whether every step fits on some node as its first attempt asks for it."""
    nodes = [placement.parse_node(found) for found in reader.nodes()]
    wrong: dict[placement.Verdict, list[str]] = {}
    for template in (t for t in spec["templates"] if "container" in t):
        verdict = placement.why_unschedulable(plain_pod(spec, template), nodes, pending.values_name(template["name"]))
        if verdict:
            wrong.setdefault(verdict, []).append(template["name"])
    for verdict, steps in wrong.items():
        yield Finding(f"no node can take {', '.join(steps)}: {verdict.reason}", False, verdict.advice)
    if not wrong:
        yield Finding("every step fits on some node", True)


def plain_pod(spec: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """As much of a template's pod as decides about its node."""
    containers = [template["container"], *(template.get("sidecars") or [])]
    shared = {key: spec[key] for key in ("nodeSelector", "tolerations", "affinity") if key in spec}
    return {"metadata": {}, "spec": {**shared, "containers": containers}}


# -- what runs beside it ----------------------------------------------------------------------------------------------


def deployments(reader: Reader, name: str) -> Iterator[Finding]:
    """Those that the chart was installed with have an account of their own."""
    made = reader.deployments()
    for part, without in (
        ("reconciler", "jobs whose pods cannot start wait for ever"),
        ("gateway", "there is no HTTP API"),
    ):
        if reader.core_object("service_account", f"{name}-{part}") is None:
            advice = f"Install the chart with {part}.enabled=true if you want it."
            yield Finding(f"the chart was installed without the {part}: {without}", None, advice)
            continue
        found = next((d for d in made if d["metadata"]["name"] == f"{name}-{part}"), None)
        yield running(reader, f"the {part}", found, without)


def running(reader: Reader, what: str, found: dict[str, Any] | None, without: str) -> Finding:
    if found is None:
        return Finding(f"{what} is not there: {without}", False, AGAIN)
    wanted, name = (found.get("spec") or {}).get("replicas", 1), found["metadata"]["name"]
    ready = (found.get("status") or {}).get("readyReplicas", 0)
    if wanted == 0:
        return Finding(
            f"{what} is scaled to nothing: {without}",
            False,
            f"kubectl -n {reader.namespace} scale deployment {name} --replicas=1",
        )
    if not ready:
        return Finding(
            f"{what} is down: {without}",
            False,
            f"Look at its pods: kubectl -n {reader.namespace} describe deployment {name}",
        )
    return Finding(f"{what} ({ready} of {wanted} ready)", ready >= wanted or None)


def events(reader: Reader, name: str) -> Iterator[Finding]:
    """Where the chart was installed with events: what carries a drop from the bucket to a job."""
    if reader.core_object("service_account", f"{name}-sensor") is None:
        return
    without = "drops are found by the clock alone, a few minutes later"
    made = reader.deployments()
    for kind, plural, what, label in (
        ("EventSource", "eventsources", f"{name}-drops", "eventsource-name"),
        ("Sensor", "sensors", f"{name}-drops", "sensor-name"),
        ("EventBus", "eventbus", name, ""),
    ):
        found = reader.of_argo(plural, what)
        if found is None:
            yield Finding(f"the {kind} {what} is not there: {without}", False, AGAIN)
            continue
        told = (found.get("status") or {}).get("conditions") or []
        bad = [c for c in told if c.get("status") == "False"]
        mine = [d for d in made if (d["metadata"].get("labels") or {}).get(label) == what] if label else []
        if bad:
            why = bad[0].get("message") or bad[0].get("type")
            yield Finding(
                f"the {kind} {what} is not deployed ({why}): {without}", False, "Look at Argo Events' controller."
            )
        elif label:
            yield running(reader, f"the {kind} {what}", mine[0] if mine else None, without)
        else:
            yield Finding(f"the {kind} {what}", True)
    cron = reader.of_argo("cronworkflows", f"{name}-drops")
    late = "what was dropped while anything was down is never found"
    if cron is None:
        yield Finding(f"the CronWorkflow {name}-drops is not there: {late}", False, AGAIN)
    elif (cron.get("spec") or {}).get("suspend"):
        yield Finding(f"the CronWorkflow {name}-drops is suspended: {late}", False, f"argo cron resume {name}-drops")
