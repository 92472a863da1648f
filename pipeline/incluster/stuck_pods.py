"""The reconciler: annotates jobs with why they wait, and stops those whose pods can never start.

`python -m pipeline.incluster.stuck_pods --namespace NS --release NAME`

Argo leaves a pod that cannot start Pending for ever; a pod deadline would count the time in the queue for a GPU too. Here the
reason is in an annotation from the start, for status, HTTP and page, and a limit counts only from when the same fault was first
seen. A job is then stopped, not terminated, so that its exit handler runs; another annotation has the reason. Where the exit
handler's own pod cannot start the job is terminated, which frees its place in the semaphore."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.clients import workflows
from pipeline.clients.kubernetes import Kubernetes
from pipeline.clients.reading import decoded, mapping, parse_time
from pipeline.incluster.exit_handler import LABEL_PREFIX
from pipeline.incluster.ledger import Ledger
from pipeline.jobs import pending, placement, status
from pipeline.jobs.failure import ENDED_BY
from pipeline.jobs.pending import Wait
from pipeline.jobs.status import WAITING
from steps.runtime.errors import ConfigurationError, ImageUnavailable, Unschedulable, by_code

WORKFLOW = "workflows.argoproj.io/workflow"
RUNNING = "app.kubernetes.io/name=sixview,workflows.argoproj.io/phase=Running"
NOT_STARTED = "!workflows.argoproj.io/phase"  # selects workflows that Argo's controller has not started
NOT_STARTED_SECONDS = 60.0  # after which that is reported
EXIT_HANDLER = "report"  # template name of the exit handler
EXIT_HANDLER_SECONDS = 60.0  # limit for an exit handler that cannot start, after the job was stopped
PAGE_LIMITS = {"workflows": 10, "pods": 50, "nodes": 50, "events": 50}  # objects per list page, in memory at a time


@dataclass(frozen=True)
class Limits:
    """Seconds until a fault of each kind stops the job. fixed_nodes: the cluster does not scale, so a pod that fits on no node
    stops its job at once."""

    image: float
    configuration: float
    unschedulable: float
    fixed_nodes: bool = False

    def seconds(self, code: str, nodes_known: bool) -> float:
        at_once = self.fixed_nodes and nodes_known
        of_code = {
            ImageUnavailable.code: self.image,
            ConfigurationError.code: self.configuration,
            Unschedulable.code: 0.0 if at_once else self.unschedulable,
        }
        return of_code[code]


@dataclass
class Job:
    """A running workflow, reduced to what `workflow_patch` needs. shutdown: spec.shutdown."""

    name: str
    annotations: dict[str, str]
    shutdown: str
    waits: list[Wait] = field(default_factory=list)


# -- patches ----------------------------------------------------------------------------------------------------------


def most_severe(waits: Iterable[Wait]) -> Wait | None:
    """The wait to report: faults before normal queueing, then by step."""
    return min(waits, key=lambda wait: (not wait.code, wait.step), default=None)


def first_seen(job: Job, wait: Wait, now: datetime) -> datetime:
    """When the same wait (step and code) was first annotated; `now` for a new one."""
    try:
        annotation = json.loads(job.annotations.get(WAITING, "{}"))
        if (annotation["step"], annotation["code"]) == (wait.step, wait.code):
            return min(now, datetime.fromisoformat(annotation["since"]).astimezone(UTC))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # missing or malformed
    return now


def workflow_patch(job: Job, limits: Limits, nodes_known: bool, now: datetime) -> dict[str, Any] | None:
    """The patch for a workflow: its WAITING annotation, or its stop; None for no change. nodes_known: whether nodes were listed.
    For a stopped job only the exit handler's pod counts: the others are being deleted."""
    wait = most_severe(
        wait for wait in job.waits if job.shutdown in ("", "Stop") and (wait.step == EXIT_HANDLER or not job.shutdown)
    )
    if wait is None:
        return {"metadata": {"annotations": {WAITING: None}}} if WAITING in job.annotations else None
    seen_at = first_seen(job, wait, now)
    # step, code, reason, since; for a fault also advice and ends: when the job will be stopped
    content = {"step": wait.step, "code": wait.code, "reason": wait.reason, "since": timestamp(seen_at)}
    if wait.code:
        seconds = limits.seconds(wait.code, nodes_known)
        seconds = min(seconds, EXIT_HANDLER_SECONDS) if job.shutdown else seconds
        if (now - seen_at).total_seconds() >= seconds:
            return stop_patch(job, wait)
        content |= {"advice": wait.advice, "ends": timestamp(seen_at + timedelta(seconds=seconds))}
    text = json.dumps(content, ensure_ascii=False)
    return None if job.annotations.get(WAITING) == text else {"metadata": {"annotations": {WAITING: text}}}


def stop_patch(job: Job, wait: Wait) -> dict[str, Any]:
    """The patch that stops a job, or terminates it where its exit handler cannot run. A cancelled job stays cancelled."""
    annotations: dict[str, str | None] = {WAITING: None}
    if not job.shutdown:
        suggestion = wait.advice or by_code()[wait.code].advice
        annotations[ENDED_BY] = json.dumps(
            {"code": wait.code, "reason": wait.reason, "suggestion": suggestion}, ensure_ascii=False
        )
    metadata: dict[str, Any] = {"annotations": annotations}
    if wait.step == EXIT_HANDLER:
        cancelled = job.shutdown and ENDED_BY not in job.annotations
        code = "CANCELLED" if cancelled else wait.code
        metadata["labels"] = {
            LABEL_PREFIX + "status": "cancelled" if cancelled else "failed",
            LABEL_PREFIX + "error-code": code,
        }
    shutdown = "Terminate" if wait.step == EXIT_HANDLER else "Stop"
    return {
        "metadata": metadata,
        "spec": {"shutdown": shutdown, "suspend": None},
    }  # Argo ignores suspended workflows


def timestamp(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


# -- the cluster ------------------------------------------------------------------------------------------------------


def pages(request: Callable[..., Any], limit: int, **options: Any) -> Iterator[dict[str, Any]]:
    """All items of a list, one page in memory at a time. request: a list method of the client. Raises ApiException."""
    from kubernetes.client import ApiException

    token = ""
    while True:
        token_option = {"_continue": token} if token else {}
        response = request(limit=limit, _preload_content=False, _request_timeout=(5, 60), **options, **token_option)
        if response.status >= 400:  # not raised by the client with _preload_content=False
            raise ApiException(status=response.status, reason=response.reason)
        listing = mapping(decoded(response.data))  # tolerates single objects that are nested too deep
        yield from listing.get("items") or []
        token = (listing.get("metadata") or {}).get("continue") or ""
        if not token:
            return


class Reconciler:
    """Reconciles the jobs of one release in one namespace. read_nodes: whether nodes may be listed; otherwise the scheduler's
    messages decide whether a pod can ever fit."""

    def __init__(self, namespace: str, release: str, limits: Limits, read_nodes: bool = True) -> None:
        cluster = Kubernetes(namespace)
        self.namespace, self.release, self.limits, self.read_nodes = namespace, release, limits, read_nodes
        self.core, self.custom = cluster.core, cluster.custom

    def reconcile(self) -> None:
        """Checks every running job once. Errors of one job are logged and do not affect others."""
        jobs = {job.name: job for job in self.jobs()}
        nodes: list[placement.Node] | None = None
        for pod in self.pods() if jobs else ():
            job = jobs.get(pod["metadata"]["labels"].get(WORKFLOW, ""))
            if job is None or pod["metadata"].get("deletionTimestamp"):
                continue
            is_scheduled = bool(pod["spec"].get("nodeName"))
            nodes = self.nodes() if nodes is None and not is_scheduled else nodes
            wait = self.wait_of_pod(pod, nodes)
            job.waits += [wait] if wait else []
        now = datetime.now(UTC)
        for job in jobs.values():
            change = workflow_patch(job, self.limits, nodes is not None, now)
            if change:
                self.apply(job, change)

    def jobs(self) -> Iterator[Job]:
        request = functools.partial(
            self.custom.list_namespaced_custom_object, "argoproj.io", "v1alpha1", self.namespace, "workflows"
        )
        for workflow in pages(request, PAGE_LIMITS["workflows"], label_selector=RUNNING):
            metadata, spec = workflow["metadata"], workflow.get("spec") or {}
            if mapping(spec.get("workflowTemplateRef")).get("name") != self.release:
                continue
            job = Job(metadata["name"], metadata.get("annotations") or {}, str(spec.get("shutdown") or ""))
            try:
                job.waits += pending.of_workflow(workflow)
            except Exception as error:  # its status may hold anything
                log_error(f"{job.name} cannot be read: {type(error).__name__}: {error}")
            yield job
        for workflow in pages(request, PAGE_LIMITS["workflows"], label_selector=NOT_STARTED):
            yield from self.not_started(workflow, datetime.now(UTC))

    def not_started(self, workflow: dict[str, Any], now: datetime) -> Iterator[Job]:
        """The job, if Argo's controller has not started it for NOT_STARTED_SECONDS. It is only annotated: the controller would
        have to carry out a stop, too."""
        parsed = workflows.read(workflow)
        of_release = mapping(parsed["spec"].get("workflowTemplateRef")).get("name") == self.release
        created = parse_time(parsed["metadata"]["creationTimestamp"])
        if (
            of_release
            and not parsed["status"]["phase"]
            and created
            and (now - created).total_seconds() > NOT_STARTED_SECONDS
        ):
            reason = "Argo's controller has not begun with the job: see whether it runs, and what its log says of it."
            metadata = parsed["metadata"]
            yield Job(
                metadata["name"],
                metadata["annotations"],
                parsed["spec"]["shutdown"],
                [Wait(status.NOT_STARTED, "", reason)],
            )

    def pods(self) -> Iterator[dict[str, Any]]:
        request = functools.partial(self.core.list_namespaced_pod, self.namespace)
        yield from pages(request, PAGE_LIMITS["pods"], label_selector=WORKFLOW, field_selector="status.phase=Pending")

    def wait_of_pod(self, pod: dict[str, Any], nodes: list[placement.Node] | None) -> Wait | None:
        name = pod["metadata"]["name"]
        try:
            wait = pending.of_pod(pod, nodes=nodes)
            if wait is None and pod["spec"].get("nodeName"):
                wait = pending.of_pod(pod, self.events(pod), nodes)
            return wait
        except Exception as error:
            log_error(f"the pod {name} cannot be read: {type(error).__name__}: {error}")
            return None

    def events(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        request = functools.partial(self.core.list_namespaced_event, self.namespace)
        return list(
            pages(request, PAGE_LIMITS["events"], field_selector=f"involvedObject.uid={pod['metadata']['uid']}")
        )

    def nodes(self) -> list[placement.Node] | None:
        """All nodes; None where they may not be listed."""
        from kubernetes.client import ApiException

        if not self.read_nodes:
            return None
        try:
            return [placement.parse_node(manifest) for manifest in pages(self.core.list_node, PAGE_LIMITS["nodes"])]
        except ApiException as error:
            if error.status != 403:
                raise
            log_error("nodes may not be listed: only the scheduler's words tell whether a pod fits anywhere")
            self.read_nodes = False
            return None

    def apply(self, job: Job, change: dict[str, Any]) -> None:
        from kubernetes.client import ApiException

        annotations = change["metadata"]["annotations"]
        print(f"{job.name}: {annotations.get(ENDED_BY) or annotations.get(WAITING) or 'waits no longer'}", flush=True)
        try:
            self.custom.patch_namespaced_custom_object(
                "argoproj.io", "v1alpha1", self.namespace, "workflows", job.name, change
            )
        except ApiException as error:
            log_error(f"{job.name} could not be patched: {error.status} {error.reason}")


def log_error(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.incluster.stuck_pods", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--release", required=True, help="name of the WorkflowTemplate whose jobs these are")
    parser.add_argument("--image-seconds", type=float, default=600.0)
    parser.add_argument("--configuration-seconds", type=float, default=300.0)
    parser.add_argument("--unschedulable-seconds", type=float, default=1800.0)
    parser.add_argument("--fixed-nodes", action="store_true", help="no node will ever be added")
    parser.add_argument("--no-nodes", action="store_true", help="nodes may not be listed")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse_arguments(arguments)
    limits = Limits(flags.image_seconds, flags.configuration_seconds, flags.unschedulable_seconds, flags.fixed_nodes)
    reconciler = Reconciler(flags.namespace, flags.release, limits, not flags.no_nodes)
    ledger = Ledger(Kubernetes(flags.namespace), flags.release)
    while True:
        ledger.reconcile()
        try:
            reconciler.reconcile()
        except Exception as error:  # such as an unavailable API server: retried after the interval
            log_error(f"could not look: {error}")
        time.sleep(flags.interval)


if __name__ == "__main__":
    main()
