"""A job's options are declared once: every way in refuses the same values with the same record, and each option arrives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import flags
from pipeline.cli.main import main
from pipeline.incluster import intake
from pipeline.local import runner
from pipeline.local.progress import Display
from pipeline.workflow.dag import workflow_template
from pipeline.workflow.settings import PODS
from steps.runtime import contract, supervisor
from steps.runtime.contract import STEPS
from steps.runtime.errors import Record, ValidationFailed
from steps.runtime.options import JOB_OPTIONS, parse
from tests.pipeline.doubles import Bucket, Namespace, bucket
from tests.pipeline.gateway.test_ways_in import Service, service
from tests.pipeline.incluster.test_intake import drop_folder, failed

__all__ = ["bucket", "service"]
ROOT = Path(__file__).parent.parent.parent
OF_NO_STEP = {"model", "priority"}  # they decide which pods there are, and which go first

# option, value, the step that takes it, message, what the suggestion says where the option exists
REFUSED = {
    "grid": ("grid", "9999", "reconviagen", "grid is '9999'.", "grid may be a whole number from 32 to 768."),
    "range": ("seed", "1..2", "reconviagen", "seed is '1..2'.", "seed may be a whole number from 0 to 4294967295."),
    "seed": ("seed", "-1", "nvdiffrec", "seed is '-1'.", "seed may be a whole number from 0 to 4294967295."),
    "nan": (
        "psnr-threshold",
        "nan",
        "quality",
        "psnr-threshold is 'nan'.",
        "psnr-threshold may be a number from 0 to 100.",
    ),
    "exponent": (
        "resolution",
        "1e3",
        "nvdiffrec",
        "resolution is '1e3'.",
        "resolution may be a whole number from 0 to 4096.",
    ),
    "choice": ("device", "tpu", "validate", "device is 'tpu'.", "device may be one of auto, cpu, cuda."),
    "unknown": ("nonsense", "1", "preview", "There is no option 'nonsense'.", ""),
}
Refusal = Callable[[str, str, str], Record]


def of_command(*words: str) -> Record:
    """The failure that a command prints on stdout, where it has --json."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == ValidationFailed.exit_code, done.output
    record: Record = json.loads(done.stdout)["error"]
    return record


def of_run(name: str, value: str, step: str) -> Record:
    return of_command("run", "x", "--out", "y", "--json", f"--{name}={value}")


def of_submit(name: str, value: str, step: str) -> Record:
    """Refused before the set, which does not exist, is looked at, and before the cluster is asked."""
    return of_command("submit", "x", "--json", "-p", f"{name}={value}")


def of_pod(folder: Path, step: str, *words: str) -> Record:
    """The failure.json of a step's process."""
    folders = [f"--out={folder / 'out'}", f"--outputs={folder / 'outputs'}"]
    needed = {"validate": ["--input=x"], "reconviagen": ["--scene=x"], "nvdiffrec": ["--scene=x"]}
    code = supervisor.main(step, [*folders, *needed.get(step, ["--scene=x", "--mesh=x"]), *words])
    assert code == ValidationFailed.exit_code and not (folder / "out").exists()
    record: Record = json.loads((folder / "outputs" / "failure.json").read_text())
    return record


@pytest.fixture
def ways(tmp_path: Path, service: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> dict[str, Refusal]:
    """Interface -> function from option, value and step to the failure record."""

    def of_form(name: str, value: str, step: str) -> Record:
        response = service.submit(None, options=json.dumps({name: value}))
        assert response.status_code == 422 and not service.cluster.workflows
        record: Record = response.json()["error"]
        return record

    def of_json(name: str, value: str, step: str) -> Record:
        options = {name: int(value) if value in ("9999", "-1") else value}
        response = service.ask("POST", "/jobs", json={"input": "s3://shared/x", "options": options})
        assert response.status_code == 422
        record: Record = response.json()["error"]
        return record

    def of_drop(name: str, value: str, step: str) -> Record:
        monkeypatch.setattr(intake, "RETRY_DELAY_SECONDS", 0.0)
        drop_folder(bucket, "mug", json.dumps({"options": {name: value}}).encode())
        cluster = Namespace()
        assert list(intake.reconcile(cluster, "sixview").values()) == ["refused"] and not cluster.workflows
        record: Record = failed(bucket, "mug")
        return record

    def of_first_step(name: str, value: str, step: str) -> Record:
        """As after `argo submit -p`, which checks nothing."""
        file = tmp_path / "options.json"
        file.write_text(json.dumps({"input": "s3://sixview/x", name: value}))
        return of_pod(tmp_path, "validate", f"--options={file}")

    def of_step(name: str, value: str, step: str) -> Record:
        return of_pod(tmp_path, step, f"--{name}={value}")

    return {
        "run": of_run,
        "submit": of_submit,
        "form": of_form,
        "json": of_json,
        "drop": of_drop,
        "first step": of_first_step,
        "step": of_step,
    }


@pytest.mark.parametrize("way", ["run", "submit", "form", "json", "drop", "first step", "step"])
@pytest.mark.parametrize("case", REFUSED)
def test_every_way_in_refuses_a_value_with_the_same_words(ways: dict[str, Refusal], case: str, way: str) -> None:
    name, value, step, message, suggestion = REFUSED[case]
    record = ways[way](name, value, step)
    assert (record["code"], record["message"]) == ("VALIDATION_FAILED", message)
    assert record["suggestion"] == suggestion or (case == "unknown" and record["suggestion"])
    assert record["details"]["field"] == name
    if case != "unknown":
        allowed = suggestion.removeprefix(f"{name} may be ").removesuffix(".")
        assert record["details"]["options"] == [{"name": name, "value": f"'{value}'", "allowed": allowed}]


def test_a_command_with_generated_flags_checks_them() -> None:
    commands = [command for command in main.commands.values() if any(map(is_generated, command.params))]
    assert {"run", "submit", "sample"} <= {command.name for command in commands}
    assert all(isinstance(command, flags.CheckedCommand) for command in commands)


def is_generated(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, flags.OptionType)


def test_the_parser_gives_every_value_its_type() -> None:
    values = parse({"grid": "64", "ssim-threshold": "5e-1", "seed": 7, "model": "both"})
    assert values == {"grid": 64, "ssim-threshold": 0.5, "seed": 7, "model": "both"}
    assert {name: type(value) for name, value in values.items()} == {name: JOB_OPTIONS[name].kind for name in values}


# -- each option arrives ------------------------------------------------------------------------------------------------


def test_every_option_is_taken_by_a_step_or_decides_about_the_pods() -> None:
    option_names = {name for step in PODS for name in contract.job_fields(STEPS[step]).values()}
    assert option_names == set(JOB_OPTIONS) - OF_NO_STEP
    templates = str(workflow_template()["spec"]["templates"])
    assert [name for name in JOB_OPTIONS if f"workflow.parameters['{name}']" not in templates.replace("\\", "")] == []


@pytest.mark.parametrize("step", PODS)
def test_a_pod_passes_each_option_that_its_step_takes(step: str) -> None:
    templates = [t for t in workflow_template()["spec"]["templates"] if "container" in t]
    pods = [t["container"] for t in templates if t["container"]["command"][-1] == f"steps.{step}"]
    assert pods
    for field, name in contract.job_fields(STEPS[step]).items():
        start = f"{contract.flag(field)}={{{{=workflow.parameters['{name}'] "
        assert all(any(word.startswith(start) for word in pod["args"]) for pod in pods), (field, name)


def test_a_local_job_passes_each_option_that_a_step_takes(tmp_path: Path) -> None:
    job = {name: other_than_default(name) for name in JOB_OPTIONS if name not in OF_NO_STEP}
    options = runner.Options(input=tmp_path, out=tmp_path, models=contract.MODELS, job=job)
    local = runner.Job(options, Display(quiet=True))
    tasks = [local.validate_task(), *(local.model_task(model) for model in contract.MODELS)]
    tasks += [local.quality_task("nvdiffrec"), local.preview_task("nvdiffrec"), local.package_task()]
    assert [task.step for task in tasks] == list(PODS)
    for task in tasks:
        for field, name in contract.job_fields(STEPS[task.step]).items():
            assert getattr(task.parameters, field) == job[name]
    assert options.as_json() | {name.replace("-", "_"): value for name, value in job.items()} == options.as_json()


def other_than_default(name: str) -> Any:
    option = JOB_OPTIONS[name]
    return option.choices[-1] if option.choices else option.kind(option.most or 0)


@pytest.mark.parametrize("name", JOB_OPTIONS)
def test_every_option_is_documented(name: str) -> None:
    reference = ROOT / "docs" / "reference"
    assert re.search(rf"^\| `{name}` \|", (reference / "steps.md").read_text(), re.MULTILINE)
    assert f"`--{name}`" in (reference / "cli.md").read_text()
