"""Retries after OOM and lost outputs, preemption, and restarts of Argo's controller and of the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.jobs.nodes import outputs, step_nodes
from pipeline.jobs.pod_messages import RETRYABLE, SIGKILLED, SIGTERMED, matches
from pipeline.workflow.dag import workflow_template
from pipeline.workflow.settings import Settings
from steps.runtime.errors import Interrupted, Killed, ModelOom
from tests.cluster.client import (
    BUCKET,
    describe_nodes,
    finished,
    folder,
    keys_of,
    moment,
    node_of,
    read_key,
    record_of,
    running_pod,
    submit,
)
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE

Fault = Callable[[str], dict[str, Any]]


def model_attempts(wf: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """The attempts of a model whose pods were not lost: a busy node may lose one, which is tried again for itself."""
    nodes = [node for node in step_nodes(wf) if node["templateName"] == f"{model}-pod"]
    return [node for node in nodes if not matches(RETRYABLE, node.get("message", ""))]


def test_a_job_that_ran_out_of_memory_succeeds_with_more_and_says_so(fault: Fault) -> None:
    wf = fault("hungry")
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    first, second = model_attempts(wf, "reconviagen")
    assert (outputs(first)["error-code"], outputs(second)["error-code"]) == ("MODEL_OOM", "")
    assert int(outputs(second)["peak-ram-mib"]) > 1024
    assert record_of(wf)["earlier-attempts"] == "reconviagen: MODEL_OOM at 1024 MiB of memory"
    assert "MODEL_OOM at 1024 MiB of memory" in read_key(wf["metadata"]["name"], "report.html").decode()


def test_a_job_that_ran_out_of_vram_succeeds_on_the_next_level_and_records_what_was_reduced(fault: Fault) -> None:
    wf = fault("lower_level")
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    first, second = model_attempts(wf, "nvdiffrec")
    assert (outputs(first)["error-code"], outputs(second)["error-code"]) == ("MODEL_VRAM_OOM", "")
    attempts = json.loads(read_key(wf["metadata"]["name"], "nvdiffrec/attempts.json"))
    assert [a["outcome"] for a in attempts] == ["MODEL_VRAM_OOM", "completed"]
    assert attempts[1]["grid"] < attempts[0]["grid"]
    assert "after 1 attempts that ran out of memory" in read_key(wf["metadata"]["name"], "report.html").decode()


def test_exhausted_memory_levels_are_not_retried(fault: Fault) -> None:
    tries = model_attempts(fault("vram"), "nvdiffrec")
    assert [outputs(node)["rungs-left"] for node in tries] == ["1", "0"]


@pytest.mark.parametrize("exit_code", [ModelOom.exit_code, Killed.exit_code, SIGKILLED])
def test_an_attempt_whose_outputs_were_lost_is_tried_again_by_its_exit_code(exit_code: int, inputs: str) -> None:
    """Its wait container ends at once, so Argo never gets the step's outputs."""
    patch = json.dumps({"containers": [{"name": "wait", "command": ["argoexec", "no-such-command"]}]})
    wf = attempts_of_a_pod_that_exits(exit_code, podSpecPatch=patch)
    expected = 1 + Settings(name="sixview-cpu").ram_retries
    assert len(step_nodes(wf)) == expected, describe_nodes(wf)


@pytest.mark.parametrize(
    ("exit_code", "is_retried"),
    [(Interrupted.exit_code, False), (SIGTERMED, False), (ModelOom.exit_code, True), (SIGKILLED, True)],
)
def test_the_exit_code_counts_where_the_record_is_that_of_the_step_s_start(
    exit_code: int, is_retried: bool, inputs: str
) -> None:
    """SIGTERM may end the wait container together with the step: it then reads the KILLED that the step wrote when it began."""
    early = {"name": "error-code", "valueFrom": {"path": "/work/outputs/error-code", "default": Killed.code}}
    wf = attempts_of_a_pod_that_exits(exit_code, outputs={"parameters": [early]})
    assert {outputs(node)["error-code"] for node in step_nodes(wf)} == {Killed.code}
    expected = 1 + Settings(name="sixview-cpu").ram_retries * is_retried
    assert len(step_nodes(wf)) == expected, describe_nodes(wf)


def attempts_of_a_pod_that_exits(exit_code: int, **fields: Any) -> dict[str, Any]:
    """The finished workflow of a model's DAG of attempts whose pod only exits. fields: of that pod's template."""
    spec = workflow_template(Settings(name="sixview-cpu"))["spec"]
    templates = {template["name"]: template for template in spec["templates"]}
    container = {
        "image": "localhost/sixview/slim:test",
        "command": ["sh", "-c", f"sleep 5; exit {exit_code}"],
        "securityContext": templates["reconviagen-pod"]["container"]["securityContext"],
    }
    names = [{"name": name} for name in ("memory", "deadline", "earlier")]
    exiting = {"name": "reconviagen-pod", "container": container, "inputs": {"parameters": names}, **fields}
    parameters = [{"name": "memory", "value": "64"}, {"name": "deadline", "value": "60"}]
    call = {"name": "reconviagen", "template": "reconviagen", "arguments": {"parameters": parameters}}
    job = {"name": "job", "dag": {"tasks": [call]}}
    alike = {name: spec[name] for name in ("serviceAccountName", "executor", "securityContext")}
    manifest = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "attempts-"},
        "spec": {"entrypoint": "job", "templates": [job, templates["reconviagen"], exiting], **alike},
    }
    made = kubectl("-n", NAMESPACE, "create", "-f", "-", "-o", "name", given=json.dumps(manifest)).stdout
    wf = finished(made.strip().rpartition("/")[2], 180)
    assert {node["templateName"] for node in step_nodes(wf)} == {"reconviagen-pod"}, describe_nodes(wf)
    assert wf["status"]["phase"] == "Failed", describe_nodes(wf)
    return wf


def test_a_preempted_job_goes_on_from_its_checkpoint(inputs: str) -> None:
    """The checkpoint is in the store: the lost pod took its files with it."""
    name = submit(model="nvdiffrec", iterations=500)  # enough not to end, on an idle node, before its pod is taken away
    first = running_pod(name, "nvdiffrec-pod")
    time.sleep(12)  # Argo simply makes a pod anew that is lost in its first ten seconds
    wait_for(lambda: "nvdiffrec/checkpoint.pt" in keys_of(name), 240, "a checkpoint in the store")
    kubectl("-n", NAMESPACE, "delete", "pod", first["metadata"]["name"], "--wait=false")
    wf = finished(name)
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    tries = [node for node in step_nodes(wf) if node["templateName"] == "nvdiffrec-pod"]
    assert len(tries) == 2
    assert "going on from the checkpoint" in log_of(name, tries[1])
    assert "nvdiffrec/checkpoint.pt" not in keys_of(name)  # nobody needs it any more


def log_of(name: str, node: dict[str, Any]) -> str:
    """A step's archived log."""
    prefix = f"logs/sixview-{folder(name)}/"
    listed = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    number = node["id"].rpartition("-")[2]
    key = next(item["Key"] for item in listed if number in item["Key"] and item["Key"].endswith("main.log"))
    return s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


@pytest.mark.alone
def test_a_controller_that_dies_in_the_middle_of_a_job_is_not_missed(inputs: str) -> None:
    name = submit()
    running_pod(name, "reconviagen-pod")
    kubectl("-n", "argo", "delete", "pod", "-l", "app=workflow-controller", "--grace-period=0", "--force")
    wf = finished(name)
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    assert len(step_nodes(wf)) == 5


@pytest.mark.alone
def test_a_store_that_is_away_for_half_a_minute_is_waited_for(inputs: str) -> None:
    """During the download of the input, and again during the upload of the mesh."""
    name = submit(model="nvdiffrec", iterations=30)
    without_store_for(30)
    running_pod(name, "nvdiffrec-pod")
    without_store_for(30)
    wf = finished(name)
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    assert "result.zip" in keys_of(name)
    started, finished_at = (moment(node_of(wf, "nvdiffrec-pod")[edge]) for edge in ("startedAt", "finishedAt"))
    assert (finished_at - started).total_seconds() > 30


def without_store_for(seconds: float) -> None:
    """Removes the endpoints of the store's Service for a while: every connection is refused."""
    remove_store_endpoints(True)
    try:
        time.sleep(seconds)
    finally:
        remove_store_endpoints(False)


def remove_store_endpoints(removed: bool) -> None:
    """Removes the endpoints of the store's Service, or restores them."""
    selector = {"app.kubernetes.io/component": "nowhere" if removed else "minio"}
    kubectl(
        "-n", NAMESPACE, "patch", "service", "sixview-cpu-minio", "-p", json.dumps({"spec": {"selector": selector}})
    )
