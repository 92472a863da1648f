"""For each fault the failing node's outputs, the exit handler's record, the labels and failure.json."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.jobs.nodes import first_failure, outputs, step_nodes
from steps.runtime.errors import OOM_TYPES
from tests.cluster.client import (
    argo,
    describe_nodes,
    ended_without_pods,
    finished,
    keys_of,
    labels_of,
    moment,
    node_of,
    read_key,
    record_of,
    running_pod,
    submit,
    values_of,
    working_pod,
)
from tests.cluster.conftest import DAMAGES
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE, SLOWNESS

Fault = Callable[[str], dict[str, Any]]


def check_record(wf: dict[str, Any], code: str, stage: str, status: str = "failed") -> dict[str, str]:
    """The exit handler's outputs, the labels and failure.json agree. Returns the outputs."""
    record, labels = record_of(wf), labels_of(wf)
    assert (record["error-code"], record["stage"], record["status"]) == (code, stage, status)
    assert record["oom-type"] == OOM_TYPES.get(code, "none")
    assert record["message"]
    labelled = {
        name: value for name, value in record.items() if name in labels and name != "warnings"
    }  # a label counts them
    assert labelled == {name: value for name, value in labels.items() if name in labelled}
    assert {"status", "error-code", "stage", "oom-type", "model"} <= set(labels) | {"stage" if not stage else ""}
    failure = json.loads(record["failure"])
    assert {"step", "model", "engine", "pipeline_stage", "oom_type", "attempts"} <= set(failure["details"])
    assert failure["suggestion"]
    return record


def check_stored(wf: dict[str, Any]) -> None:
    """At once, or after the reconciler has looked: the store may have been away for the exit handler and its retries."""
    name = wf["metadata"]["name"]
    wait_for(lambda: "failure.json" in keys_of(name), 120, f"failure.json of {name}: {describe_nodes(wf)}")
    assert json.loads(read_key(name, "failure.json")) == json.loads(record_of(wf)["failure"])


def check_ended_soon(wf: dict[str, Any]) -> None:
    """No workflow runs on after its fault, though twenty of them share a node's two cores here."""
    failed = first_failure(step_nodes(wf))
    assert failed is not None
    duration = moment(wf["status"]["finishedAt"]) - moment(failed["finishedAt"])
    assert duration.total_seconds() < 120 * SLOWNESS


# fault: (template whose pod fails, code, stage)
REPORTED_BY_STEP = {
    "kernel": ("reconviagen-pod", "MODEL_OOM", "weight_loading"),
    "guard": ("reconviagen-pod", "MODEL_OOM", "weight_loading"),
    "vram": ("nvdiffrec-pod", "MODEL_VRAM_OOM", "weight_loading"),
    "exception": ("reconviagen-pod", "MODEL_FAILED", "weight_loading"),
    "divergence": ("reconviagen-pod", "MODEL_CONVERGENCE_FAILED", "weight_loading"),
    "timeout": ("reconviagen-pod", "MODEL_TIMEOUT", "weight_loading"),
    "quality": ("reconviagen-quality", "QUALITY_THRESHOLD_FAILED", "quality_metrics"),
    **{code: ("validate", code, "validation") for code in DAMAGES},
}


@pytest.mark.parametrize("name", REPORTED_BY_STEP)
def test_a_failing_step_says_so_itself(fault: Fault, name: str) -> None:
    wf, (template, code, stage) = fault(name), REPORTED_BY_STEP[name]
    assert wf["status"]["phase"] == "Failed", describe_nodes(wf)
    values = values_of(wf, template)
    assert (values["error-code"], values["stage"], values["oom-type"]) == (code, stage, OOM_TYPES.get(code, "none"))
    assert values["message"]
    record = check_record(wf, code, stage)
    assert json.loads(values["failure"])["message"] == record["message"] == values["message"]
    check_stored(wf)
    check_ended_soon(wf)
    assert "report.html" in keys_of(wf["metadata"]["name"])


def test_the_kernel_s_own_kill_is_told_from_the_guard(fault: Fault) -> None:
    assert "kernel killed" in record_of(fault("kernel"))["message"]
    assert "of 2048 MiB" in record_of(fault("guard"))["message"]


def test_below_the_gate_the_result_can_still_be_looked_at(fault: Fault) -> None:
    wf = fault("quality")
    details = json.loads(record_of(wf)["failure"])["details"]
    assert details["psnr"]["threshold"] == 99
    assert details["engine"] == "fusion"
    with zipfile.ZipFile(io.BytesIO(read_key(wf["metadata"]["name"], "result.zip"))) as archive:
        assert "reconviagen/previews/wireframe_05.png" in archive.namelist()


def test_after_a_failure_nothing_else_is_begun(fault: Fault) -> None:
    for name in ("exception", "INVALID_FILE_COUNT"):
        begun = {node["templateName"] for node in step_nodes(fault(name))}
        assert begun <= {"validate", "reconviagen-pod", "package"}
        assert "result.zip" not in keys_of(fault(name)["metadata"]["name"])


def test_the_second_model_is_not_begun_after_the_first_has_failed(fault: Fault) -> None:
    wf = fault("both")
    check_record(wf, "QUALITY_THRESHOLD_FAILED", "quality_metrics")
    assert not [node for node in step_nodes(wf) if node["templateName"].startswith("nvdiffrec")]
    with zipfile.ZipFile(io.BytesIO(read_key(wf["metadata"]["name"], "result.zip"))) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} >= {"reconviagen"}


def test_bad_input_and_bad_quality_are_never_tried_again(fault: Fault) -> None:
    for name in ("quality", "exception", "divergence", *DAMAGES):
        # Argo's Error is not the step's: on a busy node a name or the store may not answer in time, and that is tried again
        templates = [node["templateName"] for node in step_nodes(fault(name)) if node["phase"] != "Error"]
        assert len(templates) == len(set(templates)), name


def test_a_kill_of_the_whole_container_keeps_the_last_stage(killed: dict[str, Any]) -> None:
    """What cgroup v2 does when memory runs out; here every process of the container is killed by hand, so no counter of the
    kernel says memory."""
    values = values_of(killed, "reconviagen-pod")
    assert (values["error-code"], values["stage"]) == ("KILLED", "weight_loading")
    assert outputs(node_of(killed, "reconviagen-pod"))["engine"] == ""
    check_record(killed, "KILLED", "weight_loading")
    check_stored(killed)
    check_ended_soon(killed)


def test_a_stopped_job_is_cancelled(inputs: str) -> None:
    name = submit(seed=7002)
    working_pod(name, "reconviagen-pod")
    argo("stop", name)
    wf = finished(name)
    assert values_of(wf, "reconviagen-pod")["error-code"] == "INTERRUPTED", describe_nodes(wf)
    check_record(wf, "CANCELLED", "weight_loading", "cancelled")
    check_stored(wf)
    check_ended_soon(wf)


def test_a_job_that_wants_a_gpu_says_at_once_and_by_name_that_it_does_not_work(inputs: str) -> None:
    """With the chart's default device: the GPU of the test's node is only the scheduler's. With device=cpu the same job passes
    (test_success)."""
    wf = finished(submit("sixview", device="cuda"))
    attempts = [node for node in step_nodes(wf) if node["templateName"] == "validate"]
    assert len(attempts) == 2, describe_nodes(wf)  # another node's GPU might work: the values allow one more
    for attempt in attempts:
        assert outputs(attempt)["error-code"] == "GPU_UNAVAILABLE" and "NVIDIA driver" in outputs(attempt)["message"]
        assert float(outputs(attempt)["seconds"]) < 10 * SLOWNESS
    check_record(wf, "GPU_UNAVAILABLE", "validation")
    check_ended_soon(wf)
    assert {node["templateName"] for node in step_nodes(wf)} <= {"validate", "package"}


def test_a_terminated_job_says_so_to_whoever_asks(inputs: str) -> None:
    """No exit handler runs: the workflow itself is all there is, until the reconciler labels it (test_endings)."""
    name = submit(seed=7002)
    running_pod(name, "reconviagen-pod")
    argo("terminate", name)
    wf = finished(name)
    assert wf["status"]["phase"] == "Failed", describe_nodes(wf)
    assert "Terminate" in node_of(wf, "reconviagen-pod")["message"] + wf["status"].get("message", "")
    assert "Terminate" in argo("get", name)


def test_a_lost_pod_is_tried_again_and_then_told(inputs: str) -> None:
    def delete(pod: str) -> None:
        kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force")

    wf = ended_without_pods(submit(seed=7002), "reconviagen-pod", delete)
    check_record(wf, "NODE_LOST", record_of(wf)["stage"])
    check_stored(wf)
    check_ended_soon(wf)
    assert sum(node["templateName"] == "reconviagen-pod" for node in step_nodes(wf)) == 2  # the values allow one more


def test_an_image_that_cannot_be_had_ends_the_job(fault: Fault) -> None:
    wf = fault("image")
    record = check_record(wf, "IMAGE_UNAVAILABLE", "validation")  # validate is the first to need it
    assert "engines-nowhere" in record["message"]
    check_stored(wf)
    pulling = next(n for n in step_nodes(wf) if n["templateName"] == "validate")
    waited = moment(wf["status"]["finishedAt"]) - moment(pulling["startedAt"])
    assert (
        20 < waited.total_seconds() < 20 + 120 * SLOWNESS
    )  # of which some are the reconciler's and the exit handler's, on a busy node


def annotated_record(wf: dict[str, Any]) -> dict[str, Any]:
    """The failure record that the exit handler left on the workflow itself. A store that refuses refuses its artifact, too, and
    then Argo may lose what its node would show."""
    labels = labels_of(wf)
    assert (labels["error-code"], labels["stage"], labels["status"]) == ("STORAGE_UNAVAILABLE", "validation", "failed")
    return dict(json.loads(wf["metadata"]["annotations"]["sixview.dev/record"])["error"])


def test_a_store_that_refuses_a_result(fault: Fault) -> None:
    wf = fault("refused_output")
    values = values_of(wf, "validate")
    assert (values["error-code"], values["stage"]) == ("", "validation")  # the step itself has done its work
    record = annotated_record(wf)
    assert "denied" in record["message"].lower()
    assert sum(node["templateName"] == "validate" for node in step_nodes(wf)) == 1  # it would refuse again
    check_ended_soon(wf)


def test_a_store_that_refuses_the_input(fault: Fault) -> None:
    wf = fault("refused_input")
    record = annotated_record(wf)
    assert "does not let the installation's keys read s3://private/mug" in record["message"]
    assert sum(node["templateName"] == "validate" for node in step_nodes(wf)) == 1


def test_an_input_that_is_no_address(fault: Fault) -> None:
    record = check_record(fault("no_address"), "VALIDATION_FAILED", "validation")
    assert "s3://bucket/prefix" in json.loads(record["failure"])["suggestion"]


def test_lists_show_the_record(fault: Fault) -> None:
    name = fault("divergence")["metadata"]["name"]
    columns = ",".join(f"sixview.dev/{c}" for c in ("status", "error-code", "oom-type", "stage"))
    table = kubectl("-n", NAMESPACE, "get", "workflows", name, "-L", columns).stdout
    assert "MODEL_CONVERGENCE_FAILED" in table
    assert "failed" in table
