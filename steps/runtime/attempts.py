"""Outcomes of earlier attempts at a model, in a file that outlives the step: the next attempt starts at the memory level below
all that ran out of memory, even if something else restarted it in between. Standard library only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps.runtime.errors import ModelVramOom, is_vram_oom
from steps.runtime.files import read_json, write_json

OOM, COMPLETED, STOPPED = ModelVramOom.code, "completed", "stopped"  # the last: whatever ends a process without a word
OUTCOMES = (OOM, COMPLETED, STOPPED)


class Attempts:
    """path: of the file, None to keep none. A level is a dataclass; its fields are in the record. note: a sentence where the
    file was damaged, so that earlier attempts are unknown."""

    def __init__(self, path: Path | None) -> None:
        self.path = path if path and not path.is_dir() else None
        self.earlier, self.note = read(path) if path else ([], "")

    def failed(self) -> list[dict[str, Any]]:
        """Attempts that ran out of memory, oldest first."""
        return [attempt for attempt in self.earlier if attempt.get("outcome") == OOM]

    def first(self, levels: Sequence[Any]) -> int:
        """Index of the highest memory level below all that ran out of memory. Raises ModelVramOom where there is none."""
        failed_levels = [
            i for i, level in enumerate(levels) if any(asdict(level).items() <= a.items() for a in self.failed())
        ]
        index = max(failed_levels, default=-1) + 1
        if index >= len(levels):
            raise ModelVramOom("Every memory level was tried, and the lowest ran out of memory too.")
        return index

    @contextlib.contextmanager
    def recorded(self, level: Any, peak_mib: Callable[[], int]) -> Iterator[None]:
        """Records this attempt's level, peak and outcome: whether it ran out of a GPU's memory."""
        self._write(level, STOPPED, 0)
        outcome = STOPPED
        try:
            yield
            outcome = COMPLETED
        except Exception as error:
            outcome = OOM if is_vram_oom(error) else STOPPED
            raise
        finally:
            self._write(level, outcome, peak_mib())

    def _write(self, level: Any, outcome: str, peak_mib: int) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, [*self.earlier, {**asdict(level), "outcome": outcome, "peak_vram_mib": peak_mib}])


def read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The valid attempts in a file, and a sentence where it has anything else."""
    if not path.exists():
        return [], ""
    content = read_json(path)
    valid = (
        [a for a in content if isinstance(a, dict) and a.get("outcome") in OUTCOMES]
        if isinstance(content, list)
        else []
    )
    if isinstance(content, list) and len(valid) == len(content):
        return valid, ""
    return (
        valid,
        f"The record of earlier attempts, {path.name}, was damaged: what it did not tell was not taken into account.",
    )
