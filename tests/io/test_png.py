"""The PNG reader: formats, and refusal of damaged and malicious files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from steps.compute.arrays import Array
from steps.io import png, png_chunks
from steps.runtime.errors import InvalidFileFormat, ValidationFailed
from tests import damage
from tests.cases.pictures import STORED, exif

SIDE = 40


def saved(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def gradient(*shape: int, top: int = 255) -> Array:
    return np.linspace(0, top, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (gradient(SIDE, SIDE).astype(np.uint8), "L"),
        (gradient(SIDE, SIDE, 2).astype(np.uint8), "LA"),
        (gradient(SIDE, SIDE, 3).astype(np.uint8), "RGB"),
        (gradient(SIDE, SIDE, 4).astype(np.uint8), "RGBA"),
        (gradient(SIDE, SIDE, top=65535).astype(np.uint16), "I;16"),
    ],
)
def test_decoding_inverts_encoding(pixels: Array, mode: str) -> None:
    picture = png.decode(saved(Image.fromarray(pixels)))
    assert (picture.pixels.reshape(pixels.shape) == pixels).all()
    assert picture.maximum == (65535 if mode == "I;16" else 255)


def test_palettes_with_and_without_transparency_become_colours() -> None:
    image = Image.fromarray(gradient(SIDE, SIDE, 3).astype(np.uint8)).quantize(16)
    assert png.decode(saved(image)).pixels.shape == (SIDE, SIDE, 3)
    assert png.decode(saved(image, transparency=3)).pixels.shape == (SIDE, SIDE, 4)


def test_one_bit_and_sixteen_bit_colour_are_read() -> None:
    assert set(np.unique(png.decode(saved(Image.new("1", (SIDE, SIDE), 1))).pixels)) == {255}
    deep = damage.chunk(b"IHDR", b"\0\0\0\x28\0\0\0\x28\x10\x02\0\0\0")
    rows = b"".join(b"\0" + b"\xff\xff\x80\x00\x00\x00" * SIDE for _ in range(SIDE))
    data = png.SIGNATURE + deep + damage.chunk(b"IDAT", zlib.compress(rows)) + damage.chunk(b"IEND", b"")
    assert png.decode(data).colour[0, 0].tolist() in ([255, 128, 0], [255, 127, 0])


def test_an_interlaced_file_is_read() -> None:
    plain = gradient(SIDE, SIDE).astype(np.uint8)
    header = b"\0\0\0\x28\0\0\0\x28\x08\0\0\0\x01"
    rows = b"".join(
        b"\0" + plain[y0::dy, x0::dx][r].tobytes()
        for x0, y0, dx, dy in [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
        for r in range(len(plain[y0::dy, x0::dx]))
    )
    parts = [damage.chunk(b"IHDR", header), damage.chunk(b"IDAT", zlib.compress(rows)), damage.chunk(b"IEND", b"")]
    assert (png.decode(png.SIGNATURE + b"".join(parts)).pixels[..., 0] == plain).all()


def test_ancillary_chunks_are_never_decompressed() -> None:
    bomb = damage.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    data = saved(Image.new("L", (SIDE, SIDE), 9))
    assert png.decode(data[:33] + bomb + data[33:]).pixels.max() == 9


def test_text_and_gamma_do_not_change_the_pixels() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "x")
    info.add(b"gAMA", b"\0\0\xb1\x8f")
    assert png.decode(saved(Image.new("L", (SIDE, SIDE), 9), pnginfo=info)).pixels.min() == 9


@pytest.mark.parametrize("side", [4097, 100_000, 2**31 - 1])
def test_a_pixel_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ValidationFailed, match="at most 4096"):
        png.decode(damage.png(side, 4096, b""))


@pytest.mark.parametrize("rows", [SIDE - 1, SIDE + 1, 10_000])
def test_image_data_of_the_wrong_length_is_refused(rows: int) -> None:
    with pytest.raises(InvalidFileFormat, match="does not fill"):
        png.decode(damage.png(SIDE, SIDE, zlib.compress(bytes(rows * (1 + 3 * SIDE)))))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_critical_chunk_is_refused(missing: int) -> None:
    data = saved(Image.new("L", (SIDE, SIDE), 9))
    pieces = [data[8:33], data[33:-12], data[-12:]]
    with pytest.raises(InvalidFileFormat):
        png.decode(png.SIGNATURE + b"".join(p for i, p in enumerate(pieces) if i != missing))


def filtered(pixels: Array, kinds: Array) -> bytes:
    """The scanlines of [H, W, C] uint16, each with its own filter, written down from the specification."""
    width = 2 * pixels.shape[2]
    raw = pixels.astype(">u2").view(np.uint8).reshape(len(pixels), -1).astype(int)
    lines = []
    for r, kind in enumerate(kinds):
        up = raw[r - 1] if r else np.zeros_like(raw[0])
        left, corner = (np.concatenate([np.zeros(width, int), row[:-width]]) for row in (raw[r], up))
        near = np.abs(np.stack([left, up, corner]) - (left + up - corner)).argmin(axis=0)
        guesses = (0 * left, left, up, (left + up) // 2, np.choose(near, [left, up, corner]))
        lines.append(bytes([kind]) + ((raw[r] - guesses[kind]) % 256).astype(np.uint8).tobytes())
    return b"".join(lines)


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (3, 2), (4, 6)])
@pytest.mark.parametrize("filters", [(0,), (1,), (0, 1), (2,), (3,), (4,), (0, 1, 2, 3, 4)])
def test_sixteen_bits_of_several_channels_are_kept_whole(
    channels: int, colour_type: int, filters: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 65536, (SIDE, SIDE + 3, channels)).astype(np.uint16)
    header = struct.pack(">IIBBBBB", SIDE + 3, SIDE, 16, colour_type, 0, 0, 0)
    body = zlib.compress(filtered(pixels, rng.choice(filters, SIDE)))
    parts = [damage.chunk(b"IHDR", header), damage.chunk(b"IDAT", body), damage.chunk(b"IEND", b"")]
    decoded = png.decode(png.SIGNATURE + b"".join(parts))
    assert decoded.maximum == 65535 and np.array_equal(decoded.pixels, pixels)


def test_sixteen_bits_interlaced_are_kept_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 3)).astype(np.uint16)
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in png_chunks.ADAM7]
    body = b"".join(filtered(p, np.full(len(p), 1 + i % 4)) for i, p in enumerate(parts))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 1)
    chunks = [damage.chunk(b"IHDR", header), damage.chunk(b"IDAT", zlib.compress(body)), damage.chunk(b"IEND", b"")]
    assert np.array_equal(png.decode(png.SIGNATURE + b"".join(chunks)).pixels, pixels)
    chunks[1] = damage.chunk(b"IDAT", zlib.compress(body[:-1]))
    with pytest.raises(InvalidFileFormat, match="does not fill"):
        png.decode(png.SIGNATURE + b"".join(chunks))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_exif_orientation_is_read_and_undone(orientation: int, order: str) -> None:
    upright = gradient(SIDE, SIDE + 8, 3).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = saved(Image.fromarray(stored))
    decoded = png.decode(data[:33] + exif(orientation, order) + data[33:])
    assert decoded.orientation == orientation
    assert np.array_equal(png_chunks.upright(decoded.pixels, orientation), upright)
    # Pillow, which reads the same note, turns it the same way
    with Image.open(io.BytesIO(data[:33] + exif(orientation, order) + data[33:])) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), upright)


@pytest.mark.parametrize("note", [b"", b"MM", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"junk" * 9])
def test_an_unreadable_exif_orientation_is_ignored(note: bytes) -> None:
    data = saved(Image.new("L", (SIDE, SIDE), 9))
    assert png.decode(data[:33] + damage.chunk(b"eXIf", note) + data[33:]).orientation == 1


def test_linear_samples_become_srgb_and_back() -> None:
    srgb = np.arange(256) / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    decoded = png_chunks.for_display(np.rint(light * 65535).astype(np.uint16), 65535, 1.0)
    assert np.abs(decoded / 257 - np.arange(256)).max() < 0.1


@pytest.mark.parametrize(
    ("kinds", "gamma"),
    [({b"gAMA": 100000}, 1.0), ({b"gAMA": 55556}, 0.55556), ({b"gAMA": 100000, b"sRGB": 0}, None), ({}, None)],
)
def test_gama_is_reported_unless_the_file_has_srgb(kinds: dict[bytes, int], gamma: float | None) -> None:
    data = saved(Image.new("L", (SIDE, SIDE), 9))
    more = b"".join(damage.chunk(k, struct.pack(">I", v)) for k, v in kinds.items())
    assert png.decode(data[:33] + more + data[33:]).gamma == gamma
