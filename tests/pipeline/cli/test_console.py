"""What is printed of others' words."""

from __future__ import annotations

import pytest

from pipeline.cli import console


def test_a_record_gives_the_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    words = {"code": "VALIDATION_FAILED", "message": "a\x1b[2Jb\nc", "suggestion": "\x9b1m", "details": {}}
    console.print_failure(words)
    told = capsys.readouterr().err
    assert "\x1b[2J" not in told and "\x9b" not in told
    assert "a\\x1b[2Jb\nc" in told
