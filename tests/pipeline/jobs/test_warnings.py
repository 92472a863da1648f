"""A step's warnings appear in status, HTTP, record, terminal and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import cluster_commands, local_commands
from pipeline.gateway import routes
from pipeline.jobs import records, status
from steps.package import evidence, report
from steps.runtime.reporter import MOST_WARNINGS, WARNING, Reporter, read_warnings
from tests.pipeline import finished


def test_a_step_s_notes_that_begin_with_the_word_are_warnings(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, "validation")
    for note in ("The lens was found.", f"{WARNING}Views\ncontradict.", f"{WARNING}Views\ncontradict."):
        reporter.note(note)
    assert read_warnings(tmp_path) == ["Views contradict."]
    for number in range(2 * MOST_WARNINGS):
        reporter.warn(f"{WARNING}{number} {'x' * 5000}")
    assert len(read_warnings(tmp_path)) == MOST_WARNINGS and len((tmp_path / "warnings").read_text()) < 10_000


def test_status_http_and_record_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    job_status = status.of_workflow(finished.workflow())
    assert job_status["warnings"] == [finished.WARNING]
    assert routes.public_status(job_status)["warnings"] == [finished.WARNING]
    assert records.record(finished.workflow())["warnings"] == [finished.WARNING]
    cluster_commands.print_status(job_status)
    assert f"WARNING: {finished.WARNING}" in capsys.readouterr().out


def test_the_record_keeps_them() -> None:
    job_status = status.of_record(json.loads(json.dumps(finished.RECORD)))
    assert job_status["warnings"] == [finished.WARNING]
    assert status.of_record({**finished.RECORD, "warnings": {"x": 1}})["warnings"] == []
    old = {name: value for name, value in finished.RECORD.items() if name != "warnings"}
    assert status.of_record(old)["warnings"] == []


def test_the_terminal_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "models": {},
        "error": None,
        "seconds": 1.0,
        "result": None,
        "report": None,
        "warnings": ["Views contradict."],
    }
    local_commands.print_summary(summary)
    assert "WARNING: Views contradict." in capsys.readouterr().out


def test_the_report_shows_them_at_its_top_with_their_picture(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs" / "validate"
    outputs.mkdir(parents=True)
    Reporter(outputs, "validation").warn(f"{WARNING}Views <b>contradict</b>.")
    (outputs / report.CONTRADICTIONS).write_bytes(b"\x89PNG")
    page = report.page(evidence.gather(tmp_path, ["reconviagen"]))
    assert "Views &lt;b&gt;contradict&lt;/b&gt;." in page and "data:image/png;base64,iVBORw==" in page
    assert page.index("contradict") < page.index("Time and memory")
