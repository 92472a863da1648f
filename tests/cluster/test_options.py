"""Options that no job takes, given to Argo itself, which checks none: each ends in the first step with a record that names it,
and none of them is anything but a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from steps.runtime.options import JOB_OPTIONS
from tests.cluster.client import finished, pods_of, record_of, submit

TEMPLATE = "sixview-cpu"
OUT_OF_RANGE = {
    "model": "x",
    "engine": "magic",
    "device": "tpu",
    "rig": "my.json",
    "priority": "urgent",
    "resolution": "--help",
    "psnr-threshold": "nan",
    "ssim-threshold": "1e999",
    "object-psnr-threshold": "-1",
    "object-ssim-threshold": "2",
    "seed": "1..2",
    "grid": "9999",
    "faces": "٣٠٠٠",
    "texture-size": "0x40",
    "iterations": "9" * 5000,
}
# what others than us would read as more than a value
HOSTILE = {
    "patch": 'normal","serviceAccountName":"sixview-cpu-report","x":"y',
    "name": "{{workflow.name}}",
    "expression": "{{=1+1}}",
    "half": "{{",
    "lines": "a\nb\\\t'\"",
    "words": '1"],"image":"other","args":["$(id)',
}
# each pass of Argo's substitution would open the next one; the last would come into the copy of the template that the pod holds
# as text, where its quotes would be quotes
CHAIN = {f"v{n}": f"{{{{workflow.parameters.v{n + 1}}}}}" for n in range(3)} | {
    "v3": 'auto"],"image":"other","args":["x',
    **dict.fromkeys(JOB_OPTIONS, "{{workflow.parameters.v0}}"),
}


@pytest.fixture(scope="module")
def finished_workflow(inputs: str) -> Callable[[str], dict[str, Any]]:
    """finished_workflow("range") -> the finished workflow. All are submitted at once."""
    source = f"{inputs}/mug"
    parameters: dict[str, dict[str, object]] = {
        "range": dict(OUT_OF_RANGE),
        **{name: dict.fromkeys(JOB_OPTIONS, value) for name, value in HOSTILE.items()},
        "chain": dict(CHAIN),
        "unknown": {"seeed": "5"},
    }
    names = {name: submit(TEMPLATE, source, **arguments) for name, arguments in parameters.items()}
    return lambda name: finished(names[name], 300)


def refused(wf: dict[str, Any]) -> dict[str, Any]:
    """The failure record, once it is known to be of the first step."""
    record = record_of(wf)
    assert (record["error-code"], record["stage"]) == ("VALIDATION_FAILED", "validation"), record
    failure: dict[str, Any] = json.loads(record["failure"])
    return failure


def check_pods(wf: dict[str, Any]) -> None:
    """Nothing but validate, package and the exit handler, each with its own account, priority and image, and no model."""
    pods = pods_of(wf["metadata"]["name"])
    kinds = {pod["metadata"]["annotations"]["sixview.dev/step"]: pod for pod in pods}
    assert set(kinds) == {"validate", "package", "report"}
    for name, pod in kinds.items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] == f"{TEMPLATE}-{'report' if name == 'report' else 'step'}"
        assert spec["priorityClassName"] == f"{TEMPLATE}-normal"
        main = next(c for c in spec["containers"] if c["name"] == "main")
        assert main["image"] != "other"
        assert "{{" not in json.dumps(main["args"])
        environment = {e["name"]: e.get("value", "") for e in spec["initContainers"][0]["env"]}
        assert json.loads(environment["ARGO_TEMPLATE"])["container"]["image"] == main["image"]


def test_each_value_out_of_its_range_is_named_in_the_first_step(
    finished_workflow: Callable[[str], dict[str, Any]],
) -> None:
    wf = finished_workflow("range")
    failure = refused(wf)
    assert {option["name"] for option in failure["details"]["options"]} == set(OUT_OF_RANGE)
    assert "a whole number from 32 to 768" in failure["suggestion"]
    check_pods(wf)


@pytest.mark.parametrize("name", [*HOSTILE, "chain"])
def test_hostile_option_values_are_refused_and_not_interpreted(
    finished_workflow: Callable[[str], dict[str, Any]], name: str
) -> None:
    wf = finished_workflow(name)
    failure = refused(wf)
    assert {option["name"] for option in failure["details"]["options"]} >= set(JOB_OPTIONS)
    value = HOSTILE.get(name, "{{workflow.parameters.v0}}")
    assert all(
        option["value"] == ascii(value) for option in failure["details"]["options"] if option["name"] in JOB_OPTIONS
    )
    check_pods(wf)


def test_an_unknown_parameter_name_is_refused(finished_workflow: Callable[[str], dict[str, Any]]) -> None:
    wf = finished_workflow("unknown")
    failure = refused(wf)
    assert "There is no option 'seeed'" in failure["message"] and "Options are model" in failure["suggestion"]
    check_pods(wf)


def test_a_priority_reaches_every_pod(inputs: str) -> None:
    wf = finished(submit(TEMPLATE, f"{inputs}/INVALID_FILE_COUNT", priority="high"), 300)
    pods = pods_of(wf["metadata"]["name"])
    assert len(pods) == 3 and {pod["spec"]["priorityClassName"] for pod in pods} == {f"{TEMPLATE}-high"}
