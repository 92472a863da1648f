"""Escaping of text from others on a terminal."""

from __future__ import annotations

import pytest

from pipeline.cli import console


def test_control_characters_in_a_record_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"code": "VALIDATION_FAILED", "message": "a\x1b[2Jb\nc", "suggestion": "\x9b1m", "details": {}}
    console.print_failure(record)
    output = capsys.readouterr().err
    assert "\x1b[2J" not in output and "\x9b" not in output
    assert "a\\x1b[2Jb\nc" in output
