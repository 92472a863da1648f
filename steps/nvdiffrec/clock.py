"""Progress of the iterations and the remaining time."""

from __future__ import annotations

import time
from collections import deque

from steps.runtime.reporter import Reporter

WINDOW = 8  # iterations whose pace counts


class Clock:
    """Reports progress per iteration, with the time left at the pace of the last few."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self.reporter, self.total, self.done = reporter, total, 0
        self._ticks: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    def tick(self, units: int = 1) -> None:
        """`units` more of the total are done."""
        self.done = min(self.done + units, self.total)
        self._ticks.append((time.monotonic(), self.done))
        self.reporter.progress(self.done, self.total)
        (then, before), (now, after) = self._ticks[0], self._ticks[-1]
        if after > before:
            self.reporter.value("seconds-left", f"{(now - then) / (after - before) * (self.total - self.done):.0f}")
