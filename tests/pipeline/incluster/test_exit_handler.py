"""The exit handler's record of workflows as Argo writes them. With a real controller: tests/cluster."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.incluster import exit_handler
from pipeline.jobs import nodes, status
from pipeline.jobs.failure import ENDED_BY, EXIT_HANDLER_OUTPUTS, describe
from steps.runtime.errors import ModelConvergenceFailed, ModelOom, StepError

Node = dict[str, Any]


def node(template: str, phase: str = "Succeeded", message: str = "", number: int = 0, **outputs: str) -> Node:
    parameters = [{"name": name.replace("_", "-"), "value": value} for name, value in outputs.items()]
    return {
        "id": f"wf-{template}-{number}",
        "type": "Pod",
        "displayName": f"{template}({number})",
        "templateName": template,
        "phase": phase,
        "message": message,
        "startedAt": f"2026-01-01T00:00:{number:02d}Z",
        "outputs": {"parameters": parameters},
    }


def failed(
    template: str, error: StepError, message: str = "main: Error (exit code 1)", number: int = 1, **outputs: str
) -> Node:
    record = json.dumps(error.record())
    return node(template, "Failed", message, number, failure=record, error_code=error.code, **outputs)


def workflow(*nodes: Node, model: str = "reconviagen", source: str = "s3://b/k", **spec: Any) -> dict[str, Any]:
    parameters = [{"name": "model", "value": model}, {"name": "input", "value": source}]
    return {
        "metadata": {"annotations": {}},
        "spec": {"arguments": {"parameters": parameters}, **spec},
        "status": {"nodes": {n["id"]: n for n in nodes}},
    }


def error_code(wf: dict[str, Any], pods: list[dict[str, Any]] | None = None) -> str:
    return describe(wf, pods or [], "Failed")["error-code"]


def test_a_job_that_succeeded_names_model_and_engine() -> None:
    wf = workflow(
        node("validate"), node("reconviagen-pod", engine="fusion"), node("reconviagen-quality", engine="fusion")
    )
    values = describe(wf, [], "Succeeded")
    assert values == {**EXIT_HANDLER_OUTPUTS, "status": "completed", "model": "reconviagen", "engine": "fusion"}


def test_warnings_are_listed_once_each_and_counted_in_a_label() -> None:
    warnings = "The pictures of left and right are exchanged.\nThe mesh is not closed."
    wf = workflow(
        node("validate", number=1, warnings=warnings),
        node("reconviagen-pod"),
        node("reconviagen-quality", number=2, warnings="The mesh is not closed."),
    )
    values = describe(wf, [], "Succeeded")
    assert values["warnings"] == warnings and values["status"] == "completed"

    class Api:
        def patch_namespaced_custom_object(self, *words: Any) -> None:
            self.patch = words[-1]["metadata"]

    api = Api()
    exit_handler.label_workflow(values, "", "sixview", wf, api)
    assert api.patch["labels"]["sixview.dev/warnings"] == "2"
    assert api.patch["annotations"]["sixview.dev/warnings"] == warnings
    exit_handler.label_workflow({**values, "warnings": ""}, "", "sixview", wf, api)
    assert api.patch["labels"]["sixview.dev/warnings"] is None


def test_the_first_failure_counts_and_names_its_engine() -> None:
    wf = workflow(
        node("validate"),
        failed("reconviagen-pod", ModelConvergenceFailed("No surface."), stage="inference", engine="fusion"),
        node("package", number=2),
    )
    values = describe(wf, [], "Failed")
    assert (values["error-code"], values["stage"], values["engine"]) == (
        "MODEL_CONVERGENCE_FAILED",
        "inference",
        "fusion",
    )
    details = json.loads(values["failure"])["details"]
    assert (details["step"], details["model"], details["attempts"]) == ("reconviagen", "reconviagen", 1)


def test_a_failed_attempt_before_a_successful_one_is_no_failure() -> None:
    first = failed("reconviagen-pod", ModelConvergenceFailed("x"))
    wf = workflow(first, node("reconviagen-pod", number=2), node("reconviagen-quality", "Failed", "pod deleted", 3))
    assert error_code(wf) == "NODE_LOST"


def test_the_last_attempt_counts_whatever_argo_says_of_its_start() -> None:
    """Where an update of the workflow is lost, Argo makes the node of an attempt that has ended anew, with the time of then."""
    lost = node("reconviagen-pod", "Error", "init: Error (exit code 64): artifact scene failed to load", 9)
    out_of_memory = failed("reconviagen-pod", ModelOom("x"), number=3)
    last = failed("reconviagen-pod", ModelConvergenceFailed("No surface."), number=4)
    names = ("job.reconviagen.attempt(0)", "job.reconviagen.attempt(1)", "job.reconviagen.again.attempt(0)")
    for attempt, name in zip((lost, out_of_memory, last), names, strict=True):
        attempt["name"] = name
    wf = workflow(last, lost, node("package", number=10), out_of_memory)
    assert [n["name"] for n in nodes.step_nodes(wf)] == [*names, ""]
    assert error_code(wf) == "MODEL_CONVERGENCE_FAILED"


@pytest.mark.parametrize(
    "message",
    [
        "pod deleted",
        "The node was low on resource: memory. Evicted",
        "Pod is terminated in response to imminent node shutdown",
    ],
)
def test_a_lost_pod_is_recognized_by_its_message(message: str) -> None:
    assert error_code(workflow(node("validate", "Error", message))) == "NODE_LOST"


def test_a_kill_that_the_kubelet_calls_out_of_memory_is_that() -> None:
    killed = json.dumps(
        {"code": "KILLED", "message": "m", "suggestion": "s", "details": {"pipeline_stage": "inference"}}
    )
    pod = node("nvdiffrec-pod", "Failed", "OOMKilled (exit code 137)", failure=killed, stage="inference")
    values = describe(workflow(pod, model="nvdiffrec"), [], "Failed")
    assert (values["error-code"], values["oom-type"], values["stage"]) == ("MODEL_OOM", "ram", "inference")
    silent = node("nvdiffrec-pod", "Failed", "Error (exit code 137)", failure=killed)
    assert error_code(workflow(silent)) == "KILLED"
    state = {"name": "main", "state": {"terminated": {"reason": "OOMKilled"}}}
    known = {
        "metadata": {"annotations": {"workflows.argoproj.io/node-id": silent["id"]}},
        "status": {"containerStatuses": [state]},
    }
    assert error_code(workflow(silent), [known]) == "MODEL_OOM"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("main: Error (exit code 20)", "MODEL_VRAM_OOM"),
        ("main: Error (exit code 21)", "MODEL_OOM"),
        ("main: Error (exit code 25)", "DISK_FULL"),
        ("main: Error (exit code 26)", "KILLED"),
        ("main: Error (exit code 30)", "NODE_LOST"),
        ("main: Error (exit code 137)", "KILLED"),
        ("main: Error (exit code 143)", "NODE_LOST"),
        ("Pod was active on the node longer than the specified deadline", "MODEL_TIMEOUT"),
        ("Step exceeded its deadline", "MODEL_TIMEOUT"),
    ],
)
def test_the_record_of_a_step_s_start_yields_to_another_cause(message: str, expected: str) -> None:
    """The disk had no room for the last record, or Argo read the first one while the step was still ending."""
    killed = {"code": "KILLED", "message": "m", "suggestion": "s", "details": {"pipeline_stage": "inference"}}
    pod = node("nvdiffrec-pod", "Failed", message, failure=json.dumps(killed), stage="inference")
    values = describe(workflow(pod, model="nvdiffrec"), [], "Failed")
    assert (values["error-code"], values["stage"]) == (expected, "inference")


def test_a_stopped_job_is_cancelled_unless_the_reconciler_says_why() -> None:
    wf = workflow(node("validate", "Failed", "workflow shutdown with strategy: Stop"), shutdown="Stop")
    assert (error_code(wf), describe(wf, [], "Failed")["status"]) == ("CANCELLED", "cancelled")
    wf["metadata"]["annotations"][ENDED_BY] = "The image x could not be had."
    assert (error_code(wf), describe(wf, [], "Failed")["status"]) == ("IMAGE_UNAVAILABLE", "failed")


def test_a_job_that_was_stopped_before_any_pod_ran_stopped_in_its_first_step() -> None:
    """It waited for its turn: Argo makes all its nodes in the same second, to fail them."""
    message = "workflow shutdown with strategy: Stop"
    wf = workflow(node("package", "Failed", message), node("validate", "Failed", message), shutdown="Stop")
    assert describe(wf, [], "Failed")["stage"] == "validation"
    assert describe(workflow(shutdown="Stop"), [], "Failed")["error-code"] == "CANCELLED"


def test_exceeded_deadlines_of_workflow_and_step_are_model_timeout() -> None:
    wf = workflow()
    wf["status"]["message"] = "retry exceeded workflow deadline 2026-11-26 22:03:39 +0000 UTC"
    assert error_code(wf) == "MODEL_TIMEOUT"
    assert error_code(workflow(node("validate", "Failed", "Step exceeded its deadline"))) == "MODEL_TIMEOUT"


def test_a_pod_that_kubernetes_ended_for_its_age_timed_out() -> None:
    message = "Pod was active on the node longer than the specified deadline"
    assert error_code(workflow(node("nvdiffrec-pod", "Failed", message))) == "MODEL_TIMEOUT"


def test_a_server_that_did_not_answer_in_time_is_no_deadline_of_the_pod() -> None:
    message = "failed to put artifact 'result': context deadline exceeded"
    assert error_code(workflow(node("package", "Error", message))) == "STORAGE_UNAVAILABLE"


def test_an_invalid_input_address_is_validation_failed() -> None:
    wf = workflow(node("validate", "Error", "failed to load artifact 'input': bucket name"), source="mug.zip")
    assert error_code(wf) == "VALIDATION_FAILED"
    refused = node("validate", "Error", "failed to load artifact 'input' from images/mug: Access Denied")
    assert error_code(workflow(refused)) == "STORAGE_UNAVAILABLE"


def test_nodes_of_large_workflows_are_compressed() -> None:
    wf = workflow(node("validate", "Error", "pod deleted"))
    nodes = wf["status"].pop("nodes")
    wf["status"]["compressedNodes"] = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
    assert error_code(wf) == "NODE_LOST"


def test_failure_json_is_written_only_after_a_failure(tmp_path: Path) -> None:
    exit_handler.write_outputs({**EXIT_HANDLER_OUTPUTS, "status": "completed"}, tmp_path / "good")
    assert sorted(p.name for p in (tmp_path / "good").iterdir()) == sorted(EXIT_HANDLER_OUTPUTS)
    exit_handler.write_outputs({**EXIT_HANDLER_OUTPUTS, "failure": '{"code": "X"}'}, tmp_path / "bad")
    assert json.loads((tmp_path / "bad" / "failure.json").read_text()) == {"code": "X"}


@pytest.mark.parametrize("model", ['"-', "-x", "x.", "_", "x" * 62 + "--", "{{workflow.name}}", "größe", "a\nb", ""])
def test_whatever_was_asked_for_the_labels_are_ones_that_kubernetes_takes(model: str) -> None:
    value = exit_handler.label_value(describe(workflow(node("validate"), model=model), [], "Succeeded")["model"])
    assert re.fullmatch("(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value) and len(value) <= 63


def test_a_validate_that_could_not_begin_still_has_its_job_s_wrong_options_named() -> None:
    wf = workflow(node("validate", "Error", "pods is forbidden: no PriorityClass urgent"), model="x")
    wf["spec"]["arguments"]["parameters"].append({"name": "grid", "value": 9999})
    values = describe(wf, [], "Failed")
    assert values["error-code"] == "VALIDATION_FAILED"
    assert values["message"] == "model is 'x'; grid is '9999'."


def test_a_source_with_braces_is_invalid() -> None:
    assert (
        error_code(workflow(node("validate", "Error", "no such key"), source="s3://b/{{workflow.name}}"))
        == "VALIDATION_FAILED"
    )


# Workflows as Argo 3.7.18 on Kubernetes 1.34.4 left them (endings.json, cut down to what is read): code, stage, status, attempts
ENDINGS = {
    "missing key": ("VALIDATION_FAILED", "validation", "failed", 1),
    "missing bucket": ("VALIDATION_FAILED", "validation", "failed", 1),
    "bad bucket name": (
        "VALIDATION_FAILED",
        "validation",
        "failed",
        2,
    ),  # this and the next ran before they were told at once
    "refused keys": ("STORAGE_UNAVAILABLE", "validation", "failed", 2),
    "own limit on disk": ("DISK_FULL", "weight_loading", "failed", 1),
    "rejected by the kubelet": ("NODE_LOST", "validation", "failed", 2),
    "workflow deadline": ("MODEL_TIMEOUT", "weight_loading", "failed", 1),
    "stopped in the queue": ("CANCELLED", "validation", "cancelled", 1),
    "stopped in its first step": ("CANCELLED", "validation", "cancelled", 1),
    "terminated": ("CANCELLED", "weight_loading", "cancelled", 1),
    "missed gate": ("QUALITY_THRESHOLD_FAILED", "quality_metrics", "failed", 1),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_recorded_ending_has_its_code_stage_and_status(name: str) -> None:
    """In the exit handler's outputs, and in the status of a job whose exit handler did not run."""
    wf = json.loads((Path(__file__).parent / "endings.json").read_text())[name]
    values = describe(wf, [], nodes.tasks_phase(wf))
    details = json.loads(values["failure"])["details"]
    assert (values["error-code"], values["stage"], values["status"], details["attempts"]) == ENDINGS[name]
    seen = status.of_workflow(wf)
    assert (seen["error"]["code"], seen["stage"], seen["status"]) == ENDINGS[name][:3]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("main: OOMKilled (exit code 21)", "MODEL_OOM"),
        ("main: OOMKilled (exit code 137)", "MODEL_OOM"),
        ("main: Error (exit code 137)", "KILLED"),
        ("main: Error (exit code 20)", "MODEL_VRAM_OOM"),
        ("main: Error (exit code 25)", "DISK_FULL"),
        ("main: Error (exit code 30)", "NODE_LOST"),
        ("main: Error (exit code 143)", "NODE_LOST"),
        ("main: Error (exit code 1)", "UNKNOWN_ERROR"),
        ("main: Error (exit code 10)", "UNKNOWN_ERROR"),
    ],
)
def test_a_step_whose_outputs_were_lost_is_known_by_its_exit_code(message: str, expected: str) -> None:
    """Argo can fail a pod before its outputs have reached the controller."""
    lost = node("reconviagen-pod", "Failed", message) | {"outputs": {"exitCode": "21"}}
    assert error_code(workflow(node("validate"), lost)) == expected
