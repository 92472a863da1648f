"""A running step's progress, stages, notes and output values, as files. Standard library only."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from steps.runtime import memory
from steps.runtime.contract import OUTPUTS
from steps.runtime.errors import STAGES
from steps.runtime.files import read_json, read_text, write_atomically, write_json

NOTES = "notes.json"  # a list of sentences for the report
MOST_WARNINGS, MOST_CHARACTERS = 10, 600  # of a step, and of each: they go into records and annotations
WARNING = "WARNING: "  # begins a note that a person has to see before the result is trusted


class Reporter:
    """Writes a step's small output files, each one atomically, so that even a SIGKILL leaves the last stage readable."""

    def __init__(self, outputs: Path, first_stage: str) -> None:
        self.outputs = outputs
        self.stages: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._started = time.monotonic()
        self.stage(first_stage)

    def stage(self, name: str) -> None:
        """Enters a stage of the contract and closes the one before."""
        if name not in STAGES:
            raise ValueError(f"{name!r} is not a stage of the contract: {', '.join(STAGES)}")
        self.close()
        self.stages.append({"stage": name, "seconds": 0.0, "peak_ram_mib": 0})
        write_json(self.outputs / "stages.json", self.stages)
        self.value("stage", name)

    def close(self) -> None:
        """Records duration and peak memory of the open stage."""
        now = time.monotonic()
        peak = memory.read_and_reset_peak_mib()
        if self.stages:
            self.stages[-1].update(seconds=round(now - self._started, 3), peak_ram_mib=peak)
            write_json(self.outputs / "stages.json", self.stages)
        self._started = now
        self._tell_gpu_time()

    def _tell_gpu_time(self) -> None:
        """The seconds in which a GPU has computed, where this process has made one compute: only then the module is loaded."""
        gpu_time = sys.modules.get("steps.compute.gpu_time")
        if gpu_time is not None and (seconds := gpu_time.busy_seconds()):
            self.value("gpu-busy-seconds", f"{seconds:.3f}")

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` parts of this step are finished. Also for Argo, where ARGO_PROGRESS_FILE names a file."""
        for path in (str(self.outputs / "progress"), os.environ.get("ARGO_PROGRESS_FILE")):
            if path:
                write_atomically(Path(path), f"{done}/{total}\n")
        self._tell_gpu_time()

    def value(self, name: str, value: object) -> None:
        """Sets an output of the contract."""
        if name not in OUTPUTS:
            raise ValueError(f"{name!r} is not an output of the contract: {', '.join(OUTPUTS)}")
        write_atomically(self.outputs / name, str(value))

    def note(self, sentence: str) -> None:
        """A sentence for the report and the log about something unexpected but harmless."""
        self.warn(sentence)
        self.notes.append(sentence)
        write_json(self.outputs / NOTES, self.notes)
        print(sentence, file=sys.stderr)

    def warn(self, note: str) -> None:
        """Adds a note to the output `warnings`, one a line, if it begins with WARNING."""
        if note.startswith(WARNING) and note not in self.warnings:
            self.warnings.append(note)
            self.value("warnings", warnings_text(self.warnings))


def warnings_text(warnings: list[str]) -> str:
    """Warnings as an output of a step: a line for each, without the word."""
    return "\n".join(" ".join(w.removeprefix(WARNING).split())[:MOST_CHARACTERS] for w in warnings[:MOST_WARNINGS])


def read_stages(outputs: Path) -> list[dict[str, Any]]:
    """The valid entries of stages.json: {"stage": str, "seconds": float, "peak_ram_mib": int}."""
    return [stage for stage in read_json(outputs / "stages.json", []) if _is_stage(stage)]


def _is_stage(value: object) -> bool:
    if not isinstance(value, dict) or value.get("stage") not in STAGES:
        return False
    seconds, peak = value.get("seconds"), value.get("peak_ram_mib")
    return isinstance(seconds, int | float) and 0 <= seconds < math.inf and isinstance(peak, int)


def read_notes(outputs: Path) -> list[str]:
    """The sentences that a step has noted."""
    return [note for note in read_json(outputs / NOTES, []) if isinstance(note, str)]


def read_warnings(outputs: Path) -> list[str]:
    """The warnings of a step, without the word."""
    return [line for line in read_text(outputs / "warnings").splitlines() if line]
