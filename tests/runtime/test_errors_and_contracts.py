"""The failure table and the steps' flags."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.runtime import contract, errors
from steps.runtime.contract import FIRST_STAGE, OUTPUTS, RESULT_FILE, STEPS
from steps.runtime.errors import STAGES, ModelOom, StepError, by_code

RESERVED_BY_ARGO_AND_SHELLS = {64, 65, 126, 127, 137, 139, 143}


def codes() -> dict[str, type[StepError]]:
    """Those of a step or of a job: the gateway, where another test has loaded it, brings its own."""
    return {code: cls for code, cls in by_code().items() if cls.__module__ == "steps.runtime.errors"}


def test_no_code_is_used_twice_and_no_exit_code_means_something_else() -> None:
    assert len(codes()) == 29
    assert not {cls.exit_code for cls in codes().values()} & RESERVED_BY_ARGO_AND_SHELLS
    assert all(cls.exit_code > 0 for cls in codes().values())


def test_every_failure_says_what_to_do() -> None:
    assert all(cls.advice for cls in codes().values())


def test_a_record_has_code_message_suggestion_and_details() -> None:
    record = ModelOom("Too much.", attempt=2).record()
    assert record == {
        "code": "MODEL_OOM",
        "message": "Too much.",
        "suggestion": ModelOom.advice,
        "details": {"attempt": 2},
    }


def test_the_page_of_failures_has_the_tree_and_a_section_for_each_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "failures.md").read_text()
    rows = dict(re.findall(r"^\| \[`([A-Z_]+)`\]\(#[a-z_]+\) \| (\d+) \|", text, re.MULTILINE))
    assert re.findall(r"^## ([A-Z_]+)$\n\n.+\n\n\*\*What to do\*\*: .+$", text, re.MULTILINE) == list(rows)
    assert {code: int(exit_code) for code, exit_code in rows.items()} == {
        c: cls.exit_code for c, cls in codes().items()
    }


def example(step: str) -> contract.Step:
    """Parameters with every field set to something other than its default."""
    cls, values = STEPS[step], {}
    hints = cls.__annotations__ | contract.Step.__annotations__
    for item in dataclasses.fields(cls):
        kind, known = hints[item.name], item.metadata["option"]
        if "Path" in kind:
            values[item.name] = Path("/some where") / item.name
        elif kind == "bool":
            values[item.name] = True
        elif kind == "str":
            values[item.name] = known.choices[-1] if known.choices else "--x y"
        elif kind == "int":
            values[item.name] = int(known.choices[0] if known.choices else known.most or 7)
        else:
            values[item.name] = 0.123456789
    return cls(**values)


@pytest.mark.parametrize("step", STEPS)
def test_flags_and_parameters_are_inverses(step: str) -> None:
    parameters = example(step)
    assert contract.parse(step, contract.arguments(parameters)) == parameters


def refusal(tmp_path: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """What a step makes of flags besides those of its folders: exit code, failure.json, stderr."""
    folders = [f"--out={tmp_path / 'out'}", f"--outputs={tmp_path / 'outputs'}"]
    command = [sys.executable, "-m", "steps.reconviagen", "--scene=x", *folders, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads((tmp_path / "outputs" / "failure.json").read_text()), done.stderr


def test_values_that_cannot_be_taken_are_a_record_of_bad_input_that_names_them_all(tmp_path: Path) -> None:
    code, record, stderr = refusal(
        tmp_path, "--grid=9999", "--seed=1..2", "--resolution=--help", "--engine=x", "--deadline-seconds=inf"
    )
    assert (code, record["code"], record["details"]["pipeline_stage"]) == (10, "VALIDATION_FAILED", "weight_loading")
    names = [option["name"] for option in record["details"]["options"]]
    assert sorted(names) == ["deadline-seconds", "engine", "grid", "resolution", "seed"]
    assert "grid may be a whole number from 32 to 768" in record["suggestion"]
    assert (tmp_path / "outputs" / "error-code").read_text() == "VALIDATION_FAILED"
    assert "usage" not in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_flag_and_a_missing_one_leave_a_record_too(tmp_path: Path) -> None:
    code, record, _ = refusal(tmp_path, "--nonsense=1")
    assert (code, record["code"]) == (10, "VALIDATION_FAILED")
    assert record["message"] == "There is no option 'nonsense'." and "structure-steps" in record["suggestion"]


@pytest.mark.parametrize("words", [["nonsense"], ["--", "--grid=64"], ["--refine=1"], ["--grid"]])
def test_a_word_that_is_no_flag_leaves_a_record_too(tmp_path: Path, words: list[str]) -> None:
    code, record, _ = refusal(tmp_path, *words)
    assert (code, record["code"]) == (10, "VALIDATION_FAILED")


def test_without_a_folder_for_the_record_there_is_a_usage_text() -> None:
    done = subprocess.run([sys.executable, "-m", "steps.package", "--x"], capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert "usage: python -m steps.package" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("step", STEPS)
def test_help_documents_every_flag(step: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"steps.{step}", "--help"], capture_output=True, text=True, check=True)
    for item in dataclasses.fields(STEPS[step]):
        assert contract.flag(item.name) in done.stdout


def test_every_step_has_a_result_file_and_a_first_stage_of_the_contract() -> None:
    assert set(RESULT_FILE) == set(STEPS) == set(FIRST_STAGE)
    assert set(FIRST_STAGE.values()) <= set(STAGES)


def test_outputs_are_valid_names_for_argo_parameters() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in OUTPUTS)


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    """With its branches, by which callers catch, and the exit codes that a branch shares."""
    written, branch = {}, ("StepError", 1)
    for indent, name, text in re.findall(r"^(│   |    |)[├└]── (\w+) +(.+)$", errors.__doc__ or "", re.MULTILINE):
        if indent:
            written[name] = (*branch, text)
        else:
            exit_code, code = re.findall(r"^exit (\d+)(?:, ([A-Z_]+))?", text)[0]
            branch = (name, int(exit_code))
            written[name] = ("StepError", int(exit_code), code)
    classes = {cls.__name__: cls for cls in (*codes().values(), errors.BadInput, errors.OutsideError)}
    assert written == {
        name: (cls.__bases__[0].__name__, cls.exit_code, "" if name in ("BadInput", "OutsideError") else cls.code)
        for name, cls in classes.items()
    }
