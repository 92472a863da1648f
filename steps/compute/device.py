"""Where a step computes: numpy's arrays on a CPU, CuPy's on a GPU. Functions of arrays compute where these lie, since numpy's
functions take CuPy's arrays as well; SciPy's image filters do not: `ndimage_of` gives the ones that do.

CuPy is a part of the extra `cuda`, and loaded only where a GPU is used; kernels and SciPy are not loaded here."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from steps.compute.arrays import Array
from steps.runtime.errors import GpuUnavailable

PACKAGES = "numba.cuda", "cupy", "cupyx.scipy.ndimage"
LEAST_FREE = 1 << 30  # bytes of a GPU's memory without which `auto` takes the CPU


def choose(requested: str, note: Callable[[str], None] = lambda sentence: None) -> str:
    """`cpu` or `cuda`. requested: also `auto`, a GPU where one can be used; note: takes a sentence where there is a driver and no
    use of it. Raises GpuUnavailable where cuda was requested and cannot be used."""
    if requested == "cpu":
        return "cpu"
    if requested == "auto" and not has_driver():
        return "cpu"
    problem = problem_with_cuda() or (little_memory() if requested == "auto" else "")
    if not problem:
        return "cuda"
    if requested == "cuda":
        raise GpuUnavailable(f"A GPU was asked for, and none can be used. {problem}")
    note(f"There is an NVIDIA driver, but the CPU computed. {problem}")
    return "cpu"


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def problem_with_cuda() -> str:
    """A sentence that says why no GPU can be used; empty where one can."""
    if not has_driver():
        return "NVIDIA's driver is not installed here."
    try:
        loaded = {name: importlib.import_module(name) for name in PACKAGES}
    except ImportError as error:
        return f"Packages are missing that computing on a GPU needs, the extra `cuda`: {error}."
    try:
        count = int(loaded["cupy"].cuda.runtime.getDeviceCount())
    except loaded["cupy"].cuda.runtime.CUDARuntimeError as error:
        return f"CUDA answers: {error}."
    if not count:
        return "CUDA finds no GPU."
    try:  # a compiler may not know the GPU, others may have it to themselves, and the like
        importlib.import_module("steps.compute.cuda").try_out()
    except Exception as error:
        return f"A first computation failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}."
    return ""


def little_memory() -> str:
    """A sentence where less of the GPU's memory is free than steps need; else empty."""
    free, _ = importlib.import_module("cupy").cuda.runtime.memGetInfo()
    return f"Only {free >> 20} MiB of the GPU's memory are free." if free < LEAST_FREE else ""


def to_device(array: Array, device: str) -> Any:
    """A numpy array on `cpu` or `cuda`."""
    return array if device == "cpu" else _to_cuda(array)


def _to_cuda(array: Array) -> Any:
    return importlib.import_module("cupy").asarray(array)


def beside(array: Array, other: Any) -> Any:
    """A numpy array on the device of the array `other`."""
    return array if is_on_host(other) else _to_cuda(array)


def is_on_host(array: Any) -> bool:
    """Whether an array lies in main memory."""
    return not hasattr(array, "__cuda_array_interface__")


def to_host(array: Any) -> Array:
    """An array of either device as numpy's."""
    return array if is_on_host(array) else array.get()


def ndimage_of(array: Any) -> Any:
    """`scipy.ndimage` for the arrays of this one's device."""
    return importlib.import_module("scipy.ndimage" if is_on_host(array) else "cupyx.scipy.ndimage")


@contextlib.contextmanager
def memory_shared_with_torch(device: str) -> Iterator[None]:
    """Around computing with CuPy beside torch: before it torch gives unused memory back to the GPU, after it CuPy does."""
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None:
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        if device == "cuda":
            importlib.import_module("cupy").get_default_memory_pool().free_all_blocks()


def peak_memory_mib(device: str) -> int:
    """The most GPU memory that CuPy has held, as it keeps what it frees; 0 on a CPU."""
    return int(importlib.import_module("cupy").get_default_memory_pool().total_bytes()) >> 20 if device == "cuda" else 0
