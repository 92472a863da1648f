"""The failure table and the steps' flags."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steps import contracts
from steps.contracts import FIRST_STAGE, OUTPUTS, RESULT_FILE, STEPS
from steps.errors import STAGES, ModelOom, StepError, by_code

RESERVED_BY_ARGO_AND_SHELLS = {64, 65, 126, 127, 137, 139, 143}


def test_no_code_is_used_twice_and_no_exit_code_means_something_else() -> None:
    assert len(by_code()) == 29
    assert not {cls.exit_code for cls in by_code().values()} & RESERVED_BY_ARGO_AND_SHELLS
    assert all(cls.exit_code > 0 for cls in by_code().values())


def test_every_failure_says_what_to_do() -> None:
    assert all(cls.advice for cls in by_code().values())


def test_a_record_has_code_message_suggestion_and_details() -> None:
    record = ModelOom("Too much.", attempt=2).record()
    assert record == {
        "code": "MODEL_OOM",
        "message": "Too much.",
        "suggestion": ModelOom.advice,
        "details": {"attempt": 2},
    }


def test_the_readme_s_table_is_the_tree() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", text, re.MULTILINE))
    assert {code: int(exit_code) for code, exit_code in rows.items()} == {
        c: cls.exit_code for c, cls in by_code().items()
    }


def example(step: str) -> contracts.Step:
    """Parameters with every field set to something other than its default."""
    cls, values = STEPS[step], {}
    hints = cls.__annotations__ | contracts.Step.__annotations__
    for item in dataclasses.fields(cls):
        kind, choices = hints[item.name], item.metadata["choices"]
        if "Path" in kind:
            values[item.name] = Path("/some where") / item.name
        elif kind == "bool":
            values[item.name] = True
        elif kind == "str":
            values[item.name] = choices[-1] if choices else "x y"
        else:
            values[item.name] = {"int": 7, "float": 0.123456789}[kind]
    return cls(**values)


@pytest.mark.parametrize("step", STEPS)
def test_flags_and_parameters_are_inverses(step: str) -> None:
    parameters = example(step)
    assert contracts.parse(step, contracts.arguments(parameters)) == parameters


@pytest.mark.parametrize("step", STEPS)
def test_help_documents_every_flag(step: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"steps.{step}", "--help"], capture_output=True, text=True, check=True)
    for item in dataclasses.fields(STEPS[step]):
        assert contracts.flag(item.name) in done.stdout


def test_every_step_has_a_result_file_and_a_first_stage_of_the_contract() -> None:
    assert set(RESULT_FILE) == set(STEPS) == set(FIRST_STAGE)
    assert set(FIRST_STAGE.values()) <= set(STAGES)


def test_outputs_are_valid_names_for_argo_parameters() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in OUTPUTS)


def test_bad_input_is_a_step_error() -> None:
    assert issubclass(by_code()["INVALID_FILE_COUNT"], StepError)
