"""What a job's pods printed."""

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


def of_job(
    cluster: Cluster, job: str, step: str | None = None, follow: bool = False
) -> Iterator[tuple[str, Iterator[str]]]:
    """For each pod in the order of their beginning: its step and attempt, and its lines. Raises JobNotFound, ValidationFailed."""
    name = NAME_PREFIX + job
    found = cluster.get(name)
    if found is None:
        yield from archived(job, step)
        return
    workflow = workflows.read(found)
    prefix = f"{s3.LOGS}{NAME_PREFIX}{folder_of(workflow)}/"
    nodes = workflow["status"]["nodes"].values()
    pods = [*step_nodes(workflow), *(n for n in nodes if n["type"] == "Pod" and n["templateName"] == "report")]
    steps = [node["templateName"].removesuffix("-pod") for node in pods]
    if step and step not in steps:
        raise ValidationFailed(
            f"The job {job} has no step {step!r} yet.", f"It has {', '.join(dict.fromkeys(steps)) or 'none'}."
        )
    for node, its in zip(pods, steps, strict=True):
        if not step or its == step:
            yield (
                f"{node['displayName']} ({its}): {node['phase']}",
                lines(cluster, prefix, (name, pod_name(workflow, node)), follow),
            )


def lines(cluster: Cluster, prefix: str, pod: tuple[str, str], follow: bool) -> Iterator[str]:
    """From S3, below `prefix`, once the pod has ended, else from the pod. pod: its workflow's name and its own."""
    kept = s3.read(f"{prefix}{pod[1]}/main.log")
    if kept is not None:
        yield from kept.decode("utf-8", "replace").splitlines()
        return
    yield from cluster.log(*pod, follow)


def archived(job: str, step: str | None) -> Iterator[tuple[str, Iterator[str]]]:
    """Of a workflow that is gone."""
    record = records.read(job)
    prefix = f"{s3.LOGS}{NAME_PREFIX}{record['folder'] if record else job}/"
    found = sorted(s3.listed(prefix), key=lambda o: o["LastModified"])
    if not found:
        raise JobNotFound(f"There is no job {job}, and there are no logs of it.")
    for item in found:
        pod = item["Key"].removeprefix(prefix).partition("/")[0]
        its = pod.removeprefix(f"{NAME_PREFIX}{job}-").rpartition("-")[0].removesuffix("-pod")
        if not step or its == step:
            yield pod, iter((s3.read(item["Key"]) or b"").decode("utf-8", "replace").splitlines())
