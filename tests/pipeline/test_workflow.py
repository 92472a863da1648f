"""The workflow as rendered. That it runs is shown on a real cluster: tests/cluster."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import render
from pipeline.resources import Size
from pipeline.settings import PODS, Settings
from pipeline.workflow import workflow_template
from steps import contracts
from steps.contracts import MODELS, OUTPUTS, STEPS
from tests.conftest import sixview

ROOT = Path(__file__).parents[2]
SPEC = workflow_template()["spec"]
TEMPLATES = {template["name"]: template for template in SPEC["templates"]}
STEP_PODS = {name: t for name, t in TEMPLATES.items() if "container" in t and name != "report"}


def test_what_is_committed_is_what_is_rendered() -> None:
    """`make manifests` writes both anew."""
    assert (ROOT / "charts/sixview/templates/workflowtemplate.yaml").read_text() == render.chart_template()
    documents = [d for d in yaml.safe_load_all((ROOT / "manifests/sixview.yaml").read_text()) if d]
    assert [d for d in documents if d["kind"] == "WorkflowTemplate"] == [yaml.safe_load(render.manifest())]


def test_the_command_prints_it() -> None:
    assert sixview("render").stdout == render.manifest()
    on_cpu = yaml.safe_load(sixview("render", "--cpu", "--name", "small").stdout)
    assert on_cpu["metadata"]["name"] == "small"
    assert "nvidia.com/gpu" not in json.dumps(on_cpu)


@pytest.mark.parametrize("name", STEP_PODS)
def test_every_pod_s_command_is_one_that_its_step_understands(name: str) -> None:
    """With Argo's expressions in place of numbers."""
    container = STEP_PODS[name]["container"]
    step = container["command"][-1].removeprefix("steps.")
    words = [re.sub(r"\{\{.*\}\}", _plausible(flag), word) for flag, word in _pairs(container["args"])]
    parameters = contracts.parse(step, words)
    assert parameters.outputs == Path("/work/outputs")
    assert {f"/work/outputs/{v}" for v in OUTPUTS} <= {
        p["valueFrom"]["path"] for p in STEP_PODS[name]["outputs"]["parameters"]
    }


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return [(words[i - 1] if i else "", word) for i, word in enumerate(words)]


def _plausible(flag: str) -> str:
    return {"--device": "cpu", "--engine": "fusion", "--rig": "nominal"}.get(flag, "1")


@pytest.mark.parametrize("name", STEP_PODS)
def test_every_output_has_a_default_and_every_artifact_may_be_missing(name: str) -> None:
    """Argo stops saving at the first that is missing without one."""
    outputs = STEP_PODS[name]["outputs"]
    assert all("default" in p["valueFrom"] for p in outputs["parameters"])
    assert all(a["optional"] for a in outputs["artifacts"])
    assert all(
        a["path"].startswith("/work/") for a in outputs["artifacts"]
    )  # a volume: read even after a SIGKILL of all


@pytest.mark.parametrize("name", STEP_PODS)
def test_every_pod_requests_a_gpu_and_is_locked(name: str) -> None:
    container = STEP_PODS[name]["container"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert STEP_PODS[name]["activeDeadlineSeconds"] == 7500


@pytest.mark.parametrize("name", [*STEP_PODS, "report"])
def test_no_attempt_s_time_counts_against_the_next(name: str) -> None:
    """Argo's maxDuration runs from the first attempt's creation, while it waits for a GPU and works, and ends the next one."""
    assert set(TEMPLATES[name]["retryStrategy"]["backoff"]) == {"duration", "factor"}


def test_no_step_gets_what_it_does_not_read() -> None:
    taken = {name: {a["name"] for a in t["inputs"].get("artifacts", [])} for name, t in STEP_PODS.items()}
    assert taken["validate"] == {"input"}
    assert taken["reconviagen-pod"] == {"scene", "attempts"}
    assert taken["nvdiffrec-pod"] == {"scene", "attempts", "checkpoint"}
    assert taken["nvdiffrec-quality"] == taken["nvdiffrec-preview"] == {"scene", "mesh"}
    assert "scene" not in taken["package"]


def test_every_input_is_some_other_pod_s_output() -> None:
    def keys(side: str) -> set[str]:
        return {
            a["s3"]["key"]
            for t in STEP_PODS.values()
            for a in t[side].get("artifacts", [])
            if "s3" in a and a["name"] != "input"
        }

    checkpoint = {k for k in keys("inputs") if k.endswith("nvdiffrec/checkpoint.pt")}  # the sidecar puts it there
    assert keys("inputs") - keys("outputs") == checkpoint
    sidecar = TEMPLATES["nvdiffrec-pod"]["sidecars"][0]
    assert sidecar["args"][1] == f"s3://sixview/{checkpoint.pop()}"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_s_template_runs_itself_again(model: str) -> None:
    attempt, again = TEMPLATES[model]["dag"]["tasks"]
    assert (attempt["template"], again["template"]) == (f"{model}-pod", model)
    assert again["depends"] == "attempt.Failed || attempt.Errored"
    assert {p["name"] for p in again["arguments"]["parameters"]} == {
        p["name"] for p in TEMPLATES[model]["inputs"]["parameters"]
    }


def test_the_job_fails_when_any_of_its_steps_did() -> None:
    dag = TEMPLATES["job"]["dag"]
    assert dag["target"].split() == [task["name"] for task in dag["tasks"]]
    assert not dag["failFast"]
    assert SPEC["onExit"] == "report"


def test_only_the_exit_handler_has_a_token() -> None:
    assert SPEC["automountServiceAccountToken"] is False
    assert [name for name, t in TEMPLATES.items() if t.get("automountServiceAccountToken")] == ["report"]


def test_every_value_of_an_installation_reaches_the_chart() -> None:
    """A setting that the chart's template does not mark would be the same in every installation."""
    plain, marked = Settings(), render.chart_settings()
    unmarked = {f.name for f in dataclasses.fields(Settings) if getattr(plain, f.name) == getattr(marked, f.name)}
    assert unmarked == {"pull_policy", "gpus", "another_node", "weights_claim"}
    text = render.chart_template()
    for value in (
        "images.pullPolicy",
        "images.reconviagen",
        "retries.anotherNode",
        "retries.mostMemoryMiB",
        "s3.insecure",
    ):
        assert f".Values.{value}" in text
    assert not re.findall(r"@[A-Z]+|9[01]000\d", text)


def test_only_the_published_model_s_step_sees_its_weights_and_cannot_change_them() -> None:
    spec = workflow_template(Settings(weights_claim="mine", reconviagen="reconviagen"))["spec"]
    pods = {t["name"]: t for t in spec["templates"] if "container" in t}
    assert [name for name, t in pods.items() if "volumes" in t] == ["reconviagen-pod"]
    pod = pods["reconviagen-pod"]
    assert pod["volumes"] == [{"name": "weights", "persistentVolumeClaim": {"claimName": "mine", "readOnly": True}}]
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in pod["container"]["volumeMounts"]
    assert pod["container"]["image"].split(":")[0] == "sixview/reconviagen"
    assert STEP_PODS["reconviagen-pod"]["volumes"] == [{"name": "weights", "emptyDir": {}}]


def test_sizes_are_what_kubernetes_writes() -> None:
    assert Size("500m", 2048).resources(0) == {
        "requests": {"cpu": "500m", "memory": "2048Mi"},
        "limits": {"memory": "2048Mi"},
    }
    assert set(PODS) <= set(STEPS)


def test_parameters_explain_themselves() -> None:
    given: list[dict[str, Any]] = SPEC["arguments"]["parameters"]
    assert all(p["description"].endswith(".") for p in given)
    assert [p["name"] for p in given if "value" not in p] == ["input"]
