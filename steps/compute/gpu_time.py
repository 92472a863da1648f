"""Seconds in which a GPU computed for this process, by pairs of CUDA events on its streams.

Around each launch of a kernel of ours, and around each iteration of an optimization, whose kernels are mostly torch's. Nothing
waits for a pair: it is added up when it has passed. A launch or an iteration that compiled a kernel is left out, since its pair
also spans the compiler's time. On a stream that was idle a pair also spans the launch itself, some microseconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

MOST_PENDING = 1024  # pairs, before the first of them are looked at


class GpuTimer:
    """Sums the seconds between events. new_event: makes an event with `record(*stream)`, `query()`, `synchronize()` and
    `elapsed_time(later)` in milliseconds, as numba-cuda's."""

    def __init__(self, new_event: Callable[[], Any]) -> None:
        self._new_event = new_event
        self._lock = threading.Lock()  # held during a launch: pairs of two threads on one stream would overlap
        self._pending: deque[tuple[Any, Any]] = deque()
        self._free: list[Any] = []  # events whose pair was added up
        self._seconds = 0.0
        self._spans = 0  # that are open: they count what is launched within
        self._has_compiled = False  # within the open span
        self._has_failed = False

    @contextlib.contextmanager
    def measured(self, kernel: Any, stream: tuple[Any, ...]) -> Iterator[None]:
        """Around a launch. kernel: numba-cuda's, by whose `overloads` a compilation is seen; stream: () for the default one."""
        with self._lock:
            start = None if self._spans else self._recorded(stream)
            overloads = len(kernel.overloads)
            yield
            if len(kernel.overloads) > overloads:
                self._has_compiled = True
            elif start is not None:
                self._append(start, stream)

    @contextlib.contextmanager
    def span(self, stream: tuple[Any, ...]) -> Iterator[None]:
        """Around what launches many kernels, in any threads."""
        with self._lock:
            start = self._recorded(stream)
            self._spans += 1
            self._has_compiled = False
        try:
            yield
            with self._lock:
                if start is not None and not self._has_compiled:
                    self._append(start, stream)
        finally:
            with self._lock:
                self._spans -= 1

    def add(self, seconds: float) -> None:
        """Adds what another process has measured."""
        with self._lock:
            self._seconds += seconds

    def busy_seconds(self, wait: bool = False) -> float:
        """The sum of all pairs that have passed. wait: for all of them."""
        with self._lock:
            self._fold(wait)
            return self._seconds

    def _recorded(self, stream: tuple[Any, ...]) -> Any:
        """A new event in a stream; None where the GPU has failed, which the launch itself then says."""
        if self._has_failed:
            return None
        try:
            event = self._free.pop() if self._free else self._new_event()
            event.record(*stream)
            return event
        except Exception:
            self._give_up()
            return None

    def _append(self, start: Any, stream: tuple[Any, ...]) -> None:
        end = self._recorded(stream)
        if end is not None:
            self._pending.append((start, end))
            if len(self._pending) > MOST_PENDING:
                self._fold(wait=False)

    def _fold(self, wait: bool) -> None:
        try:
            while self._pending:
                start, end = self._pending[0]
                if wait:
                    end.synchronize()
                elif not end.query():
                    break
                self._seconds += start.elapsed_time(end) / 1000
                self._free += self._pending.popleft()
        except Exception:  # after an error of a GPU every call fails: the step's own is the one to report
            self._give_up()

    def _give_up(self) -> None:
        self._has_failed = True
        self._pending.clear()


def _new_event() -> Any:
    from steps.compute.cuda import cuda  # it loads the CUDA driver

    return cuda.event(timing=True)


_timer = GpuTimer(_new_event)
add, busy_seconds = _timer.add, _timer.busy_seconds


def measured(kernel: Any, stream: tuple[Any, ...]) -> contextlib.AbstractContextManager[None]:
    """Around a launch on CUDA; see GpuTimer. Nothing in numba's simulator, whose events have no time."""
    from steps.compute.cuda import IS_SIMULATOR

    return contextlib.nullcontext() if IS_SIMULATOR else _timer.measured(kernel, stream)


def iteration(device: str) -> contextlib.AbstractContextManager[None]:
    """Around an iteration of an optimization on torch's current stream; nothing on a CPU."""
    if device == "cpu":
        return contextlib.nullcontext()
    from steps.compute.cuda import stream

    return _timer.span(stream())
