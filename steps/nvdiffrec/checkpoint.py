"""What a step needs to go on where it was stopped: written every so often, read when the same step starts again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """One file. key: what the work depends on: another key's file is not used; seconds: between two writes."""

    def __init__(self, path: Path | None, key: str, seconds: float) -> None:
        self.path, self.key, self.seconds = path, key, seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any]:
        """What was saved, {} where there is nothing of this work."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=False)
        except (OSError, RuntimeError, EOFError, ValueError):  # cut off while it was copied somewhere
            return {}
        return saved if saved.get("key") == self.key else {}

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._last >= self.seconds

    def save(self, **state: Any) -> None:
        """Writes `state`, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        growing = self.path.with_name(f".{self.path.name}.partial")
        torch.save({"key": self.key, **state}, growing)
        os.replace(growing, self.path)
        self._last = time.monotonic()

    def clear(self) -> None:
        """The work is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
