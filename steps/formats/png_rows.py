"""PNG picture data of 16 bits per channel, unpacked whole: Pillow keeps only the upper eight bits of colours and of grey with
alpha. Specification: W3C PNG, third edition, sections 8 (interlacing) and 9 (filtering)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PLAIN = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def pixels(data: bytes, width: int, height: int, channels: int, interlaced: bool) -> Array:
    """[H, W, C] uint16 of the unpacked IDAT data. Raises ValueError where it does not fill the picture exactly."""
    found = np.zeros((height, width, channels), np.uint16)
    at = 0
    for x, y, dx, dy in ADAM7 if interlaced else PLAIN:
        part = found[y::dy, x::dx]
        rows, length = part.shape[0], 1 + 2 * channels * part.shape[1]
        if not part.size:
            continue
        filtered = np.frombuffer(data, np.uint8, rows * length, at).reshape(rows, length)
        at += rows * length
        part[:] = unfiltered(filtered, 2 * channels).view(">u2").reshape(part.shape)
    if at != len(data):
        raise ValueError("more data than the picture needs")
    return found


def unfiltered(rows: Array, width: int) -> Array:
    """[H, n] uint8 of filtered scanlines [H, 1 + n] uint8, whose first byte names the filter; width: bytes of a pixel.

    A byte depends on those left of it, above it, and above left: all pixels of one anti-diagonal are found at a time."""
    if rows[:, 0].max() > 4:
        raise ValueError("a filter that does not exist")
    height, count = rows.shape[0], (rows.shape[1] - 1) // width
    kinds = rows[:, :1]
    given = rows[:, 1:].reshape(height, count, width)
    if not (kinds >= 2).any():  # each row by itself
        summed = np.cumsum(given, axis=1, dtype=np.uint8)
        return np.where(kinds == 1, summed.reshape(height, -1), rows[:, 1:])
    out = np.zeros((height + 1, count + 1, width), np.uint8)  # with a row above and a column to the left, both zero
    for step in range(height + count - 1):
        r = np.arange(max(0, step - count + 1), min(height, step + 1))
        c = step - r
        left, up, corner = (out[r + i, c + j].astype(np.int16) for i, j in ((1, 0), (0, 1), (0, 0)))
        kind = kinds[r]
        guess = np.where(kind == 1, left, np.where(kind == 2, up, np.where(kind == 3, (left + up) // 2, 0)))
        if (kind == 4).any():
            guess = np.where(kind == 4, _paeth(left, up, corner), guess)
        out[r + 1, c + 1] = (given[r, c] + guess).astype(np.uint8)
    return np.ascontiguousarray(out[1:, 1:]).reshape(height, -1)


def _paeth(left: Array, up: Array, corner: Array) -> Array:
    """Which of the three neighbours is closest to left + up - corner, in this order where two are as close."""
    a, b, c = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    return np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
