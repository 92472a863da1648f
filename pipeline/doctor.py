"""`sixview doctor`: checks cluster, template, Argo, GPUs, rights and S3; each finding has advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline import installation
from pipeline.clients import s3, s3_errors, workflows
from pipeline.clients.kubernetes import UNFINISHED, Cluster, Kubernetes
from pipeline.clients.reading import mapping
from pipeline.gateway import health
from pipeline.installation import Finding, Reader
from pipeline.jobs import status
from steps.runtime.errors import StepError
from steps.runtime.options import JOB_OPTIONS, SET, wrong

RIGHTS = (  # RBAC rules of the CLI: verb, API group, resource
    ("create", "argoproj.io", "workflows"),
    ("get", "argoproj.io", "workflows"),
    ("list", "argoproj.io", "workflows"),
    ("patch", "argoproj.io", "workflows"),
    ("update", "argoproj.io", "workflows"),
    ("get", "argoproj.io", "workflowtemplates"),
    ("get", "", "pods/log"),
    ("delete", "", "pods"),
)


def examine(connect: Callable[[], Cluster], template: str) -> Iterator[Finding]:
    """All findings, as they are made. connect: returns a client or raises StepError; template: the WorkflowTemplate's name."""
    try:
        cluster = connect()
        cluster.list("app.kubernetes.io/name=sixview,sixview.dev/source=nobody")
        yield Finding(f"the cluster answers (namespace {cluster.namespace})", True)
    except StepError as error:
        yield Finding(f"the cluster: {error.message}", False, error.suggestion)
    else:
        yield from _template(cluster, template)
        if isinstance(cluster, Kubernetes):
            yield from (_argo(cluster), _gpus(cluster, template), *_rights(cluster))
        else:
            yield Finding(
                "Argo's version, GPUs, rights and all but the template: not to be seen through an Argo Server", None
            )
        yield from installation.findings_or_error("jobs that wait", lambda: _waiting(cluster, template))
    yield _store()


def _template(cluster: Cluster, name: str) -> Iterator[Finding]:
    """Findings on the WorkflowTemplate and the objects that it refers to."""
    try:
        template = cluster.template(name)
    except StepError as error:
        yield Finding(f"the WorkflowTemplate {name}: {error.message}", False, error.suggestion)
        return
    if not template:
        advice = (
            f"Install it: helm install -n {cluster.namespace} {name} charts/sixview; or name another with --template."
        )
        yield Finding(f"there is no WorkflowTemplate {name}", False, advice)
        return
    yield _declared(name, template)
    if isinstance(cluster, Kubernetes):
        yield from installation.examine_parts(Reader(cluster), name, template)


def _declared(name: str, template: dict[str, Any]) -> Finding:
    """Whether the WorkflowTemplate's parameters and defaults match this program's options."""
    defaults = {p["name"]: p.get("value", "") for p in template["spec"].get("arguments", {}).get("parameters", [])}
    defaults.pop(SET, None)
    different = sorted({*wrong(defaults), *(set(JOB_OPTIONS) - set(defaults))})
    if not different:
        return Finding(f"the WorkflowTemplate {name}", True)
    advice = "It is of another version of this program, or was changed: install the chart of this one."
    return Finding(f"the WorkflowTemplate {name} has other options: {', '.join(different)}", False, advice)


def _waiting(cluster: Cluster, template: str) -> Iterator[Finding]:
    """A finding for each waiting job of the template, with the reason."""
    for workflow in map(workflows.read, cluster.list(UNFINISHED)):
        of_template = mapping(workflow["spec"].get("workflowTemplateRef")).get("name") == template
        reason = status.waiting_note(workflow)
        if reason and of_template:
            job = status.job_of(workflow["metadata"]["name"])
            yield Finding(f"the job {job} waits: {reason}", False if " ends as " in reason else None)


def _argo(cluster: Kubernetes) -> Finding:
    """Whether Argo's controller is deployed and ready."""
    from kubernetes import client

    try:
        deployments: Any = client.AppsV1Api(cluster.api).list_deployment_for_all_namespaces()
    except client.ApiException:
        return Finding("Argo's controller: its Deployment may not be read here", None)
    controllers = [d for d in deployments.items if d.metadata.name.endswith("workflow-controller")]
    if not controllers:
        return Finding("there is no Argo Workflows controller", False, "Install Argo Workflows 3.7.")
    controller: Any = controllers[0]
    image, ready = controller.spec.template.spec.containers[0].image, bool(controller.status.ready_replicas)
    return Finding(f"Argo's controller ({image})", ready, "" if ready else "It is not ready: look at its pods.")


def _gpus(cluster: Kubernetes, template: str) -> Finding:
    nodes = health.gpus(cluster)
    if nodes is None:
        return Finding("GPU nodes: nodes may not be listed here", None)
    count = sum(node["count"] for node in nodes)
    if count:
        return Finding(f"{count} GPUs on {len(nodes)} nodes", True)
    advice = "Install NVIDIA's device plugin, or use charts/sixview/ci/cpu-values.yaml for a cluster without GPUs."
    needs_gpu = "nvidia.com/gpu" in str(cluster.template(template))
    return Finding("no node has a GPU", False if needs_gpu else None, advice)


def _rights(cluster: Kubernetes) -> Iterator[Finding]:
    from kubernetes import client

    for verb, group, resource in RIGHTS:
        resource_name, _, subresource = resource.partition("/")
        attributes: dict[str, Any] = {
            "namespace": cluster.namespace,
            "verb": verb,
            "group": group,
            "resource": resource_name,
        }
        attributes |= {"subresource": subresource} if subresource else {}
        review: Any = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        response: Any = client.AuthorizationV1Api(cluster.api).create_self_subject_access_review(review)
        if not response.status.allowed:
            yield Finding(f"no right to {verb} {resource}", False, f"Ask for it in the namespace {cluster.namespace}.")


def _store() -> Finding:
    """Whether the bucket can be listed; a response to HEAD would have no error code."""
    try:
        bucket = s3.bucket()
    except StepError as error:
        return Finding(f"the store: {error.message}", False, error.suggestion)
    try:
        s3.client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    except Exception as error:  # any error is a finding
        what, advice = s3_errors.explain(error)
        return Finding(f"the bucket {bucket} does not answer: {what}", False, advice)
    return Finding(f"the bucket {bucket} answers", True)
