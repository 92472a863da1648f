"""Records for jobs whose exit handler did not run: deleted or terminated workflows.

The reconciler keeps one small object per unfinished job, `open/<job>.<uid>.json`, with the fields that a record needs after the
workflow is deleted. A finalizer would also work, but would block deletions once the chart is uninstalled."""

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

UNLABELLED = (
    f"{FINISHED},!{exit_handler.LABEL_PREFIX}status"  # selects finished workflows without the exit handler's labels
)
METADATA_FIELDS = ("name", "namespace", "uid", "creationTimestamp", "labels", "annotations")

Workflow = dict[str, Any]


class Ledger:
    """Entries under open/ for the jobs of one release in one namespace."""

    def __init__(self, cluster: Kubernetes, release: str) -> None:
        self.cluster, self.release = cluster, release
        self.other_releases: set[str] = set()  # uids of other releases' workflows

    def reconcile(self) -> None:
        """Creates and closes entries, and records unlabelled workflows. Errors are logged and retried at the next call."""
        try:
            entries = {uid_of(item["Key"]): item["Key"] for item in s3.listed(s3.OPEN)}
            running = {head["uid"]: head["name"] for head in self.list_metadata(UNFINISHED)}
            unlabelled = {head["uid"]: head["name"] for head in self.list_metadata(UNLABELLED)}
        except Exception as error:
            log_error("could not look for jobs without a record", error)
            return
        for uid in running.keys() - entries.keys() - self.other_releases:
            self.try_call(self.write_entry, running[uid], uid)
        for uid in entries.keys() - running.keys():
            self.try_call(self.close_entry, entries[uid])
        for uid in unlabelled.keys() - entries.keys() - self.other_releases:
            self.try_call(self.record_ended, unlabelled[uid], uid)
        self.other_releases &= running.keys() | unlabelled.keys()

    def try_call(self, action: Callable[..., None], *arguments: str) -> None:
        """Calls `action`, logging exceptions: an error of one job must not affect others."""
        try:
            action(*arguments)
        except Exception as error:
            log_error(arguments[0], error)

    def list_metadata(self, selector: str) -> Iterator[dict[str, str]]:
        """Metadata of all workflows with these labels."""
        for page in self.cluster.pages(selector, full=False):
            yield from (workflows.read(item)["metadata"] for item in page.items)

    def get_job(self, name: str, uid: str) -> Workflow | None:
        """The workflow, if it exists with this uid and belongs to this release."""
        workflow = self.cluster.get(name)
        if workflow is None or workflow["metadata"]["uid"] != uid:
            return None
        if workflow["spec"].get("workflowTemplateRef", {}).get("name") != self.release:
            self.other_releases.add(uid)
            return None
        return workflow

    def write_entry(self, name: str, uid: str) -> None:
        """Writes a job's entry."""
        workflow = self.get_job(name, uid)
        if workflow is not None:
            s3.write_json(key_of(name, uid), {"workflow": entry_workflow(workflow), "seen_at": timestamp()})

    def close_entry(self, key: str) -> None:
        """Deletes a job's entry, after writing its record unless there is one newer than the entry."""
        entry = s3.read_json(key)
        if isinstance(entry, dict) and isinstance(entry.get("workflow"), dict):
            stored, since = entry["workflow"], str(entry.get("seen_at", ""))
            workflow = self.cluster.get(stored["metadata"]["name"])
            if workflow is not None and workflow["metadata"]["uid"] != stored["metadata"]["uid"]:
                workflow = None
            if workflow is not None and workflow.get("status", {}).get("phase") not in status.ENDED:
                return  # it was retried
            if not has_record_since(status.job_of(stored["metadata"]["name"]), since):
                self.finalize(workflow) if workflow else record_deleted(stored)
        s3.remove(f"s3://{s3.bucket()}/{key}")

    def record_ended(self, name: str, uid: str) -> None:
        """Writes the record of a job that ended before it had an entry."""
        workflow = self.get_job(name, uid)
        if workflow is not None:
            self.finalize(workflow)

    def finalize(self, workflow: Workflow) -> None:
        """Writes the record, labels and annotations in place of the exit handler."""
        workflow = workflows.read(workflow)
        values = failure.describe(workflow, [], nodes.tasks_phase(workflow))
        changes = exit_handler.ending(values, workflow["status"]["finishedAt"] or timestamp())
        exit_handler.finalize(workflow, changes)
        annotation = records.annotation(workflow, changes)
        exit_handler.label_workflow(values, annotation, self.cluster.namespace, workflow, self.cluster.custom)


def entry_workflow(workflow: Workflow) -> Workflow:
    """The fields of a workflow that its record needs."""
    metadata = {name: workflow["metadata"][name] for name in METADATA_FIELDS if name in workflow["metadata"]}
    parameters = [{"name": name, "value": value} for name, value in status.parameters(workflow).items()]
    spec = {"workflowTemplateRef": workflow["spec"]["workflowTemplateRef"], "arguments": {"parameters": parameters}}
    return {"metadata": metadata, "spec": spec, "status": {}}


def record_deleted(workflow: Workflow) -> None:
    """Writes the record of a job whose workflow was deleted before it had ended."""
    error = Cancelled("The workflow was deleted before it had ended.")
    record = failure.with_details(error, None, [])
    exit_handler.finalize(workflow, {"status": "cancelled", "error": record, "ended_at": timestamp()})


def has_record_since(job: str, since: str) -> bool:
    """Whether the job has a record with ended_at after `since`; a retried job may have an older one."""
    final = records.read(job)
    return final is not None and (final.get("ended_at") or "") >= since


def key_of(name: str, uid: str) -> str:
    """Key of a job's entry."""
    return f"{s3.OPEN}{status.job_of(name)}.{uid}.json"


def uid_of(key: str) -> str:
    return key.removesuffix(".json").rpartition(".")[2]


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def log_error(subject: str, error: Exception) -> None:
    print(f"{subject}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
