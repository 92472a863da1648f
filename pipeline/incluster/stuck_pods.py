"""Says why jobs wait, and ends those that nothing else would end.

`python -m pipeline.incluster.stuck_pods --namespace NS --release NAME` is the reconciler.

Argo leaves a pod that cannot start Pending for ever, and its own limit on it would count the time in the queue for a GPU too.
Here the reason stands in an annotation from the start, for status, HTTP and page, and only the time since one and the same fault
was first seen counts. A job is then stopped, not terminated, so that its exit handler runs and tells; why it was stopped stands
in an annotation, too. Where the exit handler itself cannot start the job is terminated: its place is free in any case."""

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
from pipeline.incluster.exit_handler import PREFIX
from pipeline.incluster.ledger import Ledger
from pipeline.jobs import pending, placement, status
from pipeline.jobs.failure import ENDED_BY
from pipeline.jobs.pending import Wait
from pipeline.jobs.status import WAITING
from steps.runtime.errors import ConfigurationError, ImageUnavailable, Unschedulable, by_code

WORKFLOW = "workflows.argoproj.io/workflow"
RUNNING = "app.kubernetes.io/name=sixview,workflows.argoproj.io/phase=Running"
UNTAKEN = "!workflows.argoproj.io/phase"  # Argo's controller has not begun with them
UNTAKEN_SECONDS = 60.0  # after which that is worth telling
REPORT = "report"  # the exit handler's template
REPORT_SECONDS = 60.0  # an exit handler that cannot start, of a job that was ended for the same reason
PAGE = {"workflows": 10, "pods": 50, "nodes": 50, "events": 50}  # of each at a time in memory


@dataclass(frozen=True)
class Limits:
    """Seconds that a fault may last before it ends a job. fixed_nodes: no node will ever be added, so what fits on none of them
    never will."""

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
    """What is kept of a running workflow between two pages of a listing."""

    name: str
    annotations: dict[str, str]
    shutdown: str
    waits: list[Wait] = field(default_factory=list)


# -- what a job waits for ------------------------------------------------------------------------------------------------


def chosen(waits: Iterable[Wait]) -> Wait | None:
    """The one that counts: a fault before what only takes its time."""
    return min(waits, key=lambda wait: (not wait.code, wait.step), default=None)


def since(job: Job, wait: Wait, now: datetime) -> datetime:
    """When this fault of this step was first seen."""
    try:
        before = json.loads(job.annotations.get(WAITING, "{}"))
        if (before["step"], before["code"]) == (wait.step, wait.code):
            return min(now, datetime.fromisoformat(before["since"]).astimezone(UTC))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # none, or one that somebody else has written
    return now


def patch(job: Job, limits: Limits, nodes_known: bool, now: datetime) -> dict[str, Any] | None:
    """What is to be changed of a workflow: the reason, or its end; None where nothing is. Of a job that was stopped already only
    the exit handler counts: the other pods are about to go."""
    wait = chosen(
        wait for wait in job.waits if job.shutdown in ("", "Stop") and (wait.step == REPORT or not job.shutdown)
    )
    if wait is None:
        return {"metadata": {"annotations": {WAITING: None}}} if WAITING in job.annotations else None
    begun = since(job, wait, now)
    # step, code and reason; since when; of a fault what can be done about it, and when the job ends if nothing is
    told = {"step": wait.step, "code": wait.code, "reason": wait.reason, "since": stamp(begun)}
    if wait.code:
        seconds = limits.seconds(wait.code, nodes_known)
        seconds = min(seconds, REPORT_SECONDS) if job.shutdown else seconds
        if (now - begun).total_seconds() >= seconds:
            return ended(job, wait)
        told |= {"advice": wait.advice, "ends": stamp(begun + timedelta(seconds=seconds))}
    text = json.dumps(told, ensure_ascii=False)
    return None if job.annotations.get(WAITING) == text else {"metadata": {"annotations": {WAITING: text}}}


def ended(job: Job, wait: Wait) -> dict[str, Any]:
    """Stops a job, or terminates it where its exit handler cannot run. What a user has cancelled stays cancelled."""
    annotations: dict[str, str | None] = {WAITING: None}
    if not job.shutdown:
        suggestion = wait.advice or by_code()[wait.code].advice
        annotations[ENDED_BY] = json.dumps(
            {"code": wait.code, "reason": wait.reason, "suggestion": suggestion}, ensure_ascii=False
        )
    metadata: dict[str, Any] = {"annotations": annotations}
    if wait.step == REPORT:
        cancelled = job.shutdown and ENDED_BY not in job.annotations
        code = "CANCELLED" if cancelled else wait.code
        metadata["labels"] = {PREFIX + "status": "cancelled" if cancelled else "failed", PREFIX + "error-code": code}
    order = "Terminate" if wait.step == REPORT else "Stop"
    return {"metadata": metadata, "spec": {"shutdown": order, "suspend": None}}  # Argo looks at no suspended workflow


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


# -- the cluster --------------------------------------------------------------------------------------------------------


def pages(ask: Callable[..., Any], limit: int, **options: Any) -> Iterator[dict[str, Any]]:
    """Every item of a listing, one page of it in memory at a time. Raises ApiException where the API server refuses."""
    from kubernetes.client import ApiException

    token = ""
    while True:
        more = {"_continue": token} if token else {}
        answer = ask(limit=limit, _preload_content=False, _request_timeout=(5, 60), **options, **more)
        if answer.status >= 400:  # not raised for an answer that is read as it comes
            raise ApiException(status=answer.status, reason=answer.reason)
        found = mapping(decoded(answer.data))  # one object that is nested too deep costs the others nothing
        yield from found.get("items") or []
        token = (found.get("metadata") or {}).get("continue") or ""
        if not token:
            return


class Reconciler:
    """One release's jobs in one namespace. read_nodes: whether there is the right to list nodes; without it only what the
    scheduler says tells whether a pod fits anywhere."""

    def __init__(self, namespace: str, release: str, limits: Limits, read_nodes: bool = True) -> None:
        cluster = Kubernetes(namespace)
        self.namespace, self.release, self.limits, self.read_nodes = namespace, release, limits, read_nodes
        self.core, self.custom = cluster.core, cluster.custom

    def look(self) -> None:
        """Every running job once. One that cannot be read or patched costs no other one its turn."""
        jobs = {job.name: job for job in self.jobs()}
        nodes: list[placement.Node] | None = None
        for pod in self.pods() if jobs else ():
            job = jobs.get(pod["metadata"]["labels"].get(WORKFLOW, ""))
            if job is None or pod["metadata"].get("deletionTimestamp"):
                continue
            with_node = bool(pod["spec"].get("nodeName"))
            nodes = self.nodes() if nodes is None and not with_node else nodes
            found = self.of_pod(pod, nodes)
            job.waits += [found] if found else []
        now = datetime.now(UTC)
        for job in jobs.values():
            change = patch(job, self.limits, nodes is not None, now)
            if change:
                self.apply(job, change)

    def jobs(self) -> Iterator[Job]:
        ask = functools.partial(
            self.custom.list_namespaced_custom_object, "argoproj.io", "v1alpha1", self.namespace, "workflows"
        )
        for workflow in pages(ask, PAGE["workflows"], label_selector=RUNNING):
            metadata, spec = workflow["metadata"], workflow.get("spec") or {}
            if mapping(spec.get("workflowTemplateRef")).get("name") != self.release:
                continue
            job = Job(metadata["name"], metadata.get("annotations") or {}, str(spec.get("shutdown") or ""))
            try:
                job.waits += pending.of_workflow(workflow)
            except Exception as error:  # whatever stands in its status
                complain(f"{job.name} cannot be read: {type(error).__name__}: {error}")
            yield job
        for workflow in pages(ask, PAGE["workflows"], label_selector=UNTAKEN):
            yield from self.untaken(workflow, datetime.now(UTC))

    def untaken(self, workflow: dict[str, Any], now: datetime) -> Iterator[Job]:
        """A job that Argo's controller has not begun with for a while: it is away, or has given up without a word. Only the
        reason is written: an order to stop would be the controller's to carry out, too."""
        found = workflows.read(workflow)
        of_release = mapping(found["spec"].get("workflowTemplateRef")).get("name") == self.release
        since = parse_time(found["metadata"]["creationTimestamp"])
        if of_release and not found["status"]["phase"] and since and (now - since).total_seconds() > UNTAKEN_SECONDS:
            reason = "Argo's controller has not begun with the job: see whether it runs, and what its log says of it."
            metadata = found["metadata"]
            yield Job(
                metadata["name"],
                metadata["annotations"],
                found["spec"]["shutdown"],
                [Wait(status.NOT_STARTED, "", reason)],
            )

    def pods(self) -> Iterator[dict[str, Any]]:
        ask = functools.partial(self.core.list_namespaced_pod, self.namespace)
        yield from pages(ask, PAGE["pods"], label_selector=WORKFLOW, field_selector="status.phase=Pending")

    def of_pod(self, pod: dict[str, Any], nodes: list[placement.Node] | None) -> Wait | None:
        name = pod["metadata"]["name"]
        try:
            found = pending.of_pod(pod, nodes=nodes)
            if found is None and pod["spec"].get("nodeName"):
                found = pending.of_pod(pod, self.events(pod), nodes)
            return found
        except Exception as error:
            complain(f"the pod {name} cannot be read: {type(error).__name__}: {error}")
            return None

    def events(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        ask = functools.partial(self.core.list_namespaced_event, self.namespace)
        return list(pages(ask, PAGE["events"], field_selector=f"involvedObject.uid={pod['metadata']['uid']}"))

    def nodes(self) -> list[placement.Node] | None:
        """None where they may not be listed."""
        from kubernetes.client import ApiException

        if not self.read_nodes:
            return None
        try:
            return [placement.parse_node(found) for found in pages(self.core.list_node, PAGE["nodes"])]
        except ApiException as error:
            if error.status != 403:
                raise
            complain("nodes may not be listed: only the scheduler's words tell whether a pod fits anywhere")
            self.read_nodes = False
            return None

    def apply(self, job: Job, change: dict[str, Any]) -> None:
        from kubernetes.client import ApiException

        told = change["metadata"]["annotations"]
        print(f"{job.name}: {told.get(ENDED_BY) or told.get(WAITING) or 'waits no longer'}", flush=True)
        try:
            self.custom.patch_namespaced_custom_object(
                "argoproj.io", "v1alpha1", self.namespace, "workflows", job.name, change
            )
        except ApiException as error:
            complain(f"{job.name} could not be patched: {error.status} {error.reason}")


def complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.incluster.stuck_pods", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--release", required=True, help="name of the WorkflowTemplate whose jobs these are")
    parser.add_argument("--image-seconds", type=float, default=600.0)
    parser.add_argument("--configuration-seconds", type=float, default=300.0)
    parser.add_argument("--unschedulable-seconds", type=float, default=1800.0)
    parser.add_argument("--fixed-nodes", action="store_true", help="no node will ever be added")
    parser.add_argument("--no-nodes", action="store_true", help="nodes may not be listed")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    asked = parsed(words)
    limits = Limits(asked.image_seconds, asked.configuration_seconds, asked.unschedulable_seconds, asked.fixed_nodes)
    reconciler = Reconciler(asked.namespace, asked.release, limits, not asked.no_nodes)
    ledger = Ledger(Kubernetes(asked.namespace), asked.release)
    while True:
        ledger.look()
        try:
            reconciler.look()
        except Exception as error:  # an API server that is away for a while: the next look may find it again
            complain(f"could not look: {error}")
        time.sleep(asked.interval)


if __name__ == "__main__":
    main()
