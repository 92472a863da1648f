"""The type of every array: any element type, since most functions take float32 and float64 alike. Loads no kernels."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
