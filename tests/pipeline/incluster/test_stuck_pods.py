"""The reconciler on jobs whose pod does not start: annotations, limits, and shutdown."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.incluster.stuck_pods import EXIT_HANDLER_SECONDS, Job, Limits, Reconciler, workflow_patch
from pipeline.jobs import failure, status
from pipeline.jobs.failure import ENDED_BY
from pipeline.jobs.pending import Wait
from pipeline.jobs.status import WAITING

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits(image=600, configuration=300, unschedulable=1800)
SECRET = Wait("validate", "CONFIGURATION_ERROR", "validate does not start: the secret s3 is not there.", "Make it.")
LARGE = Wait("nvdiffrec-pod", "UNSCHEDULABLE", "nvdiffrec-pod fits on no node: …", "Lower it.")
GPU_BUSY = Wait("nvdiffrec-pod", "", "nvdiffrec-pod waits: no node has enough nvidia.com/gpu free at the moment.")


def written(job: Job, at: datetime, limits: Limits = LIMITS, nodes: bool = True) -> dict[str, Any]:
    """Applies the reconciler's patch to a job and returns its annotations."""
    change = workflow_patch(job, limits, nodes, at) or {"metadata": {"annotations": {}}}
    for name, value in change["metadata"]["annotations"].items():
        job.annotations.pop(name, None) if value is None else job.annotations.update({name: value})
    job.shutdown = change.get("spec", {}).get("shutdown", job.shutdown)
    return job.annotations


def test_the_reason_is_there_at_once_written_once_and_taken_away() -> None:
    job = Job("sixview-j", {}, "", [SECRET])
    annotation = json.loads(written(job, NOW)[WAITING])
    assert annotation == {
        "step": "validate",
        "code": "CONFIGURATION_ERROR",
        "reason": SECRET.reason,
        "since": "2026-01-01T12:00:00Z",
        "advice": "Make it.",
        "ends": "2026-01-01T12:05:00Z",
    }
    assert workflow_patch(job, LIMITS, True, NOW + timedelta(seconds=10)) is None
    job.waits = []
    assert written(job, NOW) == {}
    assert workflow_patch(job, LIMITS, True, NOW) is None


@pytest.mark.parametrize(("wait", "seconds"), [(SECRET, 300), (LARGE, 1800)])
def test_a_fault_ends_the_job_after_the_limit_of_its_kind(wait: Wait, seconds: int) -> None:
    job = Job("sixview-j", {}, "", [wait])
    written(job, NOW)
    written(job, NOW + timedelta(seconds=seconds - 1))
    assert not job.shutdown
    annotations = written(job, NOW + timedelta(seconds=seconds))
    assert (job.shutdown, WAITING in annotations) == ("Stop", False)
    assert json.loads(annotations[ENDED_BY]) == {"code": wait.code, "reason": wait.reason, "suggestion": wait.advice}


def test_a_pod_in_the_queue_for_a_busy_node_has_no_limit() -> None:
    job = Job("sixview-j", {}, "", [GPU_BUSY])
    written(job, NOW)
    assert workflow_patch(job, LIMITS, True, NOW + timedelta(days=7)) is None


def test_the_time_in_the_queue_does_not_count_against_a_fault_that_comes_later() -> None:
    job = Job("sixview-j", {}, "", [GPU_BUSY])
    written(job, NOW)
    job.waits = [LARGE]
    assert json.loads(written(job, NOW + timedelta(hours=3))[WAITING])["since"] == "2026-01-01T15:00:00Z"


def test_on_nodes_that_are_fixed_what_fits_on_none_ends_at_once() -> None:
    fixed = Limits(600, 300, 1800, fixed_nodes=True)
    job = Job("sixview-j", {}, "", [LARGE])
    written(job, NOW, fixed)
    assert job.shutdown == "Stop"
    blind = Job("sixview-j", {}, "", [LARGE])
    written(blind, NOW, fixed, nodes=False)
    assert not blind.shutdown, "the scheduler's words alone are not enough for that"


def test_a_fault_is_reported_before_normal_queueing() -> None:
    job = Job("sixview-j", {}, "", [GPU_BUSY, SECRET])
    assert json.loads(written(job, NOW)[WAITING])["step"] == "validate"


def test_an_exit_handler_that_cannot_start_gives_the_place_free_too() -> None:
    job = Job("sixview-j", {}, "", [SECRET])
    written(job, NOW)
    written(job, NOW + timedelta(seconds=300))
    job.waits = [
        SECRET,
        Wait("report", SECRET.code, "report does not start.", "Make it."),
    ]  # the first pod is about to go
    written(job, NOW + timedelta(seconds=310))
    assert job.shutdown == "Stop"
    change = workflow_patch(job, LIMITS, True, NOW + timedelta(seconds=310 + EXIT_HANDLER_SECONDS))
    assert change is not None
    assert change["spec"] == {"shutdown": "Terminate", "suspend": None}
    assert change["metadata"]["labels"]["sixview.dev/error-code"] == "CONFIGURATION_ERROR"
    assert ENDED_BY not in change["metadata"]["annotations"], "the first reason stands"
    job.shutdown = "Terminate"
    assert workflow_patch(job, LIMITS, True, NOW + timedelta(hours=1)) == {"metadata": {"annotations": {WAITING: None}}}


def test_a_cancelled_job_whose_exit_handler_cannot_start_stays_cancelled() -> None:
    job = Job("sixview-j", {}, "Stop", [Wait("report", SECRET.code, "report does not start.")])
    written(job, NOW)
    change = workflow_patch(job, LIMITS, True, NOW + timedelta(seconds=EXIT_HANDLER_SECONDS))
    assert change is not None
    assert change["spec"] == {"shutdown": "Terminate", "suspend": None}
    assert change["metadata"]["labels"]["sixview.dev/status"] == "cancelled"
    assert ENDED_BY not in change["metadata"]["annotations"]


@pytest.mark.parametrize(
    "annotation",
    ["", "soon", "[]", "null", '{"step": 1}', '{"step":"validate","code":"CONFIGURATION_ERROR","since":"x"}'],
)
def test_an_annotation_of_somebody_else_s_spoils_nothing(annotation: str) -> None:
    job = Job("sixview-j", {WAITING: annotation}, "", [SECRET])
    assert json.loads(written(job, NOW)[WAITING])["since"] == "2026-01-01T12:00:00Z"
    assert status.waiting_note({"metadata": {"annotations": {WAITING: annotation}}}) == ""


def test_a_job_that_argo_does_not_begin_with_says_so_until_it_does() -> None:
    wf = {
        "metadata": {"name": "sixview-j", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"workflowTemplateRef": {"name": "sixview"}},
    }
    not_started = functools.partial(Reconciler.not_started, cast(Reconciler, SimpleNamespace(release="sixview")), wf)
    assert not list(not_started(datetime.fromisoformat("2026-01-01T11:00:59Z")))
    (job,) = not_started(datetime.fromisoformat("2026-01-01T11:01:01Z"))
    change = workflow_patch(job, LIMITS, True, NOW)
    assert change is not None and "shutdown" not in str(change)
    waiting = wf | {"metadata": wf["metadata"] | {"annotations": change["metadata"]["annotations"]}}
    assert "Argo's controller has not begun" in status.waiting_note(waiting)
    assert not status.waiting_note(waiting | {"status": {"phase": "Pending"}})


def test_the_status_says_why_a_job_waits_and_when_it_ends() -> None:
    job = Job("sixview-j", {}, "", [SECRET])
    wf = {"metadata": {"annotations": written(job, NOW)}}
    ends = "The job ends as CONFIGURATION_ERROR at 2026-01-01T12:05:00Z unless this changes."
    assert status.note(wf) == f"{SECRET.reason} Make it. {ends}"
    job.waits = [GPU_BUSY]
    assert (
        status.note({"metadata": {"annotations": written(job, NOW)}})
        == f"{GPU_BUSY.reason} Since 2026-01-01T12:00:00Z."
    )


@pytest.mark.parametrize(
    ("annotation", "code", "message"),
    [
        (json.dumps({"code": "UNSCHEDULABLE", "reason": "r", "suggestion": "s"}), "UNSCHEDULABLE", "r"),
        (
            "The image x could not be had.",
            "IMAGE_UNAVAILABLE",
            "The image x could not be had.",
        ),  # as it once was written
        ('{"code": "NO_SUCH"}', "IMAGE_UNAVAILABLE", '{"code": "NO_SUCH"}'),
        ("[" * 100000, "IMAGE_UNAVAILABLE", "[" * 100000),
    ],
)
def test_the_record_says_what_the_reconciler_ended_a_job_for(annotation: str, code: str, message: str) -> None:
    error = failure.of_annotation(annotation)
    assert (error.code, error.message) == (code, message)
    assert error.suggestion
