"""How earlier attempts at a model ended. They are kept in a file that outlives the step, so that the next one stands on the rung
of its memory ladder below all that ran out of memory, whatever else restarted it in between. Standard library only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps.runtime.errors import ModelVramOom
from steps.runtime.files import read_json, write_json

OOM, COMPLETED, STOPPED = ModelVramOom.code, "completed", "stopped"  # the last: whatever ends a process without a word
OUTCOMES = (OOM, COMPLETED, STOPPED)


class Attempts:
    """path: of the file, None where there is none to keep. A rung is a dataclass; its fields are in the record. note: a sentence
    where the file was damaged, so that earlier attempts are not known."""

    def __init__(self, path: Path | None) -> None:
        self.path = path if path and not path.is_dir() else None
        self.earlier, self.note = read(path) if path else ([], "")

    def failed(self) -> list[dict[str, Any]]:
        """Those that ran out of memory, the oldest first."""
        return [attempt for attempt in self.earlier if attempt.get("outcome") == OOM]

    def first(self, ladder: Sequence[Any]) -> int:
        """The index of the first rung below all that failed. Raises ModelVramOom where there is none."""
        stood = [i for i, rung in enumerate(ladder) if any(asdict(rung).items() <= a.items() for a in self.failed())]
        index = max(stood, default=-1) + 1
        if index >= len(ladder):
            raise ModelVramOom("Every rung of the memory ladder was tried, and the last ran out of memory too.")
        return index

    @contextlib.contextmanager
    def recorded(self, rung: Any, out_of_memory: type[Exception], peak_mib: Callable[[], int]) -> Iterator[None]:
        """Writes down on which rung this attempt stands, and how it ended: with `out_of_memory` or otherwise."""
        self._write(rung, STOPPED, 0)
        outcome = STOPPED
        try:
            yield
            outcome = COMPLETED
        except out_of_memory:
            outcome = OOM
            raise
        finally:
            self._write(rung, outcome, peak_mib())

    def _write(self, rung: Any, outcome: str, peak_mib: int) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, [*self.earlier, {**asdict(rung), "outcome": outcome, "peak_vram_mib": peak_mib}])


def read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The attempts in a file, and a sentence where it has something else, which is left out."""
    if not path.exists():
        return [], ""
    found = read_json(path)
    kept = [a for a in found if isinstance(a, dict) and a.get("outcome") in OUTCOMES] if isinstance(found, list) else []
    if isinstance(found, list) and len(kept) == len(found):
        return kept, ""
    return (
        kept,
        f"The record of earlier attempts, {path.name}, was damaged: what it did not tell was not taken into account.",
    )
