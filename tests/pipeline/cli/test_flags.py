"""The command's flags follow from the declaration of the options."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from steps.runtime.options import JOB_OPTIONS

RUN = ("run", "x", "--out", "y")


def run_cli(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, words)
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("name", [name for name in JOB_OPTIONS if name not in ("rig", "priority")])
def test_run_refuses_invalid_options_and_names_the_valid_ones(name: str) -> None:
    option = JOB_OPTIONS[name]
    for wrong in ("x", "--help", "²", " 1", *([] if option.most is None else [str(option.most + 1), "nan", "1_0"])):
        code, output = run_cli(*RUN, f"--{name}={wrong}")
        assert code == 10 and f"{name} is {wrong!a}. What to do: {name} may be {option.allowed()}." in output


def test_help_shows_every_range_and_default() -> None:
    _, output = run_cli("run", "--help")
    for name, option in JOB_OPTIONS.items():
        if name not in ("rig", "priority"):
            assert f"--{name} " in output and f"[default: {option.default}]" in output
            assert option.choices or option.allowed().capitalize() in output


@pytest.mark.parametrize(
    "words", [("--tet-grid", "8"), ("--batch", "7"), ("--structure-steps", "0"), ("--memory-limit-mib", "-1")]
)
def test_help_shows_range_and_default_of_step_flags(words: tuple[str, str]) -> None:
    code, output = run_cli(*RUN, *words)
    assert code == 10 and "a whole number" in output


def test_a_submission_has_the_same_choices() -> None:
    for name in ("model", "engine", "device", "priority"):
        code, output = run_cli("submit", "x", f"--{name}", "x")
        assert code == 10 and f"{name} may be {JOB_OPTIONS[name].allowed()}" in output


def test_all_invalid_flags_are_named_at_once() -> None:
    code, output = run_cli(*RUN, "--grid", "9999", "--tet-grid", "8", "--seed", "1..2")
    assert code == 10 and all(f"{name} may be a whole number" in output for name in ("grid", "tet-grid", "seed"))


def test_an_unknown_flag_is_answered_with_one_that_is_spelled_alike() -> None:
    code, output = run_cli(*RUN, "--sed", "1")
    assert code == 10 and "There is no option 'sed'." in output and "--seed" in output


def test_a_flag_that_is_a_parameter_of_a_submission_is_a_usage_error() -> None:
    code, output = run_cli("submit", "x", "--grid", "64")
    assert code == 2 and "No such option" in output
