"""The workflow as rendered. That it runs is shown on a real cluster: tests/cluster."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import doctor
from pipeline.workflow import helm_render, substitution
from pipeline.workflow.dag import workflow_template
from pipeline.workflow.resources import Size
from pipeline.workflow.settings import PODS, Settings
from steps.runtime import contract
from steps.runtime.contract import MODELS, OUTPUTS, STEPS
from steps.runtime.errors import Killed, ModelOom, ModelVramOom
from steps.runtime.options import JOB_OPTIONS, PRIORITIES, wrong
from tests.conftest import sixview

ROOT = Path(__file__).parents[3]
SPEC = workflow_template()["spec"]
TEMPLATES = {template["name"]: template for template in SPEC["templates"]}
STEP_PODS = {name: t for name, t in TEMPLATES.items() if "container" in t and name != "report"}


def test_what_is_committed_is_what_is_rendered() -> None:
    """`make manifests` writes both anew."""
    assert (ROOT / "charts/sixview/templates/workflowtemplate.yaml").read_text() == helm_render.chart_template()
    documents = [d for d in yaml.safe_load_all((ROOT / "manifests/sixview.yaml").read_text()) if d]
    assert [d for d in documents if d["kind"] == "WorkflowTemplate"] == [yaml.safe_load(helm_render.manifest())]


def test_sixview_render_prints_the_template() -> None:
    assert sixview("render").stdout == helm_render.manifest()
    on_cpu = yaml.safe_load(sixview("render", "--cpu", "--name", "small").stdout)
    assert on_cpu["metadata"]["name"] == "small"
    assert "nvidia.com/gpu" not in json.dumps(on_cpu)


@pytest.mark.parametrize("name", STEP_PODS)
def test_every_pod_s_command_is_one_that_its_step_understands(name: str) -> None:
    """With Argo's expressions in place of numbers."""
    container = STEP_PODS[name]["container"]
    step = container["command"][-1].removeprefix("steps.")
    words = [re.sub(r"\{\{.*\}\}", _plausible(word.split("=")[0]), word) for word in container["args"]]
    parameters = contract.parse(step, words)
    assert parameters.outputs == Path("/work/outputs")
    assert {f"/work/outputs/{v}" for v in OUTPUTS} <= {
        p["valueFrom"]["path"] for p in STEP_PODS[name]["outputs"]["parameters"]
    }


def _plausible(flag: str) -> str:
    words = {"--device": "cpu", "--engine": "fusion", "--rig": "nominal"}
    return words.get(flag, "1" if flag.endswith("ssim-threshold") else "100")


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
def test_every_pod_requests_a_gpu_and_has_the_restricted_security_context(name: str) -> None:
    container = STEP_PODS[name]["container"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert STEP_PODS[name]["activeDeadlineSeconds"] == 7500


def device_of(template: dict[str, Any]) -> str:
    """What stands for the device in a pod's command."""
    return next(word for word in template["container"]["args"] if word.startswith("--device=")).partition("=")[2]


def test_every_pod_computes_on_the_device_that_the_job_wants() -> None:
    for name, template in STEP_PODS.items():
        assert "workflow.parameters['device'] == 'cuda' ? 'cuda'" in device_of(template), name


@pytest.mark.parametrize("step", PODS)
def test_a_pod_that_requests_no_gpu_computes_on_the_cpu_whatever_the_job_wants_but_not_a_model(step: str) -> None:
    spec = workflow_template(Settings(gpus={**Settings().gpus, step: 0}))["spec"]
    pods = {t["name"]: t for t in spec["templates"] if t["name"] in STEP_PODS}
    without = {name for name, t in pods.items() if "nvidia.com/gpu" not in t["container"]["resources"]["limits"]}
    assert without == {name for name, t in pods.items() if t["container"]["command"][-1] == f"steps.{step}"} != set()
    assert {name for name, t in pods.items() if device_of(t) == "cpu"} == (set() if step in MODELS else without)


def test_the_chart_decides_so_for_each_step() -> None:
    text = helm_render.chart_template()
    for step in PODS:
        pods = sum(t["container"]["command"][-1] == f"steps.{step}" for t in STEP_PODS.values())
        choices = re.findall(
            rf"{{{{- if \.Values\.steps\.{step}\.gpus }}}}\n.*\n *{{{{- else }}}}\n *- --device=cpu\n", text
        )
        assert len(choices) == (0 if step in MODELS else pods)


def test_the_thrifty_installation_requests_gpus_for_the_models_alone() -> None:
    values = yaml.safe_load((ROOT / "charts/sixview/ci/thrift-values.yaml").read_text())
    defaults = yaml.safe_load((ROOT / "charts/sixview/values.yaml").read_text())
    gpus = {step: (size | values["steps"].get(step, {}))["gpus"] for step, size in defaults["steps"].items()}
    assert gpus == {step: int(step in MODELS) for step in PODS}


@pytest.mark.parametrize("name", ["validate", "package"])
def test_what_runs_in_every_job_begins_whatever_device_was_asked_for(name: str) -> None:
    """validate refuses a device that there is not, and package reports it: both have to understand their own flags."""
    assert device_of(STEP_PODS[name]).endswith(" : 'auto'}}")


@pytest.mark.parametrize("name", [*STEP_PODS, "report"])
def test_no_attempt_s_time_counts_against_the_next(name: str) -> None:
    """Argo's maxDuration runs from the first attempt's creation, while it waits for a GPU and works, and ends the next one."""
    assert set(TEMPLATES[name]["retryStrategy"]["backoff"]) == {"duration", "factor"}


def test_no_step_gets_what_it_does_not_read() -> None:
    inputs = {name: {a["name"] for a in t["inputs"].get("artifacts", [])} for name, t in STEP_PODS.items()}
    assert inputs["validate"] == {"input", "options"}
    assert inputs["reconviagen-pod"] == {"scene", "attempts"}
    assert inputs["nvdiffrec-pod"] == {"scene", "attempts", "checkpoint"}
    assert inputs["nvdiffrec-quality"] == inputs["nvdiffrec-preview"] == {"scene", "mesh"}
    assert "scene" not in inputs["package"]


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
    plain, marked = Settings(), helm_render.placeholder_settings()
    unmarked = {f.name for f in dataclasses.fields(Settings) if getattr(plain, f.name) == getattr(marked, f.name)}
    assert unmarked == {"pull_policy", "gpus", "another_node", "weights_claim"}
    text = helm_render.chart_template()
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
    parameters: list[dict[str, Any]] = SPEC["arguments"]["parameters"]
    assert all(p["description"].endswith(".") for p in parameters)
    assert [p["name"] for p in parameters if "value" not in p] == ["input"]


# -- values that others choose ------------------------------------------------------------------------------------------

PARAMETER = r"workflow\.parameters\['[a-z-]+'\]"
CONSTANT = r"'[a-z0-9.,-]+'"
# forms of an expression whose result can hold neither brace nor quote
SAFE = [
    rf"(?:{PARAMETER} == {CONSTANT} \? {CONSTANT} : )+{CONSTANT}",  # a constant
    rf"{PARAMETER} == {CONSTANT}(?: \|\| {PARAMETER} == {CONSTANT})*",  # true or false
    rf"({PARAMETER}) matches '\^\[0-9\.eE\+-\]\{{1,32\}}\$' \? \1 : {CONSTANT}",  # a number
]
WORDS = r"\(inputs\.parameters\.(\w+) matches '\^\[A-Za-z0-9_, \]\*\$' \? inputs\.parameters\.\1 : 'invalid'\)"
OWN = rf"int\(inputs\.parameters\.\w+\)|{WORDS}"
ARGO_S = {
    "workflow.name",
    "workflow.namespace",
    "workflow.status",
}  # names that Kubernetes checks, and a word of Argo's


def tags(tree: Any, place: str = "") -> list[tuple[str, str]]:
    """Every tag below: where it stands, and what is in it. Other strings that name a parameter count as tags, too."""
    if isinstance(tree, dict):
        return [tag for name, value in tree.items() for tag in tags(value, f"{place}.{name}")]
    if isinstance(tree, list):
        return [tag for value in tree for tag in tags(value, place)]
    if not isinstance(tree, str):
        return []
    matches = re.findall(r"\{\{(.*?)\}\}(?!\})", tree, re.DOTALL)
    return [(place, tag) for tag in matches] or (
        [(place, "=" + tree)] if "parameters" in tree and "expression" in place else []
    )


def is_safe(place: str, tag: str) -> bool:
    """Whether what stands there after every substitution is nobody's own text."""
    if not tag.startswith("="):
        return tag in ARGO_S
    if tag == substitution.all_options()[2:-2]:
        return place.endswith("raw.data")
    if tag in [substitution.url_part(number)[2:-2] for number in (1, 2)]:
        return place.endswith((".s3.bucket", ".s3.key"))
    if "workflow.parameters" in tag:
        return any(re.fullmatch(form, tag[1:]) for form in SAFE)
    return "inputs.parameters" not in re.sub(OWN, "", tag)


def test_no_parameter_is_pasted_anywhere_as_text() -> None:
    """Argo substitutes several times over: a value that may hold a tag or a quote is one that may do anything."""
    found_tags = tags(SPEC)
    assert len([tag for _, tag in found_tags if "workflow.parameters" in tag]) > 30
    assert not [(place, tag) for place, tag in found_tags if not is_safe(place, tag)]


@pytest.mark.parametrize(
    "tag",
    ["workflow.parameters.grid", "=workflow.parameters.grid", "inputs.parameters.memory", "=inputs.parameters.earlier"],
)
def test_a_pasted_parameter_would_be_found(tag: str) -> None:
    assert not is_safe(".templates.container.args", tag)


@pytest.mark.parametrize("model", MODELS)
def test_the_retry_expression_handles_missing_outputs(model: str) -> None:
    """Argo knows no `outputs` of a task whose pod failed before they were read: reading on would end the workflow as an Error."""
    again = next(task for task in TEMPLATES[model]["dag"]["tasks"] if task["name"] == "again")
    texts = [again["when"], *(p["value"] for p in again["arguments"]["parameters"])]
    read = [r for text in texts for r in re.findall(r"tasks\.attempt\.outputs\S*", text)]
    assert read and all(r.startswith("tasks.attempt.outputs?.parameters?.") for r in read)
    for error in (ModelOom, ModelVramOom):
        assert f"(tasks.attempt.exitCode ?? '') == '{error.exit_code}' ? '{error.code}'" in again["when"]
    assert f"(tasks.attempt.exitCode ?? '') in ['{Killed.exit_code}', '137'] ? 'KILLED'" in again["when"]


def test_pod_spec_patches_contain_numbers_only() -> None:
    assert "podSpecPatch" not in SPEC
    for template in TEMPLATES.values():
        for tag in re.findall(r"\{\{(.*?)\}\}", template.get("podSpecPatch", "")):
            assert tag == "=int(inputs.parameters.memory)"


def test_every_pod_s_priority_class_is_one_of_three() -> None:
    classes = {f"'sixview-{level}'" for level in PRIORITIES}
    for name in (*STEP_PODS, "report"):
        assert set(re.findall(r"'sixview-\w+'", TEMPLATES[name]["priorityClassName"])) == classes


def test_the_parameters_are_the_options_of_a_job_with_their_choices_and_ranges() -> None:
    parameters = {p["name"]: p for p in SPEC["arguments"]["parameters"]}
    assert list(parameters) == ["input", *JOB_OPTIONS]
    for name, option in JOB_OPTIONS.items():
        assert parameters[name].get("enum", []) == list(option.choices)
        assert option.choices or option.allowed().capitalize() in parameters[name]["description"]
    assert not wrong({name: p["value"] for name, p in parameters.items() if name != "input"})


def test_doctor_knows_a_template_of_another_version() -> None:
    ours = workflow_template()
    assert doctor._declared("sixview", ours).ok
    others = copy.deepcopy(ours)
    others["spec"]["arguments"]["parameters"][-1] |= {"value": "3"}
    finding = doctor._declared("sixview", others)
    assert finding.ok is False and "iterations" in finding.what
