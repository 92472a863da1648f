"""The simulated device's arrays: as unkind as CuPy's, which take no part with numpy's."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from steps.compute import device


class OnDevice(np.ndarray):
    """An array that says that it lies on a GPU: one of numba's simulator. Numpy's functions give such arrays; those that mix it
    with numpy's raise TypeError."""

    __cuda_ndarray__ = True

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.__array_interface__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _wrapped(getattr(ufunc, method)(*_unwrapped(inputs), **_unwrapped(options)))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _wrapped(function(*_unwrapped(arguments), **_unwrapped(options)))

    def get(self) -> Any:
        return np.array(self)


def _unwrapped(value: Any) -> Any:
    """Raises TypeError for an array of numpy's with a dimension."""
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrapped, value))
    if isinstance(value, dict):
        return {key: _unwrapped(item) for key, item in value.items()}
    if type(value) is np.ndarray and value.ndim:
        raise TypeError("Implicit conversion of numpy's arrays to the device is not allowed.")
    return value.view(np.ndarray) if isinstance(value, OnDevice) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_wrapped, value))
    return value.view(OnDevice) if isinstance(value, np.ndarray) else value


class _ImageFilters:
    """Doubles of `cupyx.scipy.ndimage`: SciPy's functions, for these arrays."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(importlib.import_module("scipy.ndimage"), name)
        return lambda *arguments, **options: _wrapped(function(*_unwrapped(arguments), **_unwrapped(options)))


def simulate() -> None:
    """From now on `cuda` in this process is the simulated device. Before modules are loaded that compute."""
    from steps.compute import launch

    launch.THREADS.update({1: (16,), 2: (8, 2)})  # each is one of Python's, also those beyond the edge
    device._to_cuda = lambda array: np.array(array).view(OnDevice)
    device.ndimage_of = lambda array: _ImageFilters()
