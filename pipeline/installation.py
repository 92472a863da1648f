"""The checks of `sixview doctor` on the installed chart: objects that the WorkflowTemplate refers to exist, and its Deployments
are ready. Objects that may not be read are reported as such, not as faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.clients.kubernetes import Kubernetes
from pipeline.jobs import pending, placement
from steps.runtime.options import PRIORITIES

INSTALL_AGAIN = "Install the chart again, with the same values: it makes what is missing."


@dataclass(frozen=True)
class Finding:
    """A result of a check. ok: None for information, and where the check was not possible."""

    what: str
    ok: bool | None
    advice: str = ""


class Forbidden(Exception):
    """401 or 403: the object may not be read."""


class Reader:
    """Reads objects from the API server as plain data. None for 404. Raises Forbidden."""

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

    def argo_object(self, plural: str, name: str) -> dict[str, Any] | None:
        where = ("argoproj.io", "v1alpha1", self.namespace, plural, name)
        return self._read(self.custom.get_namespaced_custom_object, *where)

    def deployments(self) -> list[dict[str, Any]]:
        return items(self._read(self.custom.list_namespaced_custom_object, "apps", "v1", self.namespace, "deployments"))

    def _read(self, request: Callable[..., Any], *arguments: str) -> dict[str, Any] | None:
        from kubernetes.client import ApiException

        try:
            response = request(*arguments, _preload_content=False, _request_timeout=(5, 30))
        except ApiException as error:
            response = error
        if response.status == 404:
            return None
        if response.status in (401, 403):
            raise Forbidden
        if response.status >= 400:
            raise RuntimeError(f"the API server answers {response.status} {response.reason}")
        return dict(json.loads(response.data))


def items(listing: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list((listing or {}).get("items") or [])


def findings_or_error(what: str, findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; after an exception a finding that the check was not possible. what: subject of the check."""
    try:
        yield from findings()
    except Forbidden:
        yield Finding(f"{what}: may not be looked at here", None)
    except Exception as error:  # the other checks still run
        yield Finding(f"{what}: could not be looked at ({type(error).__name__}: {error})", None)


def examine_parts(reader: Reader, name: str, template: dict[str, Any]) -> Iterator[Finding]:
    """Findings on all objects that jobs of this WorkflowTemplate need. name: of the release."""
    spec = template["spec"]
    yield from findings_or_error("secrets", lambda: secrets(reader, name, spec))
    yield from findings_or_error("ConfigMaps", lambda: config_maps(reader, spec))
    yield from findings_or_error("service accounts", lambda: accounts(reader, spec))
    yield from findings_or_error("PriorityClasses", lambda: priorities(reader, name, spec))
    yield from findings_or_error("volumes", lambda: claims(reader, spec))
    yield from findings_or_error("quotas", lambda: quotas(reader))
    yield from findings_or_error("the nodes' sizes", lambda: sizes(reader, spec))
    yield from findings_or_error("the chart's Deployments", lambda: deployments(reader, name))
    yield from findings_or_error("Argo Events", lambda: events(reader, name))


# -- objects that the template refers to ------------------------------------------------------------------------------


def field_values(tree: Any, field: str) -> Iterator[Any]:
    """All values of a field in a tree of dicts and lists, at any depth."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key == field:
            yield value
        yield from field_values(value, field)
    for value in tree if isinstance(tree, list) else ():
        yield from field_values(value, field)


def secrets(reader: Reader, name: str, spec: dict[str, Any]) -> Iterator[Finding]:
    required: dict[str, set[str]] = {f"{name}-s3": {"access-key", "secret-key"}}  # also of the artifact repository
    for field in ("secretKeyRef", "accessKeySecret", "secretKeySecret"):
        for reference in field_values(spec, field):
            required.setdefault(reference["name"], set()).add(reference["key"])
    for account in field_values(spec.get("executor") or {}, "serviceAccountName"):
        required.setdefault(f"{account}.service-account-token", set()).add("token")
    for reference in spec.get("imagePullSecrets") or []:
        required.setdefault(reference["name"], set())
    for secret, keys in sorted(required.items()):
        manifest = reader.core_object("secret", secret)
        literals = " ".join(f"--from-literal={key}=…" for key in sorted(keys))
        make = f"kubectl -n {reader.namespace} create secret generic {secret} {literals}".strip()
        if manifest is None:
            advice = INSTALL_AGAIN if secret.endswith("-token") else f"Make it: {make}"
            yield Finding(f"the secret {secret} is not there: no pod of a job can start", False, advice)
        elif missing := keys - set(manifest.get("data") or {}):
            yield Finding(
                f"the secret {secret} has no {', '.join(sorted(missing))}", False, "Add the key to the secret."
            )
        else:
            yield Finding(f"the secret {secret}", True)


def config_maps(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    required = [(r["configMap"], r.get("key", "")) for r in field_values(spec, "artifactRepositoryRef")]
    required += [(r["name"], r["key"]) for r in field_values(spec, "configMapKeyRef")]
    for name, key in dict.fromkeys(required):
        manifest = reader.core_object("config_map", name)
        if manifest is None or (key and key not in (manifest.get("data") or {})):
            what = f"the ConfigMap {name} is not there" if manifest is None else f"the ConfigMap {name} has no {key}"
            yield Finding(f"{what}: no job can begin", False, INSTALL_AGAIN)
        else:
            yield Finding(f"the ConfigMap {name}", True)


def accounts(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    for name in dict.fromkeys(field_values(spec, "serviceAccountName")):
        exists = reader.core_object("service_account", name) is not None
        what = f"the service account {name}"
        yield Finding(
            what if exists else f"{what} is not there: pods that use it cannot be made",
            exists,
            "" if exists else INSTALL_AGAIN,
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
    for name in dict.fromkeys(r["claimName"] for r in field_values(spec, "persistentVolumeClaim")):
        claim = reader.core_object("persistent_volume_claim", name)
        if claim is None:
            advice = "Make it, or correct weights.claim in the chart's values."
            yield Finding(f"the PersistentVolumeClaim {name} is not there", False, advice)
        elif (phase := claim.get("status", {}).get("phase")) != "Bound":
            advice = f"Look at its events: kubectl -n {reader.namespace} describe pvc {name}"
            is_pending = phase == "Pending"  # normal with volumeBindingMode WaitForFirstConsumer
            yield Finding(f"the PersistentVolumeClaim {name} is {phase}", None if is_pending else False, advice)
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
            exhausted = ", ".join(f"{name} {text}" for name, text in sorted(full.items()))
            yield Finding(f"{what} is used up ({exhausted}): jobs wait", None, "Raise the quota if they wait too long.")
        else:
            yield Finding(what, True)


def sizes(reader: Reader, spec: dict[str, Any]) -> Iterator[Finding]:
    """Whether the pod of each step's first attempt fits on some node."""
    nodes = [placement.parse_node(manifest) for manifest in reader.nodes()]
    templates_by_verdict: dict[placement.Verdict, list[str]] = {}
    for template in (t for t in spec["templates"] if "container" in t):
        verdict = placement.why_unschedulable(plain_pod(spec, template), nodes, pending.values_name(template["name"]))
        if verdict:
            templates_by_verdict.setdefault(verdict, []).append(template["name"])
    for verdict, steps in templates_by_verdict.items():
        yield Finding(f"no node can take {', '.join(steps)}: {verdict.reason}", False, verdict.advice)
    if not templates_by_verdict:
        yield Finding("every step fits on some node", True)


def plain_pod(spec: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """A pod manifest with a template's scheduling fields."""
    containers = [template["container"], *(template.get("sidecars") or [])]
    shared = {key: spec[key] for key in ("nodeSelector", "tolerations", "affinity") if key in spec}
    return {"metadata": {}, "spec": {**shared, "containers": containers}}


# -- Deployments of the chart -----------------------------------------------------------------------------------------


def deployments(reader: Reader, name: str) -> Iterator[Finding]:
    """Findings on reconciler and gateway. A component is installed if its service account exists."""
    existing = reader.deployments()
    for part, consequence in (
        ("reconciler", "jobs whose pods cannot start wait for ever"),
        ("gateway", "there is no HTTP API"),
    ):
        if reader.core_object("service_account", f"{name}-{part}") is None:
            advice = f"Install the chart with {part}.enabled=true if you want it."
            yield Finding(f"the chart was installed without the {part}: {consequence}", None, advice)
            continue
        deployment = next((d for d in existing if d["metadata"]["name"] == f"{name}-{part}"), None)
        yield deployment_finding(reader, f"the {part}", deployment, consequence)


def deployment_finding(reader: Reader, what: str, deployment: dict[str, Any] | None, consequence: str) -> Finding:
    if deployment is None:
        return Finding(f"{what} is not there: {consequence}", False, INSTALL_AGAIN)
    replicas, name = (deployment.get("spec") or {}).get("replicas", 1), deployment["metadata"]["name"]
    ready = (deployment.get("status") or {}).get("readyReplicas", 0)
    if replicas == 0:
        return Finding(
            f"{what} is scaled to nothing: {consequence}",
            False,
            f"kubectl -n {reader.namespace} scale deployment {name} --replicas=1",
        )
    if not ready:
        return Finding(
            f"{what} is down: {consequence}",
            False,
            f"Look at its pods: kubectl -n {reader.namespace} describe deployment {name}",
        )
    return Finding(f"{what} ({ready} of {replicas} ready)", ready >= replicas or None)


def events(reader: Reader, name: str) -> Iterator[Finding]:
    """Findings on the Argo Events objects and the CronWorkflow of drops, if the chart was installed with events."""
    if reader.core_object("service_account", f"{name}-sensor") is None:
        return
    consequence = "drops are found by the clock alone, a few minutes later"
    existing = reader.deployments()
    for kind, plural, what, label in (
        ("EventSource", "eventsources", f"{name}-drops", "eventsource-name"),
        ("Sensor", "sensors", f"{name}-drops", "sensor-name"),
        ("EventBus", "eventbus", name, ""),
    ):
        manifest = reader.argo_object(plural, what)
        if manifest is None:
            yield Finding(f"the {kind} {what} is not there: {consequence}", False, INSTALL_AGAIN)
            continue
        conditions = (manifest.get("status") or {}).get("conditions") or []
        failing = [c for c in conditions if c.get("status") == "False"]
        own = [d for d in existing if (d["metadata"].get("labels") or {}).get(label) == what] if label else []
        if failing:
            why = failing[0].get("message") or failing[0].get("type")
            yield Finding(
                f"the {kind} {what} is not deployed ({why}): {consequence}", False, "Look at Argo Events' controller."
            )
        elif label:
            yield deployment_finding(reader, f"the {kind} {what}", own[0] if own else None, consequence)
        else:
            yield Finding(f"the {kind} {what}", True)
    cron = reader.argo_object("cronworkflows", f"{name}-drops")
    lost = "what was dropped while anything was down is never found"
    if cron is None:
        yield Finding(f"the CronWorkflow {name}-drops is not there: {lost}", False, INSTALL_AGAIN)
    elif (cron.get("spec") or {}).get("suspend"):
        yield Finding(f"the CronWorkflow {name}-drops is suspended: {lost}", False, f"argo cron resume {name}-drops")
