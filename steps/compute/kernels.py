"""Compiles kernels with numba and runs them over bands of rows on all cores.

Kernels are compiled without the GIL, so plain threads over bands of rows use all cores. numba's own threading layers are
avoided on purpose: they abort on concurrent calls and do not survive a fork. Compiled code is cached beside the source, or
in NUMBA_CACHE_DIR; see `kernel_cache` for where neither is writable."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numba import config, njit
from numba.core import event

from steps.compute.arrays import Array
from steps.compute.cores import core_count
from steps.compute.kernel_cache import fallback

SUMMED_BANDS = 8
T = TypeVar("T")
R = TypeVar("R")

if folder := fallback(Path(__file__)):
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    config.reload_config()

# Kernels write into arrays that they are given and make none (`_nrt=False`): reference counts, which are kept atomically, cost
# several times what a pixel's arithmetic does.
_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
kernel = njit(**_OPTIONS)
inlined = njit(**_OPTIONS, forceinline=True)  # for what is called once per pixel


@inlined
def project_point(point, m):  # type: ignore[no-untyped-def]
    """`cameras.project` for one point (3,): depth, column, row. m: (3, 4)."""
    x, y, z = point[0], point[1], point[2]
    far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    across = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / far
    down = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / far
    return far, across, down


@inlined
def cell(x, size):  # type: ignore[no-untyped-def]
    """Indices of the two samples around x, of `size` samples with sample i at i, and the weight of the second. Clamped to the
    ends; nan gives the first."""
    clamped = (
        min(x, size - 1.001) if x > 0.0 else 0.0
    )  # false for nan, which no comparison after the conversion would find
    i = int(clamped)
    return i, min(i + 1, size - 1), clamped - i


@inlined
def blend(a, b, c, d, u, v):  # type: ignore[no-untyped-def]
    """Bilinear interpolation between the samples a, b and, below them, c, d. u: weight of the right ones; v: of the lower ones.
    `image_ops.sample_bilinear` does the same for whole arrays."""
    above = a * (1 - u) + b * u
    return above * (1 - v) + (c * (1 - u) + d * u) * v


@inlined
def within(x, y, width, height):  # type: ignore[no-untyped-def]
    """Whether pixel coordinates lie in a picture; false for nan. To be tested before the conversion to int, which could
    overflow."""
    return 0.0 <= x < width and 0.0 <= y < height


@inlined
def floor_int(x):  # type: ignore[no-untyped-def]
    """The floor of x, clamped far outside of any picture; 0 for nan."""
    return int(math.floor(min(max(x, -1e9), 1e9))) if x == x else 0


def check_indices(indices: Array, count: int, what: str = "face") -> None:
    """Raises ValueError unless all are below `count`: kernels read without bounds checks. Indices on a GPU are not looked at:
    that would wait for it."""
    if isinstance(indices, np.ndarray) and indices.size and not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(f"A {what} names vertex {indices.max()} or {indices.min()} of {count}.")


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]` on all cores, in order. The function may itself use all cores."""
    with ThreadPoolExecutor(core_count()) as pool:
        return list(pool.map(function, items))


@functools.cache
def _leaves() -> ThreadPoolExecutor:
    """A persistent thread pool: starting threads for every kernel would cost a renderer's inner loop more than its
    arithmetic. Its tasks must not wait for each other."""
    return ThreadPoolExecutor(core_count(), "kernel")


def for_bands(body: Callable[[int, int], None], rows: int, bands_per_core: int = 2) -> None:
    """Calls body(start, stop) for bands that together cover range(rows). Bands must not write to each other's rows, nor use
    `for_bands` themselves."""
    count = max(1, min(rows, core_count() * bands_per_core))
    edges = [rows * i // count for i in range(count + 1)]
    _on_all_cores(lambda i: body(edges[i], edges[i + 1]), count)


def _on_all_cores(task: Callable[[int], None], count: int) -> None:
    """Calls task(0) ... task(count - 1), interleaved over the cores. The calling thread works too: waking others costs as
    much as a small kernel."""
    cores = min(core_count(), count)

    def run_share(first: int) -> None:
        for i in range(first, count, cores):
            task(i)

    others = [_leaves().submit(run_share, first) for first in range(1, cores)]
    try:
        run_share(0)
    finally:
        for other in others:
            other.result()


def summed_bands(body: Callable[[Array, int, int], None], rows: int, shape: tuple[int, ...]) -> Array:
    """Sum (float64, of `shape`) of what body(sum, start, stop) adds up over bands of rows. A fixed number of bands, summed in
    order, gives the same result on any number of cores."""
    parts = np.zeros((SUMMED_BANDS, *shape))
    edges = [rows * i // SUMMED_BANDS for i in range(SUMMED_BANDS + 1)]
    _on_all_cores(lambda i: body(parts[i], edges[i], edges[i + 1]), SUMMED_BANDS)
    return np.asarray(parts.sum(axis=0))


_clocks: list[Any] = []


def time_compiler(events: Any, kind: str) -> None:
    """Counts what a compiler takes in `compile_seconds`. events: its module of events, numba's or numba-cuda's own; kind: of the
    event that spans a compilation."""
    _clocks.append(events.TimingListener())
    events.register(kind, _clocks[-1])


time_compiler(event, "numba:compile")


def compile_seconds() -> float:
    """Seconds this process has spent compiling kernels; code from the cache costs none."""
    return float(sum(clock.duration for clock in _clocks if clock.done))
