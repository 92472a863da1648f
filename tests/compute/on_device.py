"""The simulated device's arrays: as unkind as CuPy's, which take no part with numpy's, and know fewer functions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from typing import Any

import cupy  # without a GPU it has everything but arrays
import cupyx.scipy.ndimage
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
        if not hasattr(cupy, ufunc.__name__):
            raise TypeError(f"CuPy has no {ufunc.__name__}.")
        return _wrapped(getattr(ufunc, method)(*_unwrapped(inputs), **_unwrapped(options)))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        module = functools.reduce(getattr, function.__module__.split(".")[1:], cupy)
        _check(module, function, arguments, options)
        return _wrapped(function(*_unwrapped(arguments), **_unwrapped(options)))

    def get(self) -> Any:
        return np.array(self)


def _check(module: Any, function: Any, arguments: Any, options: Any) -> None:
    """Raises TypeError where CuPy's module has no such function, or not with these parameters."""
    if not hasattr(module, function.__name__):
        raise TypeError(f"CuPy has no {function.__name__}.")
    with contextlib.suppress(ValueError):  # of functions without a signature
        inspect.signature(getattr(module, function.__name__)).bind(*arguments, **options)


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

        def checked(*arguments: Any, **options: Any) -> Any:
            _check(cupyx.scipy.ndimage, function, arguments, options)
            return _wrapped(function(*_unwrapped(arguments), **_unwrapped(options)))

        return checked


def simulate() -> None:
    """From now on `cuda` in this process is the simulated device. Before modules are loaded that compute."""
    from steps.compute import launch

    launch.THREADS.update({1: (16,), 2: (8, 2)})  # each is one of Python's, also those beyond the edge
    device._to_cuda = lambda array: np.array(array).view(OnDevice)
    device.ndimage_of = lambda array: _ImageFilters()
