"""Runs a kernel over a range of one or two dimensions: bands on the threads of a CPU, or a grid of CUDA threads, from one source.

A kernel loops over the spans that it is given, (start, stop, step) for each dimension, and then takes its arrays:

    @kernel
    def _halve(rows, columns, image, out):
        for row in range(rows[0], rows[1], rows[2]):
            for column in range(columns[0], columns[1], columns[2]):
                out[row, column] = image[row, column] / 2

    launch(_halve, image.shape, image, out)

On a CPU a thread gets a band of the first dimension; on CUDA a thread gets one element. Arrays are numpy's on the CPU; on CUDA
they are whatever has `__cuda_array_interface__`, CuPy's arrays and torch's tensors, read and written without a copy. Numpy's
among them are copied there, to be read only. What a kernel must do otherwise on a GPU, where threads share a target, is written
with `per_device.per_device`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from steps.compute.cores import core_count
from steps.compute.kernels import for_bands, parallel_map, summed_bands

T = TypeVar("T")
R = TypeVar("R")

THREADS = {1: (128,), 2: (32, 4)}  # of a block, columns first
MOST_BLOCKS = 65535  # of rows in a launch, CUDA's limit
MOST_ROWS = MOST_BLOCKS * THREADS[2][1]


def launch(kernel: Callable[..., None], shape: tuple[int, ...], *arguments: Any) -> None:
    """Runs a kernel over all indices below `shape`, (n,) or (rows, columns). arguments: arrays of one device, numbers, and tuples
    of arrays."""
    if min(shape) <= 0:
        return
    if is_cuda(*arguments):
        _launch_on_cuda(kernel, shape, arguments)
        return
    whole = tuple((0, n, 1) for n in shape[1:])
    for_bands(lambda start, stop: kernel((start, stop, 1), *whole, *arguments), shape[0])


def launch_by_one(kernel: Callable[..., None], shape: tuple[int, ...], *arguments: Any) -> None:
    """`launch`, but on a CPU by the calling thread alone: for short kernels of callers that already run on all cores."""
    if is_cuda(*arguments):
        launch(kernel, shape, *arguments)
    else:
        kernel(*((0, n, 1) for n in shape), *arguments)


def launch_sums(kernel: Callable[..., None], shape: tuple[int, ...], sums: tuple[int, ...], *arguments: Any) -> Any:
    """What a kernel adds up with `add` in its last argument, float64 of the shape `sums`. On a CPU the same on any number of
    cores; on CUDA in no fixed order."""
    if is_cuda(*arguments):
        out = zeros(sums, np.float64, arguments[0])
        launch(kernel, shape, *arguments, out)
        return out
    whole = tuple((0, n, 1) for n in shape[1:])
    return summed_bands(lambda out, start, stop: kernel((start, stop, 1), *whole, *arguments, out), shape[0], sums)


def is_cuda(*arguments: Any) -> bool:
    """Whether an array among them, or in a tuple of them, lies on a GPU."""
    return any(is_cuda(*a) if isinstance(a, tuple) else hasattr(a, "__cuda_array_interface__") for a in arguments)


def _launch_on_cuda(kernel: Any, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    from steps.compute import cuda, gpu_time  # they load the CUDA driver

    threads = THREADS[len(shape)]
    blocks = tuple(-(-n // t) for n, t in zip(shape[::-1], threads, strict=True))
    if len(blocks) == 2 and blocks[1] > MOST_BLOCKS:  # which numba's simulator would not say
        raise ValueError(f"CUDA runs {MOST_ROWS} rows of a kernel at a time, not {shape[0]}.")
    grid, stream, arrays = cuda.grid_of(kernel, len(shape)), cuda.stream(), tuple(map(cuda.device_array, arguments))
    with gpu_time.measured(grid, stream):
        grid[(blocks, threads, *stream)](*shape, arrays)


def map_on(device: str, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]`: on all cores of a CPU; one after the other on a GPU, whose memory one may need."""
    return parallel_map(function, items) if device == "cpu" else [function(item) for item in items]


def iterate_on(device: str, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """As `map_on`, each result as soon as it and those before it are there: not all of them are held at a time."""
    if device == "cpu":
        with ThreadPoolExecutor(core_count()) as pool:
            yield from pool.map(function, items)
    else:
        yield from map(function, items)


# -- arrays of a device: numpy's, CuPy's or torch's ------------------------------------------------------------------------


def full(shape: tuple[int, ...], value: float, dtype: Any, like: Any) -> Any:
    """An array of one value, on the device of the array `like`, of its library."""
    if is_tensor(like):
        import torch

        return torch.full(shape, value, dtype=getattr(torch, np.dtype(dtype).name), device=like.device)
    array = np.empty_like(like, dtype, order="C", shape=shape)
    array.fill(value)
    return array


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """An array of zeros on the device of the array `like`."""
    return full(shape, 0, dtype, like)


def contiguous(array: Any, dtype: Any) -> Any:
    """The array, or a copy of it where its values are of another type or not in the order of rows."""
    if is_tensor(array):
        import torch

        return array.to(getattr(torch, np.dtype(dtype).name)).contiguous()
    return array.astype(dtype, order="C", copy=False)


def true_indices(mask: Any) -> Any:
    """Indices (k,) at which a mask (n,) is true."""
    return mask.nonzero()[:, 0] if is_tensor(mask) else mask.nonzero()[0]


def copied(array: Any) -> Any:
    """A contiguous copy on the same device."""
    return array.contiguous().clone() if is_tensor(array) else array.copy()


def is_tensor(array: Any) -> bool:
    """Whether it is torch's. Torch is not loaded to know that."""
    return type(array).__module__.partition(".")[0] == "torch"
