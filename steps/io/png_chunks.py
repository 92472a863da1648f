"""Decoders of PNG chunks that Pillow lacks: IDAT with 16 bits per channel, of which Pillow keeps the upper eight for colours and
for grey with alpha; orientation (eXIf); transfer function (gAMA).
Specification: W3C PNG, third edition, 8 (interlacing), 9 (filtering), 11.3.2.2 and 11.3.4.4; Exif 2.32, tag 0x0112."""

from __future__ import annotations

import struct

import numpy as np

from steps.compute.arrays import Array

Chunks = list[tuple[bytes, bytes]]
ORIENTATION = 0x0112
DISPLAY = 0.45455  # gAMA of pictures that are meant for a display, as sRGB is
LIKE_DISPLAY = 0.05  # further off than that the samples have another curve
PLAIN = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def orientation_of(chunks: Chunks) -> int:
    """Exif orientation, 1 to 8; 1 (as stored) where it is missing or unreadable."""
    data = next((content for kind, content in chunks if kind == b"eXIf"), b"")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for i in range(min(count, 200)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", data, start + 2 + 12 * i)
            if tag == ORIENTATION and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1


def gamma_of(chunks: Chunks) -> float | None:
    """The exponent in gAMA; None without the chunk, and where sRGB or iCCP has precedence."""
    kinds = dict(chunks)
    if b"sRGB" in kinds or b"iCCP" in kinds or b"cICP" in kinds or len(kinds.get(b"gAMA", b"")) != 4:
        return None
    value = struct.unpack(">I", kinds[b"gAMA"])[0] / 100000
    return value if 0.01 <= value <= 10 else None


def upright(pixels: Array, orientation: int) -> Array:
    """Pixels [H, W, C] rotated and mirrored by an Exif orientation, [H, W, C] or [W, H, C]."""
    transposed = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    mirrored_rows, mirrored_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    transposed = transposed[::-1] if mirrored_rows else transposed
    return np.ascontiguousarray(transposed[:, ::-1] if mirrored_columns else transposed)


def for_display(samples: Array, maximum: int, gamma: float) -> Array:
    """Samples [...] uint8 or uint16 of linear light ** gamma, converted to sRGB of the same type."""
    light = (np.arange(maximum + 1) / maximum) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(curve * maximum).astype(samples.dtype)[samples]


def pixels(data: bytes, width: int, height: int, channels: int, interlaced: bool) -> Array:
    """[H, W, C] uint16 of the unpacked IDAT data. Raises ValueError where it does not fill the picture exactly."""
    samples = np.zeros((height, width, channels), np.uint16)
    at = 0
    for x, y, dx, dy in ADAM7 if interlaced else PLAIN:
        part = samples[y::dy, x::dx]
        rows, length = part.shape[0], 1 + 2 * channels * part.shape[1]
        if not part.size:
            continue
        filtered = np.frombuffer(data, np.uint8, rows * length, at).reshape(rows, length)
        at += rows * length
        part[:] = unfilter(filtered, 2 * channels).view(">u2").reshape(part.shape)
    if at != len(data):
        raise ValueError("more data than the picture needs")
    return samples


def unfilter(rows: Array, width: int) -> Array:
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
