"""The process of one step: whether it has ended, and how."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from steps.runtime.errors import Record, UnknownError, as_record
from steps.runtime.files import read_json, read_text

POLL_SECONDS = 0.1


def has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended, after waiting up to POLL_SECONDS for it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(POLL_SECONDS)
    return child.returncode is not None


def failure_of(outputs: Path, code: int, stderr: Path) -> Record | None:
    """The failure record of a step that ended with exit code `code`, None on success. outputs: the step's outputs folder."""
    if code == 0:
        return None
    last_line = (read_text(stderr).splitlines() or [""])[-1]
    return (
        as_record(read_json(outputs / "failure.json"))
        or UnknownError(
            f"The step ended with exit code {code} before it could say why. {last_line}".strip(), log=str(stderr)
        ).record()
    )
