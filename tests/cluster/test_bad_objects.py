"""A malformed workflow affects its own job only: in the gateway, its informer and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import ids
from tests.cluster import web
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.test_commands import sixview

UNREADABLE = ("not everything can be read", "cannot unmarshall spec")


@pytest.fixture
def suspended_job(cluster: None) -> Iterator[Callable[[], str]]:
    """suspended_job() -> id of a job that is suspended for ever."""
    made: list[str] = []

    def make() -> str:
        job = ids.new_id()
        workflow = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": NAME_PREFIX + job,
                "labels": {"app.kubernetes.io/name": "sixview", "sixview.dev/owner": "alice"},
            },
            "spec": {
                "suspend": True,
                "workflowTemplateRef": {"name": "sixview-cpu"},
                "arguments": {"parameters": [{"name": "input", "value": "s3://sixview/inputs/none"}]},
            },
        }
        kubectl("create", "-n", NAMESPACE, "-f", "-", given=json.dumps(workflow))
        made.append(job)
        return job

    yield make
    for job in made:
        kubectl("-n", NAMESPACE, "delete", "workflow", NAME_PREFIX + job, "--wait=false", check=False)


def patch(job: str, change: dict[str, Any]) -> None:
    kubectl("-n", NAMESPACE, "patch", "workflow", NAME_PREFIX + job, "--type=merge", "-p", json.dumps(change))


def wait_for_field(session: httpx.Client, job: str, field: str, part: str) -> None:
    wait_for(lambda: part in str(session.get(f"/jobs/{job}").json().get(field)), 20, f"{part!r} of {job}")


def test_a_malformed_workflow_affects_its_own_status_only(suspended_job: Callable[[], str], tmp_path: Path) -> None:
    bad, deep = suspended_job(), suspended_job()
    patch(bad, {"metadata": {"annotations": {"sixview.dev/cancel-requested": "soon"}}})
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    with web.serving(tmp_path) as session:
        wait_for_field(session, bad, "note", "'soon' is no time")  # as the listing brought it
        patch(deep, {"spec": {"arguments": {"parameters": nested}}})
        good = suspended_job()
        wait_for_field(session, good, "status", "queued")
        patch(bad, {"metadata": {"annotations": {"sixview.dev/cancel-requested": "later"}}})
        wait_for_field(session, bad, "note", "'later' is no time")  # as the watch did
        # whoever comes first: the gateway, which cannot read it, or Argo's controller, which cannot either, and ends it
        wait_for(
            lambda: any(words in session.get(f"/jobs/{deep}").text for words in UNREADABLE), 20, "what is said of it"
        )
        listed = {job["job_id"] for job in session.get("/jobs").raise_for_status().json()}
        assert {bad, deep, good} <= listed
        assert session.get("/health").json()["cluster"] == {"ok": True}
    done = sixview("list", "--json")
    assert {bad, deep, good} <= {job["job_id"] for job in json.loads(done.stdout)}
    assert sixview("status", bad).returncode == 0
