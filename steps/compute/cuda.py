"""What `launch` needs of numba-cuda: kernels over a grid, arrays of a device, the stream. Only loaded where a GPU is used."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from steps.compute.arrays import Array
from steps.compute.kernels import time_compiler
from steps.compute.per_device import ON_CUDA, add

cuda: Any = importlib.import_module("numba.cuda")  # it has no type hints
IS_SIMULATOR = bool(vars(numba.config)["ENABLE_CUDASIM"])  # in which Python runs kernels, and arrays lie in memory
if not IS_SIMULATOR:
    config: Any = importlib.import_module("numba.cuda.core.config")
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small picture is a small grid
    # its compiler tells of no compilation, but of its lock
    time_compiler(importlib.import_module("numba.cuda.core.event"), "numba-cuda:compiler_lock")


@functools.cache
def grid_of(kernel: Callable[..., None], dimensions: int) -> Any:
    """A CUDA kernel whose threads each run `kernel` for one element. It takes the shape and a tuple of the arguments."""
    return _line(kernel) if dimensions == 1 else _plane(kernel)


def _line(kernel: Any) -> Any:
    @cuda.jit
    def one_element(count, arguments):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        if i < count:
            kernel((i, count, count), *arguments)

    return one_element


def _plane(kernel: Any) -> Any:
    @cuda.jit
    def one_pixel(height, width, arguments):  # type: ignore[no-untyped-def]
        column, row = cuda.grid(2)
        if row < height and column < width:
            kernel((row, height, height), (column, width, width), *arguments)

    return one_pixel


def try_out() -> None:
    """Computes a little by each library that steps compute with, as a GPU can be there and not work. Raises what they raise."""
    cupy = importlib.import_module("cupy")
    numbers = cupy.arange(4.0).reshape(2, 2)
    product = numbers @ numbers + 1  # by cuBLAS, and by a kernel that CuPy compiles
    _add_one[1, 4](cuda.as_cuda_array(product.reshape(4), sync=False))
    if product.tolist() != [[4.0, 5.0], [8.0, 13.0]]:
        raise ValueError(f"the GPU gives {product.tolist()} for [[4, 5], [8, 13]]")


@cuda.jit
def _add_one(array):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < len(array):
        array[i] += 1.0


def device_array(argument: Any) -> Any:
    """An argument as numba-cuda takes it: what lies on the device without a copy; numpy's arrays copied there, to be read only;
    numbers as they are."""
    if isinstance(argument, tuple):
        return tuple(map(device_array, argument))
    if hasattr(argument, "__cuda_array_interface__"):  # CuPy says its stream, which is this one: nothing to wait for
        return argument if IS_SIMULATOR else cuda.as_cuda_array(argument, sync=False)
    if isinstance(argument, np.ndarray):
        return _read_only(argument) if IS_SIMULATOR else cuda.to_device(np.ascontiguousarray(argument))
    return argument


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def stream() -> tuple[Any, ...]:
    """Torch's current stream, as a part of a launch's configuration; none where torch is not used: the default one, on which CuPy
    computes."""
    torch = sys.modules.get("torch")
    if IS_SIMULATOR or torch is None or not torch.cuda.is_initialized():
        return ()
    return (cuda.external_stream(torch.cuda.current_stream().cuda_stream),)


def on_cuda(by_device: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates what a function by `per_device.per_device` is on CUDA."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        ON_CUDA[by_device] = function
        if not IS_SIMULATOR:
            extending: Any = importlib.import_module("numba.cuda.extending")
            extending.overload(by_device, target="cuda", strict=False)(lambda *_types: function)
        return function

    return decorate


@on_cuda(add)
def _atomic_add(array, index, value):  # type: ignore[no-untyped-def]
    cuda.atomic.add(array, index, value)


@cuda.jit(device=True)
def atomic_min(array, index, value):  # type: ignore[no-untyped-def]
    """array[index] = min(array[index], value), atomically."""
    cuda.atomic.min(array, index, value)
