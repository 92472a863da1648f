"""The GPU time of a job's steps: in its status, its record, HTTP and the terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.cli import cluster_commands
from pipeline.gateway import routes
from pipeline.jobs import records, status
from tests.pipeline import finished

H100 = "NVIDIA H100 80GB HBM3"
GPU = {
    "name": H100,
    "held_seconds": 41.25,
    "busy_seconds": 17.1,
    "steps": {
        "validate": {"held_seconds": 4.25, "busy_seconds": 0.0},
        "reconviagen": {"held_seconds": 36.0, "busy_seconds": 17.0},
        "reconviagen.quality": {"held_seconds": 1.0, "busy_seconds": 0.1},
    },
}
HELD = {
    "validate": [("4.25", "0")],
    "reconviagen-pod": [("30", "15"), ("6", "2")],  # two attempts: what the first one held was paid for as well
    "reconviagen-quality": [("1.0", "0.1")],
}


def workflow(held: dict[str, list[tuple[str, str]]] | None = None, name: str = H100) -> dict[str, Any]:
    """A finished job whose pods held a GPU. held: template -> seconds held and busy of each attempt."""
    wf = finished.workflow()
    for node in list(wf["status"]["nodes"].values()):
        for number, (seconds, busy) in enumerate((HELD if held is None else held).get(node["templateName"], [])):
            if node["type"] != "Pod":
                continue
            values = {"gpu": name, "gpu-held-seconds": seconds, "gpu-busy-seconds": busy}
            told = [{"name": key, "value": value} for key, value in values.items()]
            attempt = {**node, "id": f"{node['id']}{number}", "outputs": {"parameters": told}}
            wf["status"]["nodes"][node["id"] if number == 0 else attempt["id"]] = attempt
    return wf


def test_every_attempt_of_every_step_counts() -> None:
    assert status.of_workflow(workflow())["gpu"] == GPU


def test_http_and_the_record_have_it_and_a_finished_job_s_status_is_that_of_its_record() -> None:
    job_status = status.of_workflow(workflow())
    assert routes.public_status(job_status)["gpu"] == GPU
    assert routes.Status.model_validate(routes.public_status(job_status)).model_dump()["gpu"] == GPU
    record = records.record(workflow())
    assert record["gpu"] == GPU
    assert status.of_record(json.loads(json.dumps(record)))["gpu"] == GPU


def test_the_terminal_says_the_sum_and_then_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    cluster_commands.print_status(status.of_workflow(workflow()))
    said = capsys.readouterr().out
    assert f"GPU:      held 41 s, computed 17 s ({H100})\n  validate: held 4.2 s, computed 0 s\n" in said
    assert "  reconviagen: held 36 s, computed 17 s\n  reconviagen.quality: held 1.0 s, computed 0.1 s\n" in said


def test_where_no_gpu_was_held_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for wf in (finished.workflow(), workflow({"validate": [("0", "0")]}, name="")):
        job_status = status.of_workflow(wf)
        assert job_status["gpu"] is None and records.record(wf)["gpu"] is None
        cluster_commands.print_status(job_status)
        assert "GPU" not in capsys.readouterr().out


def test_records_from_before_have_none() -> None:
    assert status.of_record(finished.RECORD)["gpu"] is None


@pytest.mark.parametrize(
    "content",
    [None, 7, "x", [], {}, {"steps": []}, {"steps": {"validate": 7}}, {"steps": {"validate": {"held_seconds": "nan"}}}],
    ids=repr,
)
def test_a_record_that_is_damaged_has_none(content: Any) -> None:
    assert status.of_record({**finished.RECORD, "gpu": content})["gpu"] is None


@pytest.mark.parametrize("seconds", ["", "many", "-1", "nan", "inf", "1e999", "9" * 4000])
def test_outputs_that_are_no_time_count_for_none(seconds: str) -> None:
    gpu = status.of_workflow(workflow({"validate": [(seconds, "1")], "reconviagen-pod": [("6", seconds)]}))["gpu"]
    assert gpu == {
        "name": H100,
        "held_seconds": 6.0,
        "busy_seconds": 0.0,
        "steps": {"reconviagen": {"held_seconds": 6.0, "busy_seconds": 0.0}},
    }


def test_jobs_on_two_kinds_of_gpu_name_both() -> None:
    wf = workflow({"validate": [("4", "0")]}, name="NVIDIA L4")
    other = workflow({"reconviagen-pod": [("6", "3")]})
    wf["status"]["nodes"] |= {
        k: n for k, n in other["status"]["nodes"].items() if n["templateName"] == "reconviagen-pod"
    }
    assert status.of_workflow(wf)["gpu"]["name"] == f"NVIDIA L4, {H100}"
