"""The informer's cache after lists, watch events and patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from pipeline.clients.kubernetes import Expired, Kubernetes, Page
from pipeline.gateway.informer import JobInformer
from steps.runtime.errors import ClusterUnavailable
from tests.pipeline.finished import head, with_record
from tests.pipeline.finished import workflow as finished


def workflow(version: int, phase: str = "Pending", **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "sixview-abc12345",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {
        "metadata": metadata,
        "spec": {"workflowTemplateRef": {"name": "sixview"}, **spec},
        "status": {"phase": phase},
    }


def new_informer() -> JobInformer:
    return JobInformer(cast(Kubernetes, None))


def test_an_older_resource_version_is_ignored() -> None:
    informer = new_informer()
    informer.apply(workflow(7))
    informer.apply(workflow(9, shutdown="Stop"))  # the answer to our own order
    informer.apply(workflow(8))  # what the watch brings of the time before
    job_status = informer.get("abc12345")
    assert job_status and job_status["status"] == "cancelled"
    assert job_status["error"]["code"] == "CANCELLED"


def test_a_deleted_workflow_is_removed_and_may_be_created_again() -> None:
    informer = new_informer()
    informer.apply(workflow(7))
    informer.apply(workflow(8), deleted=True)
    assert informer.get("abc12345") is None
    informer.apply(workflow(3))
    assert informer.counts() == {"queued": 1}
    assert informer.active_of("") == 1


# -- listings and watches -----------------------------------------------------------------------------------------------


class Cluster:
    """A cluster client that records its requests. events: of each watch, one list per watch; exceptions in it are raised."""

    def __init__(self, *workflows: dict[str, Any], events: list[list[Any]] | None = None, version: int = 200) -> None:
        self.workflows = {one["metadata"]["name"]: one for one in workflows}
        self.events = events or []
        self.version = version
        self.requests: list[str] = []

    def get(self, name: str) -> dict[str, Any] | None:
        self.requests.append(name)
        return self.workflows.get(name)

    def pages(self, selector: str, full: bool) -> Iterator[Page]:
        assert not full
        self.requests.append("list")
        for one in self.workflows.values():
            yield Page([head(one)], str(self.version))

    def watch(self, selector: str, version: str, seconds: int) -> Iterator[Any]:
        self.requests.append(f"watch from {version}")
        for event in self.events.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def synced(cluster: Cluster, *rounds: type[Exception] | None) -> JobInformer:
    """An informer after `_sync` was called once per round; a round is the exception that it raises, or None."""
    informer = JobInformer(cast(Kubernetes, cluster))
    for ends in rounds:
        if ends is None:
            informer._sync()
        else:
            with pytest.raises(ends):
                informer._sync()
    return informer


def workflow_of(job: str, version: int = 100) -> dict[str, Any]:
    return finished(f"sixview-{job}", version)


def test_a_workflow_is_read_in_full_only_where_its_metadata_is_not_enough() -> None:
    running = workflow(9)
    cluster = Cluster(with_record(workflow_of("done1111")), workflow_of("done2222"), running, events=[[]])
    informer = synced(cluster, None)
    assert cluster.requests == ["list", "sixview-done2222", "sixview-abc12345", "watch from 200"]
    assert {job: job_status["status"] for job, job_status in informer.jobs.items()} == {
        "done1111": "failed",
        "done2222": "failed",
        "abc12345": "queued",
    }
    assert informer.is_healthy()


def test_a_watch_resumes_from_the_last_resource_version() -> None:
    bookmark = {"metadata": {"resourceVersion": "300"}}
    cut = ClusterUnavailable("The API server does not answer.")
    cluster = Cluster(workflow(9), events=[[("BOOKMARK", bookmark)], [("MODIFIED", workflow(310)), cut], []])
    synced(cluster, None, ClusterUnavailable, None)
    assert [request for request in cluster.requests if "-" not in request] == [
        "list",
        "watch from 200",
        "watch from 300",
        "watch from 310",
    ]


def test_a_list_after_one_that_expired_applies_changes_and_deletions() -> None:
    cluster = Cluster(
        workflow(9),
        workflow_of("stays111"),
        workflow_of("goes1111"),
        workflow_of("changes1"),
        events=[[Expired("gone")], []],
    )
    informer = synced(cluster, Expired)
    informer.watch_from = ""  # as the thread does
    informer.apply(workflow_of("justmade", 999))  # an answer to our own order, newer than the listing
    del cluster.workflows["sixview-goes1111"]
    cluster.workflows["sixview-changes1"] = workflow_of("changes1", 205)
    cluster.version = 210
    cluster.requests.clear()
    informer._sync()
    assert cluster.requests == ["list", "sixview-changes1", "watch from 210"]
    assert set(informer.jobs) == {"abc12345", "stays111", "changes1", "justmade"}


def test_jobs_are_not_shown_before_all_are_known() -> None:
    informer = JobInformer(cast(Kubernetes, Cluster(events=[[]])))
    informer.apply(workflow(7))
    assert not informer.has_listed
    assert not informer.is_healthy()
    informer._sync()
    assert informer.has_listed
    assert informer.is_healthy()


def test_an_informer_whose_watches_are_all_refused_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a watch that was accepted resets the time of failure; a list alone does not."""

    def refused(selector: str, version: str, seconds: int) -> Any:
        raise ClusterUnavailable("no right to watch")

    cluster = Cluster()
    cluster.watch = refused  # type: ignore[method-assign]
    informer = synced(cluster, ClusterUnavailable)
    assert informer.failing_since is not None
    monkeypatch.setattr("pipeline.gateway.informer.STALE_SECONDS", 0.0)
    assert not informer.is_healthy()
