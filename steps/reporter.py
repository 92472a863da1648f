"""What a running step tells the world: its stage, its progress, its values. Standard library only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from steps import memory
from steps.contracts import OUTPUTS
from steps.errors import STAGES
from steps.files import write_atomically, write_json


class Reporter:
    """Writes a step's small output files, each one atomically, so that even a SIGKILL leaves the last stage readable."""

    def __init__(self, outputs: Path, first_stage: str) -> None:
        self.outputs = outputs
        self.stages: list[dict[str, Any]] = []
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
        """Writes down how long the open stage took and the most memory it had."""
        now = time.monotonic()
        peak = memory.take_peak_mib()
        if self.stages:
            self.stages[-1].update(seconds=round(now - self._started, 3), peak_ram_mib=peak)
            write_json(self.outputs / "stages.json", self.stages)
        self._started = now

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` parts of this step are finished. Also for Argo, where ARGO_PROGRESS_FILE names a file."""
        for path in (str(self.outputs / "progress"), os.environ.get("ARGO_PROGRESS_FILE")):
            if path:
                write_atomically(Path(path), f"{done}/{total}\n")

    def value(self, name: str, value: object) -> None:
        """Sets an output of the contract."""
        if name not in OUTPUTS:
            raise ValueError(f"{name!r} is not an output of the contract: {', '.join(OUTPUTS)}")
        write_atomically(self.outputs / name, str(value))
