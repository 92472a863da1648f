"""What kernels do otherwise on CUDA, where threads share a target: one function with an implementation per device.

`per_device` decorates the one for the CPU; `cuda.on_cuda` gives the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import extending as _extending

extending: Any = _extending  # numba.extending has no useful type hints
ON_CUDA: dict[Callable[..., Any], Callable[..., Any]] = {}  # by `cuda.on_cuda`


def per_device(cpu: Callable[..., Any]) -> Callable[..., Any]:
    """A function for kernels to call: `cpu` on a CPU, on CUDA what `cuda.on_cuda` gives for it."""

    def by_device(*arguments: Any) -> Any:
        return ON_CUDA[by_device](*arguments)  # numba compiles no call of this: only its simulator of CUDA gets here

    options = {"nogil": True, "error_model": "numpy"}
    extending.overload(by_device, target="cpu", jit_options=options, strict=False)(lambda *_types: cpu)
    by_device.__doc__ = cpu.__doc__
    return by_device


@per_device
def add(array, index, value):  # type: ignore[no-untyped-def]
    """array[index] += value, atomically on CUDA."""
    array[index] += value
