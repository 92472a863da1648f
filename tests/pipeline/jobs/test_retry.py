"""Trying a job again: when, from which node, and whether the store still has what it needs."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.clients import retries
from pipeline.jobs import service
from steps.runtime.errors import JobExpired
from tests.pipeline.running import WORKFLOW, with_nodes


@pytest.mark.parametrize(
    ("finished_at", "seconds"),
    [("12:00:00", 35.0), ("11:59:45", 20.0), ("11:59:00", 0.0), ("12:01:00", 35.0)],
)
def test_a_retry_comes_after_the_last_of_argos_late_kills(finished_at: str, seconds: float) -> None:
    """The controller ends what is left of a failed pod by its name, half a minute later: the retried pod has the same name."""
    workflow = {"status": {"finishedAt": f"2026-01-01T{finished_at}Z"}}
    assert service.retry_delay(workflow, datetime(2026, 1, 1, 12, tzinfo=UTC)) == seconds


def test_a_retry_keeps_succeeded_nodes_and_removes_the_others() -> None:
    """A failed attempt of a task that then succeeded stays."""
    job = "sixview-abc12345"
    rows = [  # name, type, phase, boundary
        ("", "DAG", "Failed", ""),
        (".validate", "Retry", "Succeeded", job),
        (".validate(0)", "Pod", "Failed", job),
        (".validate(1)", "Pod", "Succeeded", job),
        (".reconviagen", "DAG", "Succeeded", job),
        (".reconviagen.again", "Skipped", "Skipped", "reconviagen"),
        (".reconviagen-quality", "Retry", "Failed", job),
        (".reconviagen-quality(0)", "Pod", "Failed", job),
        (".nvdiffrec", "Skipped", "Skipped", job),
        (".nvdiffrec-quality", "Skipped", "Omitted", job),
        (".package", "Retry", "Succeeded", job),
        (".package(0)", "Pod", "Succeeded", job),
        (".onExit(0)", "Pod", "Succeeded", ""),
    ]
    failed = copy.deepcopy(WORKFLOW)
    for i, (name, kind, phase, boundary) in enumerate(rows):
        node = {"id": f"{job}-{i}", "name": job + name, "type": kind, "phase": phase, "boundaryID": boundary}
        failed["status"]["nodes"][node["id"] if i else job] = {**node, "templateName": name.strip(".").split("(")[0]}
    failed["status"]["nodes"][job]["children"] = [f"{job}-{i}" for i in range(1, len(rows))]
    failed["status"] |= {"phase": "Failed", "message": "x"}
    failed["metadata"]["labels"] |= {"workflows.argoproj.io/completed": "true", "sixview.dev/status": "failed"}
    failed["spec"]["shutdown"] = "Stop"
    failed["status"]["storedWorkflowTemplateSpec"] = {
        "shutdown": "Stop",
        "entrypoint": "job",
    }  # what the controller goes by
    restarted, deleted_pods = retries.restarted(failed)
    names = {node["name"].removeprefix(job) for node in restarted["status"]["nodes"].values()}
    expected = {"", ".validate", ".validate(0)", ".validate(1)", ".reconviagen", ".reconviagen.again", ".nvdiffrec"}
    assert names == expected
    assert len(restarted["status"]["nodes"][job]["children"]) == len(expected) - 1
    assert (restarted["status"]["phase"], restarted["status"]["nodes"][job]["phase"]) == ("Running", "Running")
    assert set(restarted["metadata"]["labels"]) == {"sixview.dev/owner", "sixview.dev/source", retries.PHASE_LABEL}
    assert restarted["metadata"]["labels"][retries.PHASE_LABEL] == restarted["status"]["phase"] == "Running"
    assert "shutdown" not in restarted["spec"]
    assert restarted["status"]["storedWorkflowTemplateSpec"] == {"entrypoint": "job"}
    assert [pod.split("-")[-2] for pod in deleted_pods] == ["quality", "package", "onExit"]
    assert failed["status"]["phase"] == "Failed"


class Stopped:
    """A cluster client with one finished workflow. retried: the argument of `retry`."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.workflow, self.retried = workflow, None

    def get(self, name: str) -> dict[str, Any]:
        return self.workflow

    def retry(self, name: str, from_start: bool = False) -> None:
        self.retried = from_start


@pytest.mark.parametrize(
    ("stored", "retried"),
    [
        ({"inputs/mug/a.png", "jobs/abc12345/scene.tgz"}, False),
        ({"inputs/mug/a.png"}, True),  # what validate left was purged: from the first step
        ({"jobs/abc12345/scene.tgz"}, None),  # the input is gone
    ],
)
@pytest.mark.parametrize("shutdown", ["Stop", "Terminate"])
def test_the_store_decides_whether_a_cancelled_job_can_be_retried(
    monkeypatch: pytest.MonkeyPatch, stored: set[str], retried: bool | None, shutdown: str
) -> None:
    wf = with_nodes(("validate", "Succeeded", "1/1"), phase="Failed", finishedAt="2026-01-01T00:01:00Z")
    wf["spec"] |= {"shutdown": shutdown}
    wf["spec"]["arguments"]["parameters"].append({"name": "input", "value": "s3://sixview/inputs/mug"})
    node = next(iter(wf["status"]["nodes"].values()))
    logs = {"name": "main-logs", "s3": {"key": "logs/gone"}}
    node |= {
        "boundaryID": "sixview-abc12345",
        "outputs": {"artifacts": [{"name": "scene", "s3": {"key": "jobs/abc12345/scene.tgz"}}, logs]},
    }
    monkeypatch.setattr(service.s3, "listed", lambda prefix: iter([k for k in stored if k.startswith(prefix)]))
    monkeypatch.setattr(service.s3, "head", lambda key: {} if key in stored else None)
    removed: list[str] = []
    monkeypatch.setattr(service.s3, "bucket", lambda: "sixview")
    monkeypatch.setattr(service.s3, "remove", lambda address: removed.append(service.s3.split(address)[1]))
    cluster: Any = Stopped(wf)
    if retried is None:
        with pytest.raises(JobExpired, match="nothing lies at s3://sixview/inputs/mug"):
            service.retry(cluster, "abc12345")
    else:
        service.retry(cluster, "abc12345")
        assert removed == [
            "records/abc12345.json",
            "results/abc12345/failure.json",
        ]  # they say how the earlier try ended
    assert cluster.retried == retried


def test_a_retry_from_the_start_keeps_no_nodes() -> None:
    wf = with_nodes(("validate", "Succeeded", "1/1"), phase="Failed")
    wf["status"]["nodes"]["sixview-abc12345"] = {"name": "sixview-abc12345", "type": "DAG", "phase": "Failed"}
    next(iter(wf["status"]["nodes"].values()))["boundaryID"] = "sixview-abc12345"
    assert len(retries.restarted(wf)[0]["status"]["nodes"]) == 2
    restarted, deleted_pods = retries.restarted(wf, from_start=True)
    assert (list(restarted["status"]["nodes"]), len(deleted_pods)) == (["sixview-abc12345"], 1)
