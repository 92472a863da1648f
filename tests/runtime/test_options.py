"""What may be given to a job: every way in reads it by one declaration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from steps.runtime.errors import ValidationFailed
from steps.runtime.options import JOB_OPTIONS, MAX_OPTIONS, MOST_SHOWN, check_file, refusal, wrong

DEFAULTS = {name: option.default for name, option in JOB_OPTIONS.items()}


def test_every_default_is_allowed_and_every_number_has_a_range() -> None:
    assert not wrong(DEFAULTS)
    assert not wrong({name: str(value) for name, value in DEFAULTS.items()})
    numbers = [option for option in JOB_OPTIONS.values() if option.kind is not str]
    assert all(option.least is not None and option.most is not None for option in numbers)
    assert all(option.choices for option in JOB_OPTIONS.values() if option.kind is str)


@pytest.mark.parametrize("name", [name for name, option in JOB_OPTIONS.items() if option.kind is not str])
def test_a_range_includes_its_ends_and_nothing_beyond(name: str) -> None:
    option = JOB_OPTIONS[name]
    assert not wrong({name: option.least}) and not wrong({name: option.most})
    assert option.least is not None and option.most is not None
    assert set(wrong({name: option.least - 1})) == set(wrong({name: option.most + 1})) == {name}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 64",
        "64 ",
        "+64",
        "6_4",
        "0x40",
        "64.0",
        "6e1",
        "٦٤",
        "６４",
        "64\n",
        "1..2",
        "--help",
        "nan",
        "inf",
        "{{=64}}",
        "9" * 5000,
    ],
)
def test_a_whole_number_is_ascii_digits_and_perhaps_a_minus(text: str) -> None:
    assert "grid" in wrong({"grid": text})
    assert not wrong({"grid": "64"}) and not wrong({"grid": "0064"})


@pytest.mark.parametrize(
    "text", ["", "nan", "-nan", "inf", "1e999", "1_0.5", "+0.5", "0,5", " 0.5", "0x1p-1", "٠.٥", ".", "0." + "5" * 40]
)
def test_a_number_is_finite_and_decimal(text: str) -> None:
    assert "ssim-threshold" in wrong({"ssim-threshold": text})
    for good in ("0.5", ".5", "1.", "5e-1", "5E-01", "-0.25"):
        assert not wrong({"ssim-threshold": good})


@pytest.mark.parametrize("value", [True, None, [], {}, math.nan, math.inf, 1e400, pytest.param(10**5000, id="huge")])
def test_json_values_of_other_types_are_refused_and_named(value: Any) -> None:
    given = {"grid": value}
    message = refusal(given, wrong(given)).message
    assert message.startswith("grid is ") and len(message) < 2 * MOST_SHOWN


def test_a_choice_is_one_of_those_letter_by_letter() -> None:
    assert set(wrong({"model": "Both", "device": "cpu ", "rig": "", "priority": "urgent"})) == {
        "model",
        "device",
        "rig",
        "priority",
    }


def test_a_refusal_names_each_option_and_what_it_may_be() -> None:
    given = {"grid": "9999", "modle": "x", "priority": "urgent"}
    error = refusal(given, wrong(given))
    assert error.message == "grid is '9999'; There is no option 'modle'; priority is 'urgent'."
    assert "grid may be a whole number from 32 to 768" in error.suggestion
    assert "priority may be one of low, normal, high" in error.suggestion
    assert [option["name"] for option in error.details["options"]] == list(given)


def test_the_file_that_validate_checks_is_the_workflow_s_parameters(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"input": "s3://anything", **{name: str(value) for name, value in DEFAULTS.items()}}))
    check_file(file)
    unreadable, too_long = "holds no JSON object", f"longer than {MAX_OPTIONS} characters"
    wrong_texts = {
        json.dumps({"grid": "{{=1}}"}): "grid is",
        json.dumps({"seeed": "1"}): "no option 'seeed'",
        "": too_long,
    }
    for text, words in wrong_texts.items() | dict.fromkeys(["[]", "{", "[" * 100_000, "\xff"], unreadable).items():
        file.write_text(text, encoding="latin-1")
        with pytest.raises(ValidationFailed, match=words):
            check_file(file)
