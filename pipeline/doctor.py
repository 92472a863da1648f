"""What `sixview doctor` looks at: everything that has to be there for a job, each with what to do where it is not."""

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

RIGHTS = (  # what the CLI needs: verb, group, resource
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
    """One finding after the other."""
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
        yield from installation.looked("jobs that wait", lambda: _waiting(cluster, template))
    yield _store()


def _template(cluster: Cluster, name: str) -> Iterator[Finding]:
    """The template, and everything that it names."""
    try:
        found = cluster.template(name)
    except StepError as error:
        yield Finding(f"the WorkflowTemplate {name}: {error.message}", False, error.suggestion)
        return
    if not found:
        advice = (
            f"Install it: helm install -n {cluster.namespace} {name} charts/sixview; or name another with --template."
        )
        yield Finding(f"there is no WorkflowTemplate {name}", False, advice)
        return
    yield _declared(name, found)
    if isinstance(cluster, Kubernetes):
        yield from installation.parts(Reader(cluster), name, found)


def _declared(name: str, template: dict[str, Any]) -> Finding:
    """Whether a WorkflowTemplate offers the options that this program knows, with defaults that it takes."""
    offered = {p["name"]: p.get("value", "") for p in template["spec"].get("arguments", {}).get("parameters", [])}
    offered.pop(SET, None)
    odd = sorted({*wrong(offered), *(set(JOB_OPTIONS) - set(offered))})
    if not odd:
        return Finding(f"the WorkflowTemplate {name}", True)
    advice = "It is of another version of this program, or was changed: install the chart of this one."
    return Finding(f"the WorkflowTemplate {name} has other options: {', '.join(odd)}", False, advice)


def _waiting(cluster: Cluster, template: str) -> Iterator[Finding]:
    """The template's jobs that do not go on right now, and why."""
    for workflow in map(workflows.read, cluster.list(UNFINISHED)):
        of_template = mapping(workflow["spec"].get("workflowTemplateRef")).get("name") == template
        why = status.waiting_note(workflow)
        if why and of_template:
            job = status.job_of(workflow["metadata"]["name"])
            yield Finding(f"the job {job} waits: {why}", False if " ends as " in why else None)


def _argo(cluster: Kubernetes) -> Finding:
    """By the controller's image, or by what it wrote on workflows where its Deployment may not be read."""
    from kubernetes import client

    try:
        every: Any = client.AppsV1Api(cluster.api).list_deployment_for_all_namespaces()
    except client.ApiException:
        return Finding("Argo's controller: its Deployment may not be read here", None)
    listed = [d for d in every.items if d.metadata.name.endswith("workflow-controller")]
    if not listed:
        return Finding("there is no Argo Workflows controller", False, "Install Argo Workflows 3.7.")
    found: Any = listed[0]
    image, ready = found.spec.template.spec.containers[0].image, bool(found.status.ready_replicas)
    return Finding(f"Argo's controller ({image})", ready, "" if ready else "It is not ready: look at its pods.")


def _gpus(cluster: Kubernetes, template: str) -> Finding:
    found = health.gpus(cluster)
    if found is None:
        return Finding("GPU nodes: nodes may not be listed here", None)
    count = sum(node["count"] for node in found)
    if count:
        return Finding(f"{count} GPUs on {len(found)} nodes", True)
    advice = "Install NVIDIA's device plugin, or use charts/sixview/ci/cpu-values.yaml for a cluster without GPUs."
    wanted = "nvidia.com/gpu" in str(cluster.template(template))
    return Finding("no node has a GPU", False if wanted else None, advice)


def _rights(cluster: Kubernetes) -> Iterator[Finding]:
    from kubernetes import client

    for verb, group, resource in RIGHTS:
        resource_name, _, sub = resource.partition("/")
        attributes: dict[str, Any] = {
            "namespace": cluster.namespace,
            "verb": verb,
            "group": group,
            "resource": resource_name,
        }
        attributes |= {"subresource": sub} if sub else {}
        review: Any = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer: Any = client.AuthorizationV1Api(cluster.api).create_self_subject_access_review(review)
        if not answer.status.allowed:
            yield Finding(f"no right to {verb} {resource}", False, f"Ask for it in the namespace {cluster.namespace}.")


def _store() -> Finding:
    """A listing, since the answer to a HEAD has no room for the reason of a refusal."""
    bucket = s3.bucket()
    try:
        s3.client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    except Exception as error:  # whatever keeps us from it
        what, advice = s3_errors.explain(error)
        return Finding(f"the bucket {bucket} does not answer: {what}", False, advice)
    return Finding(f"the bucket {bucket} answers", True)
