"""Logs of a job's pods: from Kubernetes while the pods exist, else from S3."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.clients import s3, workflows
from pipeline.clients.kubernetes import Cluster
from pipeline.clients.retries import pod_name
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import records
from pipeline.jobs.nodes import step_nodes
from pipeline.jobs.status import folder_of
from steps.runtime.errors import JobNotFound, ValidationFailed


def job_logs(
    cluster: Cluster, job: str, step: str | None = None, follow: bool = False
) -> Iterator[tuple[str, Iterator[str]]]:
    """(heading, lines) for each pod of a job, in order of start. step: only its pods. Raises JobNotFound, ValidationFailed."""
    name = NAME_PREFIX + job
    workflow_json = cluster.get(name)
    if workflow_json is None:
        yield from archived(job, step)
        return
    workflow = workflows.read(workflow_json)
    prefix = f"{s3.LOGS}{NAME_PREFIX}{folder_of(workflow)}/"
    nodes = workflow["status"]["nodes"].values()
    pods = [*step_nodes(workflow), *(n for n in nodes if n["type"] == "Pod" and n["templateName"] == "report")]
    steps = [node["templateName"].removesuffix("-pod") for node in pods]
    if step and step not in steps:
        raise ValidationFailed(
            f"The job {job} has no step {step!r} yet.", f"It has {', '.join(dict.fromkeys(steps)) or 'none'}."
        )
    for node, pod_step in zip(pods, steps, strict=True):
        if not step or pod_step == step:
            yield (
                f"{node['displayName']} ({pod_step}): {node['phase']}",
                pod_log(cluster, prefix, (name, pod_name(workflow, node)), follow),
            )


def pod_log(cluster: Cluster, prefix: str, pod: tuple[str, str], follow: bool) -> Iterator[str]:
    """Lines of a pod's log: from S3 below `prefix` once it is archived, else from the pod. pod: (workflow name, pod name)."""
    archived_log = s3.read(f"{prefix}{pod[1]}/main.log")
    if archived_log is not None:
        yield from archived_log.decode("utf-8", "replace").splitlines()
        return
    yield from cluster.log(*pod, follow)


def archived(job: str, step: str | None) -> Iterator[tuple[str, Iterator[str]]]:
    """(heading, lines) for each archived log, for a job whose workflow has been deleted. Raises JobNotFound."""
    record = records.read(job)
    prefix = f"{s3.LOGS}{NAME_PREFIX}{record['folder'] if record else job}/"
    objects = sorted(s3.listed(prefix), key=lambda o: o["LastModified"])
    if not objects:
        raise JobNotFound(f"There is no job {job}, and there are no logs of it.")
    for item in objects:
        pod = item["Key"].removeprefix(prefix).partition("/")[0]
        pod_step = pod.removeprefix(f"{NAME_PREFIX}{job}-").rpartition("-")[0].removesuffix("-pod")
        if not step or pod_step == step:
            yield pod, iter((s3.read(item["Key"]) or b"").decode("utf-8", "replace").splitlines())
