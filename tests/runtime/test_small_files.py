"""Small files exchanged by steps and jobs, also damaged ones: each affects its own content only."""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from pipeline.local import runner, step_process
from pipeline.local.progress import Display, parts
from pipeline.local.step_cache import is_done
from steps.package import evidence, report
from steps.runtime.attempts import COMPLETED, OOM, STOPPED, Attempts
from steps.runtime.errors import ModelFailed, StepError, as_record
from steps.runtime.files import program, read_json, read_text
from steps.runtime.reporter import Reporter, read_notes, read_stages

NESTED = "[" * 100_000
TEXTS = ["", "{", "null", "7", '"x"', "[]", "{}", "[7, null]", '{"a": {}}', "NaN", NESTED, "\x00\ufffd"]
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
EVERY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Level:
    batch: int


# -- files.py -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("default", [{"a": 1}, [1]])
def test_json_is_of_the_kind_of_its_default_or_is_the_default(tmp_path: Path, text: str, default: Any) -> None:
    (tmp_path / "file").write_text(text, errors="surrogateescape")
    assert isinstance(read_json(tmp_path / "file", default), type(default))


def test_bytes_that_are_no_text_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")
    assert read_text(tmp_path / "file", "0") == "0" and read_json(tmp_path / "file", []) == []
    assert read_text(tmp_path, "0") == "0" and read_text(tmp_path / "none", "0") == "0"


def test_the_program_s_digest_is_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps" / "deep").mkdir(parents=True)
    monkeypatch.setattr("steps.runtime.files.__file__", str(tmp_path / "steps" / "runtime" / "files.py"))
    seen = {program()}
    for name in ("a.py", "deep/b.py"):
        (tmp_path / "steps" / name).write_text("x = 1\n")
        seen.add(program())
    (tmp_path / "steps" / "a.py").rename(tmp_path / "steps" / "c.py")
    seen.add(program())
    (tmp_path / "steps" / "notes.txt").write_text("no source")
    assert len(seen) == 4 and program() in seen


# -- records ------------------------------------------------------------------------------------------------------------


def test_a_record_survives_being_read() -> None:
    record = ModelFailed("It broke.", attempt=2).record()
    assert as_record(json.loads(json.dumps(record))) == record


@EVERY
@given(JSON | some.fixed_dictionaries({"code": JSON | some.just("MODEL_OOM"), "message": JSON, "details": JSON}))
def test_whatever_is_read_is_a_whole_record_or_none(value: Any) -> None:
    record = as_record(value)
    if record is not None:
        assert isinstance(record["message"], str) and isinstance(record["suggestion"], str)
        assert record["code"] == "MODEL_OOM" and isinstance(record["details"], dict)


# -- attempts.json ------------------------------------------------------------------------------------------------------


def attempts(folder: Path, text: str) -> Attempts:
    (folder / "attempts.json").write_text(text)
    return Attempts(folder / "attempts.json")


@pytest.mark.parametrize("text", [t for t in TEXTS if t != "[]"])
def test_damaged_attempts_are_noted_and_ignored(tmp_path: Path, text: str) -> None:
    result = attempts(tmp_path, text)
    assert result.first([Level(2), Level(1)]) == 0 and "attempts.json, was damaged" in result.note
    with result.recorded(Level(2), lambda: 5):
        pass
    again = Attempts(tmp_path / "attempts.json")
    assert [a["outcome"] for a in again.earlier] == [COMPLETED] and again.note == ""


def test_attempts_beside_a_damaged_one_still_count(tmp_path: Path) -> None:
    result = attempts(tmp_path, json.dumps([{"batch": 2, "outcome": OOM}, {"outcome": "?"}, {"batch": 1}, 7]))
    assert result.first([Level(2), Level(1)]) == 1 and result.note


@EVERY
@given(some.lists(some.fixed_dictionaries({"outcome": some.sampled_from([OOM, STOPPED]) | JSON, "batch": JSON})) | JSON)
def test_no_content_of_attempts_breaks_the_choice_of_a_level(tmp_path: Path, value: Any) -> None:
    try:
        assert attempts(tmp_path, json.dumps(value)).first([Level(2), Level(1)]) in (0, 1)
    except StepError as error:
        assert error.code == OOM


def test_without_attempts_there_is_no_note(tmp_path: Path) -> None:
    assert Attempts(tmp_path / "none.json").note == "" and Attempts(None).note == ""


def test_a_folder_in_the_place_of_attempts_is_left_alone(tmp_path: Path) -> None:
    result = Attempts(tmp_path)
    with result.recorded(Level(1), lambda: 0):
        pass
    assert result.note and list(tmp_path.iterdir()) == []


# -- a step's outputs ---------------------------------------------------------------------------------------------------


@EVERY
@given(
    JSON
    | some.lists(some.fixed_dictionaries({"stage": JSON | some.just("rig"), "seconds": JSON, "peak_ram_mib": JSON}))
)
def test_malformed_stages_are_left_out(tmp_path: Path, value: Any) -> None:
    (tmp_path / "stages.json").write_text(json.dumps(value))
    for stage in read_stages(tmp_path):
        assert stage["stage"] == "rig" and math.isfinite(stage["seconds"]) and isinstance(stage["peak_ram_mib"], int)


def test_notes_are_kept_in_their_order(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, "inference")
    reporter.note("First.")
    reporter.note("Second.")
    assert read_notes(tmp_path) == ["First.", "Second."]


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1e999", "\x00"])
def test_malformed_seconds_count_as_zero(tmp_path: Path, text: str) -> None:
    (tmp_path / "seconds").write_text(text)
    assert runner._seconds(tmp_path) == 0.0


@pytest.mark.parametrize("text", ["", "/", "half", "1", "x/2", "1/y", "-1/2", "1.5/2", "1/2/3"])
def test_malformed_progress_is_not_shown(text: str) -> None:
    assert parts(text) == (0, None) and parts("3/8") == (3, 8)
    with Display(quiet=True).step("x") as line:
        line.update("inference", text, "soon")


@pytest.mark.parametrize("text", TEXTS)
def test_a_failure_that_cannot_be_read_is_an_unknown_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "failure.json").write_text(text)
    (tmp_path / "stderr").write_bytes(b"first\n\xff\xfe last\n")
    record = step_process.failure_of(tmp_path, 1, tmp_path / "stderr")
    assert record is not None and record["code"] == "UNKNOWN_ERROR" and "exit code 1" in record["message"]


@EVERY
@given(some.dictionaries(some.sampled_from(["key", "results"]), JSON))
def test_a_damaged_note_of_a_finished_step_means_doing_it_again(tmp_path: Path, done: Any) -> None:
    assert not is_done(done, "key", tmp_path / "nothing")


def test_progress_and_each_stage_s_end_tell_how_long_a_gpu_has_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = types.SimpleNamespace(
        busy_seconds=lambda: seconds
    )  # a double of the module, which only a GPU's use loads
    monkeypatch.setitem(sys.modules, "steps.compute.gpu_time", computed)
    seconds = 0.0
    reporter = Reporter(tmp_path, "weight_loading")
    assert not (tmp_path / "gpu-busy-seconds").exists()
    for seconds, tell in ((1.5, lambda: reporter.progress(1, 2)), (2.25, reporter.close)):
        tell()
        assert (tmp_path / "gpu-busy-seconds").read_text() == f"{seconds:.3f}"


# -- the report ---------------------------------------------------------------------------------------------------------

OUTPUTS = ("stages.json", "notes.json", "failure.json", "seconds", "stage", "peak-ram-mib")


@pytest.mark.parametrize("text", TEXTS)
def test_the_report_is_written_whatever_the_steps_have_left(tmp_path: Path, text: str) -> None:
    for step in ("validate", "reconviagen", "reconviagen.quality"):
        (tmp_path / "outputs" / step).mkdir(parents=True)
        for name in OUTPUTS:
            (tmp_path / "outputs" / step / name).write_text(text)
    (tmp_path / "reconviagen" / "quality").mkdir(parents=True)
    (tmp_path / "reconviagen" / "quality" / "quality.json").write_text(text)
    job = evidence.gather(tmp_path, ["reconviagen"])
    assert "<html" in report.page(job) and "quality.json" in job.models[0].missing_required()


def test_what_a_step_noted_is_in_the_report(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs" / "nvdiffrec"
    outputs.mkdir(parents=True)
    Reporter(outputs, "inference").note("The checkpoint is damaged: the work began anew.")
    page = report.page(evidence.gather(tmp_path, ["nvdiffrec"]))
    assert "nvdiffrec: notes" in page and "The checkpoint is damaged: the work began anew." in page
