"""How compiled kernels are made and run.

Kernels are compiled without the GIL, so plain threads over bands of rows use all cores. numba's own threading layers are
avoided on purpose: they abort on concurrent calls and do not survive a fork. Compiled code is cached beside the source, or
in NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from numba import njit
from numba.core import event

T = TypeVar("T")
R = TypeVar("R")

kernel = njit(cache=True, nogil=True, error_model="numpy")


def core_count() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]` on all cores, in order."""
    with ThreadPoolExecutor(core_count()) as pool:
        return list(pool.map(function, items))


def for_bands(body: Callable[[int, int], None], rows: int, bands_per_core: int = 4) -> None:
    """Calls body(start, stop) for bands that together cover range(rows). Bands must not write to each other's rows."""
    count = max(1, min(rows, core_count() * bands_per_core))
    edges = [rows * i // count for i in range(count + 1)]
    parallel_map(lambda i: body(edges[i], edges[i + 1]), range(count))


_clock = event.TimingListener()
event.register("numba:compile", _clock)


def compile_seconds() -> float:
    """Seconds this process has spent compiling kernels; code from the cache costs none."""
    return float(_clock.duration) if _clock.done else 0.0
