"""What the gateway knows of the jobs, by the changes that it is told."""

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


def watched() -> JobInformer:
    return JobInformer(cast(Kubernetes, None))


def test_a_change_that_arrives_late_undoes_nothing() -> None:
    seen = watched()
    seen.apply(workflow(7))
    seen.apply(workflow(9, shutdown="Stop"))  # the answer to our own order
    seen.apply(workflow(8))  # what the watch brings of the time before
    found = seen.get("abc12345")
    assert found and found["status"] == "cancelled"
    assert found["error"]["code"] == "CANCELLED"


def test_what_is_deleted_is_forgotten_and_may_come_again() -> None:
    seen = watched()
    seen.apply(workflow(7))
    seen.apply(workflow(8), deleted=True)
    assert seen.get("abc12345") is None
    seen.apply(workflow(3))
    assert seen.counts() == {"queued": 1}
    assert seen.active_of("") == 1


# -- listings and watches -----------------------------------------------------------------------------------------------


class Cluster:
    """A cluster that notes what it is asked for. events: what its watches bring, one list for each; an exception is raised."""

    def __init__(self, *found: dict[str, Any], events: list[list[Any]] | None = None, version: int = 200) -> None:
        self.found = {one["metadata"]["name"]: one for one in found}
        self.events = events or []
        self.version = version
        self.asked: list[str] = []

    def get(self, name: str) -> dict[str, Any] | None:
        self.asked.append(name)
        return self.found.get(name)

    def pages(self, selector: str, full: bool) -> Iterator[Page]:
        assert not full
        self.asked.append("list")
        for one in self.found.values():
            yield Page([head(one)], str(self.version))

    def watch(self, selector: str, version: str, seconds: int) -> Iterator[Any]:
        self.asked.append(f"watch from {version}")
        for event in self.events.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def following(cluster: Cluster, *rounds: type[Exception] | None) -> JobInformer:
    """After so many rounds, each of which ends in that exception or of itself."""
    seen = JobInformer(cast(Kubernetes, cluster))
    for ends in rounds:
        if ends is None:
            seen._sync()
        else:
            with pytest.raises(ends):
                seen._sync()
    return seen


def named(job: str, version: int = 100) -> dict[str, Any]:
    return finished(f"sixview-{job}", version)


def test_a_workflow_is_read_whole_only_where_its_metadata_is_not_enough() -> None:
    running = workflow(9)
    cluster = Cluster(with_record(named("done1111")), named("done2222"), running, events=[[]])
    seen = following(cluster, None)
    assert cluster.asked == ["list", "sixview-done2222", "sixview-abc12345", "watch from 200"]
    assert {job: view["status"] for job, view in seen.jobs.items()} == {
        "done1111": "failed",
        "done2222": "failed",
        "abc12345": "queued",
    }
    assert seen.is_healthy()


def test_a_watch_that_ended_goes_on_where_it_was() -> None:
    bookmark = {"metadata": {"resourceVersion": "300"}}
    cut = ClusterUnavailable("The API server does not answer.")
    cluster = Cluster(workflow(9), events=[[("BOOKMARK", bookmark)], [("MODIFIED", workflow(310)), cut], []])
    following(cluster, None, ClusterUnavailable, None)
    assert [asked for asked in cluster.asked if "-" not in asked] == [
        "list",
        "watch from 200",
        "watch from 300",
        "watch from 310",
    ]


def test_a_listing_after_one_that_expired_reads_what_has_changed_and_forgets_what_is_gone() -> None:
    cluster = Cluster(
        workflow(9), named("stays111"), named("goes1111"), named("changes1"), events=[[Expired("gone")], []]
    )
    seen = following(cluster, Expired)
    seen.watch_from = ""  # as the thread does
    seen.apply(named("justmade", 999))  # an answer to our own order, newer than the listing
    del cluster.found["sixview-goes1111"]
    cluster.found["sixview-changes1"] = named("changes1", 205)
    cluster.version = 210
    cluster.asked.clear()
    seen._sync()
    assert cluster.asked == ["list", "sixview-changes1", "watch from 210"]
    assert set(seen.jobs) == {"abc12345", "stays111", "changes1", "justmade"}


def test_jobs_are_not_shown_before_all_are_known() -> None:
    seen = JobInformer(cast(Kubernetes, Cluster(events=[[]])))
    seen.apply(workflow(7))
    assert not seen.has_listed
    assert not seen.is_healthy()
    seen._sync()
    assert seen.has_listed
    assert seen.is_healthy()


def test_one_whose_watches_are_all_refused_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that could be begun is a word from the API server; a listing alone is none."""

    def refused(selector: str, version: str, seconds: int) -> Any:
        raise ClusterUnavailable("no right to watch")

    cluster = Cluster()
    cluster.watch = refused  # type: ignore[method-assign]
    seen = following(cluster, ClusterUnavailable)
    assert seen.failing_since is not None
    monkeypatch.setattr("pipeline.gateway.informer.STALE_SECONDS", 0.0)
    assert not seen.is_healthy()
