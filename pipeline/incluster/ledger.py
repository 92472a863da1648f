"""A record of every job, however it ends: of what was deleted, terminated, or could not run its exit handler.

The reconciler keeps one small object per unfinished job, `open/<job>.<uid>.json`: what a record needs once the workflow is gone.
A finalizer would do the same, and would hold everything back when the chart is uninstalled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pipeline.clients import s3, workflows
from pipeline.clients.kubernetes import FINISHED, UNFINISHED, Kubernetes
from pipeline.incluster import exit_handler
from pipeline.jobs import failure, nodes, records, status
from steps.runtime.errors import Cancelled

UNTOLD = f"{FINISHED},!{exit_handler.PREFIX}status"  # ended, and no exit handler has labelled them
KEPT_METADATA = ("name", "namespace", "uid", "creationTimestamp", "labels", "annotations")

Workflow = dict[str, Any]


class Ledger:
    """The jobs of one release in one namespace."""

    def __init__(self, cluster: Kubernetes, release: str) -> None:
        self.cluster, self.release = cluster, release
        self.foreign: set[str] = set()  # uids of other releases' workflows

    def look(self) -> None:
        """Brings the objects and the records up to date. What cannot be done now is done at the next look."""
        try:
            written = {uid_of(item["Key"]): item["Key"] for item in s3.listed(s3.OPEN)}
            running = {head["uid"]: head["name"] for head in self.heads(UNFINISHED)}
            untold = {head["uid"]: head["name"] for head in self.heads(UNTOLD)}
        except Exception as error:
            complain("could not look for jobs without a record", error)
            return
        for uid in running.keys() - written.keys() - self.foreign:
            self.attempt(self.begin, running[uid], uid)
        for uid in written.keys() - running.keys():
            self.attempt(self.close, written[uid])
        for uid in untold.keys() - written.keys() - self.foreign:
            self.attempt(self.tell, untold[uid], uid)
        self.foreign &= running.keys() | untold.keys()

    def attempt(self, what: Callable[..., None], *arguments: str) -> None:
        """One job that cannot be written down costs no other one its record."""
        try:
            what(*arguments)
        except Exception as error:
            complain(arguments[0], error)

    def heads(self, selector: str) -> Iterator[dict[str, str]]:
        """Name and uid of every workflow with these labels."""
        for page in self.cluster.pages(selector, full=False):
            yield from (workflows.read(item)["metadata"] for item in page.items)

    def ours(self, name: str, uid: str) -> Workflow | None:
        """The workflow, if it is still there and a job of this release."""
        workflow = self.cluster.get(name)
        if workflow is None or workflow["metadata"]["uid"] != uid:
            return None
        if workflow["spec"].get("workflowTemplateRef", {}).get("name") != self.release:
            self.foreign.add(uid)
            return None
        return workflow

    def begin(self, name: str, uid: str) -> None:
        """Writes a job's object."""
        workflow = self.ours(name, uid)
        if workflow is not None:
            s3.write_json(key_of(name, uid), {"workflow": remembered(workflow), "seen_at": now()})

    def close(self, key: str) -> None:
        """Ends a job's object: with a record, unless its exit handler has written one since the object was."""
        entry = s3.read_json(key)
        if isinstance(entry, dict) and isinstance(entry.get("workflow"), dict):
            kept, since = entry["workflow"], str(entry.get("seen_at", ""))
            workflow = self.cluster.get(kept["metadata"]["name"])
            if workflow is not None and workflow["metadata"]["uid"] != kept["metadata"]["uid"]:
                workflow = None
            if workflow is not None and workflow.get("status", {}).get("phase") not in status.ENDED:
                return  # it goes on again
            if not recorded(status.job_of(kept["metadata"]["name"]), since):
                self.settle(workflow) if workflow else deleted(kept)
        s3.remove(f"s3://{s3.bucket()}/{key}")

    def tell(self, name: str, uid: str) -> None:
        """The record of a job that ended before its object was written."""
        workflow = self.ours(name, uid)
        if workflow is not None:
            self.settle(workflow)

    def settle(self, workflow: Workflow) -> None:
        """What the exit handler would have written."""
        workflow = workflows.read(workflow)
        values = failure.describe(workflow, [], nodes.tasks_phase(workflow))
        changes = exit_handler.ending(values, workflow["status"]["finishedAt"] or now())
        exit_handler.finalize(workflow, changes)
        name, told = workflow["metadata"]["name"], records.annotation(workflow, changes)
        exit_handler.label(values, told, self.cluster.namespace, name, self.cluster.custom)


def remembered(workflow: Workflow) -> Workflow:
    """As much of a workflow as a record of it needs."""
    metadata = {name: workflow["metadata"][name] for name in KEPT_METADATA if name in workflow["metadata"]}
    given = [{"name": name, "value": value} for name, value in status.parameters(workflow).items()]
    spec = {"workflowTemplateRef": workflow["spec"]["workflowTemplateRef"], "arguments": {"parameters": given}}
    return {"metadata": metadata, "spec": spec, "status": {}}


def deleted(workflow: Workflow) -> None:
    """The record of a job whose workflow was deleted before it had ended."""
    error = Cancelled("The workflow was deleted before it had ended.")
    record = failure.with_details(error, None, [])
    exit_handler.finalize(workflow, {"status": "cancelled", "error": record, "ended_at": now()})


def recorded(job: str, since: str) -> bool:
    """Whether there is a record of an end after that moment: a job that was tried again may have one of its end before."""
    found = records.read(job)
    return found is not None and (found.get("ended_at") or "") >= since


def key_of(name: str, uid: str) -> str:
    """Where a job's object lies."""
    return f"{s3.OPEN}{status.job_of(name)}.{uid}.json"


def uid_of(key: str) -> str:
    return key.removesuffix(".json").rpartition(".")[2]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def complain(what: str, error: Exception) -> None:
    print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
