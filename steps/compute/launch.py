"""Runs a kernel over a range of one or two dimensions: bands on the threads of a CPU, or a grid of CUDA threads, from one source.

A kernel loops over the spans that it is given, (start, stop, step) for each dimension, and then takes its arrays:

    @kernel
    def _halve(rows, columns, image, out):
        for row in range(rows[0], rows[1], rows[2]):
            for column in range(columns[0], columns[1], columns[2]):
                out[row, column] = image[row, column] / 2

    launch(_halve, image.shape, image, out)

On a CPU a thread gets a band of the first dimension; on CUDA a thread gets one element. Arrays are numpy's on the CPU; on CUDA
they are whatever has `__cuda_array_interface__`, such as torch's tensors, read and written without a copy, on torch's stream.
What a kernel must do otherwise on a GPU, where threads share a target, is written with `per_device.per_device`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from steps.compute.kernels import for_bands, summed_bands

THREADS = {1: (128,), 2: (32, 4)}  # of a block, columns first


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
    """Whether the first array among them, or in a tuple, lies on a GPU."""
    flat = (a for argument in arguments for a in (argument if isinstance(argument, tuple) else (argument,)))
    return hasattr(next((a for a in flat if hasattr(a, "shape")), None), "__cuda_array_interface__")


def _launch_on_cuda(kernel: Any, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    from steps.compute import cuda, gpu_time  # they load the CUDA driver

    threads = THREADS[len(shape)]
    blocks = tuple(-(-n // t) for n, t in zip(shape[::-1], threads, strict=True))
    grid, stream, arrays = cuda.grid_of(kernel, len(shape)), cuda.stream(), tuple(map(cuda.device_array, arguments))
    with gpu_time.measured(grid, stream):
        grid[(blocks, threads, *stream)](*shape, arrays)


# -- arrays of a device --------------------------------------------------------------------------------------------------


def full(shape: tuple[int, ...], value: float, dtype: Any, like: Any) -> Any:
    """An array of one value, on the device of the array `like`."""
    if isinstance(like, np.ndarray):
        array = np.empty_like(like, dtype, order="C", shape=shape)
        array.fill(value)
        return array
    import torch

    return torch.full(shape, value, dtype=getattr(torch, np.dtype(dtype).name), device=like.device)


def zeros(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """An array of zeros on the device of the array `like`."""
    return full(shape, 0, dtype, like)


def contiguous(array: Any, dtype: Any) -> Any:
    """The array, or a copy of it where its values are of another type or not in the order of rows."""
    if isinstance(array, np.ndarray):
        return np.asanyarray(array, dtype, order="C")
    import torch

    return array.to(getattr(torch, np.dtype(dtype).name)).contiguous()


def true_indices(mask: Any) -> Any:
    """Indices (k,) at which a mask (n,) is true."""
    return mask.nonzero()[0] if isinstance(mask, np.ndarray) else mask.nonzero()[:, 0]


def copied(array: Any) -> Any:
    """A contiguous copy on the same device."""
    return array.copy() if isinstance(array, np.ndarray) else array.contiguous().clone()
