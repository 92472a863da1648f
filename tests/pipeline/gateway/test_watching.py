"""What the gateway knows of the jobs, by the changes that it is told."""

from __future__ import annotations

from typing import Any, cast

from pipeline.clusters import Kubernetes
from pipeline.gateway.watching import Watched


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


def watched() -> Watched:
    return Watched(cast(Kubernetes, None))


def test_a_change_that_arrives_late_undoes_nothing() -> None:
    seen = watched()
    seen.see(workflow(7))
    seen.see(workflow(9, shutdown="Stop"))  # the answer to our own order
    seen.see(workflow(8))  # what the watch brings of the time before
    found = seen.get("abc12345")
    assert found and found["status"] == "cancelled"
    assert found["error"]["code"] == "CANCELLED"


def test_what_is_deleted_is_forgotten_and_may_come_again() -> None:
    seen = watched()
    seen.see(workflow(7))
    seen.see(workflow(8), gone=True)
    assert seen.get("abc12345") is None
    seen.see(workflow(3))
    assert seen.counts() == {"queued": 1}
    assert seen.active_of("") == 1
