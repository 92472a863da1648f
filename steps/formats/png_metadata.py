"""What a PNG's own chunks say of its pixels: how the picture is to be turned (eXIf), and what light its samples stand for (gAMA).
Specification: W3C PNG, third edition, 11.3.2.2 and 11.3.4.4; Exif 2.32, tag 0x0112."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Chunks = list[tuple[bytes, bytes]]
ORIENTATION = 0x0112
DISPLAY = 0.45455  # gAMA of pictures that are meant for a display, as sRGB is
LIKE_DISPLAY = 0.05  # further off than that the samples have another curve


def orientation_of(chunks: Chunks) -> int:
    """1 to 8 as Exif counts them; 1, as stored, where the file says nothing, or nothing that can be read."""
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
    """The exponent that gAMA names, None where the file names none, or says by sRGB or a profile what its colours are."""
    kinds = dict(chunks)
    if b"sRGB" in kinds or b"iCCP" in kinds or b"cICP" in kinds or len(kinds.get(b"gAMA", b"")) != 4:
        return None
    value = struct.unpack(">I", kinds[b"gAMA"])[0] / 100000
    return value if 0.01 <= value <= 10 else None


def upright(pixels: Array, orientation: int) -> Array:
    """[H, W, C] or [W, H, C] as it is to be looked at."""
    turned = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    mirrored_rows, mirrored_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    turned = turned[::-1] if mirrored_rows else turned
    return np.ascontiguousarray(turned[:, ::-1] if mirrored_columns else turned)


def for_display(samples: Array, maximum: int, gamma: float) -> Array:
    """Samples [...] uint8 or uint16 of light ** gamma, as the same type with sRGB's curve."""
    light = (np.arange(maximum + 1) / maximum) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(curve * maximum).astype(samples.dtype)[samples]
