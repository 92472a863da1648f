"""Every job gets a record, also when its workflow was deleted or terminated or its exit handler could not run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.clients.kubernetes import COMPLETED_LABEL, UNFINISHED, Page
from pipeline.incluster.ledger import Ledger
from pipeline.jobs.status import of_workflow

NAME, UID = "sixview-abc12345", "5a0b2c6e-0000-4000-8000-0123456789ab"
KEY = f"open/abc12345.{UID}.json"
BEFORE, AFTER = "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def job(phase: str = "", nodes: dict[str, Any] | None = None, release: str = "sixview", **spec: Any) -> dict[str, Any]:
    is_finished = phase in ("Failed", "Error", "Succeeded")
    labels = {"app.kubernetes.io/name": "sixview", "sixview.dev/owner": "alice", "sixview.dev/source": "http"}
    return {
        "metadata": {
            "name": NAME,
            "uid": UID,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels | ({COMPLETED_LABEL: "true"} if is_finished else {}),
            "annotations": {},
            "managedFields": ["x" * 1000],
        },
        "spec": {
            "workflowTemplateRef": {"name": release},
            "arguments": {
                "parameters": [{"name": "input", "value": "s3://shared/mug"}, {"name": "model", "value": "both"}]
            },
            **spec,
        },
        "status": {
            "phase": phase,
            "nodes": nodes or {},
            **({"finishedAt": "2026-01-01T00:05:00Z"} if is_finished else {}),
        },
    }


class Cluster:
    """A cluster client for at most one workflow."""

    namespace = "sixview"

    def __init__(self, workflow: dict[str, Any] | None) -> None:
        self.workflow = workflow
        self.custom = self

    def get(self, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.workflow) if self.workflow and self.workflow["metadata"]["name"] == name else None

    def pages(self, selector: str, full: bool) -> Iterator[Page]:
        assert not full
        items = []
        if self.workflow:
            labels = self.workflow["metadata"]["labels"]
            is_finished, is_labelled = labels.get(COMPLETED_LABEL) == "true", "sixview.dev/status" in labels
            if is_finished != (selector == UNFINISHED) and not (is_finished and is_labelled):
                items = [{"metadata": self.workflow["metadata"]}]
        yield Page(items, "")

    def patch_namespaced_custom_object(self, *arguments: Any) -> None:
        assert self.workflow is not None
        self.workflow["metadata"]["labels"] |= {k: v for k, v in arguments[-1]["metadata"]["labels"].items() if v}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """key -> JSON of the bucket's objects. purged: the prefixes that were deleted."""
    objects: dict[str, Any] = {}
    purged: list[str] = objects.setdefault("purged", [])

    def listed(prefix: str) -> list[dict[str, Any]]:
        return [{"Key": key, "LastModified": 0} for key in list(objects) if key.startswith(prefix)]

    monkeypatch.setattr(s3, "listed", listed)
    monkeypatch.setattr(s3, "read_json", lambda key: objects.get(key))
    monkeypatch.setattr(s3, "write_json", lambda key, value: objects.update({key: json.loads(json.dumps(value))}))
    monkeypatch.setattr(s3, "remove", lambda address: objects.pop(s3.split(address)[1], None))
    monkeypatch.setattr(s3, "purge", lambda prefix, keep=(): purged.append(prefix))
    return objects


def record(store: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in store.items() if key.startswith("records/"))


def has_record(store: dict[str, Any]) -> bool:
    return any(key.startswith("records/") for key in store)


def test_a_running_job_has_one_small_object_that_says_whose_it_is(store: dict[str, Any]) -> None:
    Ledger(Cluster(job("Running")), "sixview").reconcile()  # type: ignore[arg-type]
    stored = store[KEY]["workflow"]
    assert len(json.dumps(store[KEY])) < 1000
    job_status = of_workflow(stored)
    assert (job_status["job_id"], job_status["owner"], job_status["source"], job_status["model_type"]) == (
        "abc12345",
        "alice",
        "http",
        "both",
    )
    assert not has_record(store)


def test_a_job_whose_workflow_was_deleted_is_recorded_as_cancelled(store: dict[str, Any]) -> None:
    cluster = Cluster(job("Running"))
    ledger = Ledger(cluster, "sixview")  # type: ignore[arg-type]
    ledger.reconcile()
    cluster.workflow = None
    ledger.reconcile()
    final = record(store)
    assert (final["status"], final["error"]["code"], final["owner"]) == ("cancelled", "CANCELLED", "alice")
    assert "deleted" in final["error"]["message"]
    assert {"step", "pipeline_stage", "oom_type", "attempts"} <= set(final["error"]["details"])
    assert store[s3.key_of("abc12345", "failure.json")] == final["error"]
    assert KEY not in store
    assert "jobs/abc12345" in "".join(store["purged"])  # as of any cancelled job


def test_a_new_workflow_of_the_same_name_is_another_job(store: dict[str, Any]) -> None:
    cluster = Cluster(job("Running"))
    ledger = Ledger(cluster, "sixview")  # type: ignore[arg-type]
    ledger.reconcile()
    cluster.workflow = job("Running")
    cluster.workflow["metadata"]["uid"] = UID.replace("5a0b", "ffff")
    ledger.reconcile()
    assert record(store)["error"]["code"] == "CANCELLED"
    assert [key for key in store if key.startswith("open/")] == [KEY.replace("5a0b", "ffff")]


def test_a_terminated_job_gets_record_and_labels_though_no_exit_handler_ran(store: dict[str, Any]) -> None:
    nodes = {
        NAME: {"id": NAME, "name": NAME, "type": "DAG", "phase": "Failed"},
        "p": {
            "id": "p",
            "name": f"{NAME}.validate(0)",
            "displayName": "validate(0)",
            "templateName": "validate",
            "type": "Pod",
            "phase": "Failed",
            "message": "workflow shutdown with strategy:  Terminate",
            "startedAt": "2026-01-01T00:01:00Z",
        },
    }
    for seen_before in (True, False):
        cluster = Cluster(job("Running") if seen_before else job("Failed", nodes, shutdown="Terminate"))
        ledger = Ledger(cluster, "sixview")  # type: ignore[arg-type]
        ledger.reconcile()
        cluster.workflow = job("Failed", nodes, shutdown="Terminate")
        ledger.reconcile()
        final = record(store)
        assert (final["status"], final["error"]["code"], final["stage"]) == ("cancelled", "CANCELLED", "validation")
        assert final["ended_at"] == "2026-01-01T00:05:00Z"
        assert cluster.workflow["metadata"]["labels"]["sixview.dev/error-code"] == "CANCELLED" or not seen_before
        assert KEY not in store
        store.pop(next(key for key in store if key.startswith("records/")))


def test_a_job_of_which_only_the_exit_handler_failed_has_completed(store: dict[str, Any]) -> None:
    nodes = {NAME: {"id": NAME, "name": NAME, "type": "DAG", "phase": "Succeeded"}}
    cluster = Cluster(job("Failed", nodes))
    Ledger(cluster, "sixview").reconcile()  # type: ignore[arg-type]
    assert (record(store)["status"], record(store)["error"]) == ("completed", None)
    assert of_workflow(cluster.workflow or {})["status"] == "completed"


@pytest.mark.parametrize(("ended_at", "kept"), [(AFTER, True), (BEFORE, False)])
def test_only_a_record_from_before_the_job_went_on_again_is_replaced(
    store: dict[str, Any], ended_at: str, kept: bool
) -> None:
    cluster = Cluster(job("Running"))
    ledger = Ledger(cluster, "sixview")  # type: ignore[arg-type]
    ledger.reconcile()
    own = {"job_id": "abc12345", "status": "completed", "created_at": BEFORE, "ended_at": ended_at, "error": None}
    store[s3.record_key("abc12345")] = own
    cluster.workflow = None
    ledger.reconcile()
    assert (store[s3.record_key("abc12345")]["status"] == "completed") == kept
    assert KEY not in store


def test_another_release_s_jobs_are_left_alone(store: dict[str, Any]) -> None:
    for phase in ("Running", "Failed"):
        cluster = Cluster(job(phase, release="sixview-other"))
        ledger = Ledger(cluster, "sixview")  # type: ignore[arg-type]
        ledger.reconcile()
        assert (list(store), ledger.other_releases) == (["purged"], {UID})


def test_an_unreadable_entry_affects_its_own_job_only(store: dict[str, Any]) -> None:
    store["open/broken.x.json"] = None
    store["open/other.y.json"] = {"workflow": {"metadata": {}}}
    Ledger(Cluster(job("Running")), "sixview").reconcile()  # type: ignore[arg-type]
    assert KEY in store
