"""PNG reader and writer for untrusted files. Specification: W3C PNG, third edition.

A file is judged by its bytes: signature, chunk structure, CRC of every chunk, and the compressed data unpacked under a
bound. Only the chunks that make the picture are handed to the decoder: text, profiles and animations are left out, so that
nothing hidden in them is ever unpacked. What eXIf and gAMA say is told with the picture, and not applied.

The chunks are read here, since Pillow's `verify` passes a wrong CRC of IEND, and unpacks text first: pictures with much of it are
refused. The CRC itself is zlib's.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.io import png_chunks
from steps.runtime.errors import InvalidFileFormat, ValidationFailed

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 4096 * 4096  # twelve such pictures still fit into a gigabyte
MIN_SIDE = 32
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_OTHERS = {
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"<svg": "SVG",
    b"%PDF": "PDF",
}


@dataclass(frozen=True)
class Header:
    """The IHDR chunk. bits: per channel; channels: as stored (1 for a palette)."""

    width: int
    height: int
    bits: int
    colour_type: int
    interlaced: bool

    @property
    def channels(self) -> int:
        return _CHANNELS[self.colour_type]


@dataclass(frozen=True)
class Picture:
    """pixels: [H, W, C] uint8 or uint16, C = 1, 2, 3 or 4 for grey, grey + alpha, RGB, RGBA; maximum: 255 or 65535.
    orientation: Exif's, 1 to 8, 1 for as stored; gamma: what gAMA says of colours, None where that is nothing of its own."""

    pixels: Array
    maximum: int
    orientation: int = 1
    gamma: float | None = None

    @property
    def alpha(self) -> Array | None:
        """[H, W] float32 in [0, 1], None where the picture has none."""
        return self.pixels[..., -1].astype(np.float32) / self.maximum if self.pixels.shape[2] in (2, 4) else None

    @property
    def colour(self) -> Array:
        """[H, W, 3] uint8."""
        plain = self.pixels[..., :-1] if self.pixels.shape[2] in (2, 4) else self.pixels
        eight = plain if self.maximum == 255 else np.rint(plain / 257.0).astype(np.uint8)
        return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


def decode(data: bytes) -> Picture:
    """The picture in a PNG file. Raises InvalidFileFormat or ValidationFailed with what is wrong; never decodes a bomb."""
    header, chunks = _chunks(data)
    _check_size(header)
    body = b"".join(content for kind, content in chunks if kind == b"IDAT")
    if not header.interlaced:
        _check_stream(header, body)
    orientation, gamma = png_chunks.orientation_of(chunks), png_chunks.gamma_of(chunks)
    if header.bits == 16 and header.channels > 1:
        return replace(_decode_deep(header, body, dict(chunks).get(b"tRNS")), orientation=orientation, gamma=gamma)
    clean = SIGNATURE + b"".join(_pack_chunk(kind, content) for kind, content in chunks if kind in _KEPT)
    try:
        with Image.open(io.BytesIO(clean), formats=["PNG"]) as image:
            image.load()
            return replace(_picture(image), orientation=orientation, gamma=gamma)
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise InvalidFileFormat(f"is a damaged PNG: {error}") from None


def _chunks(data: bytes) -> tuple[Header, list[tuple[bytes, bytes]]]:
    _check_signature(data)
    chunks, at = [], len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise InvalidFileFormat("is cut off before its end")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise InvalidFileFormat("is cut off before its end")
        content = data[at + 8 : at + 8 + length]
        if zlib.crc32(kind + content) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise InvalidFileFormat("is damaged: a checksum (CRC) inside it is wrong")
        chunks.append((kind, content))
        at += 12 + length
        if kind == b"IEND":
            return _header(chunks), chunks


def peek(head: bytes) -> Header:
    """The header, from the first 33 bytes of a file. Raises as `decode` does."""
    _check_signature(head)
    if len(head) < 33:
        raise InvalidFileFormat("is cut off before its end")
    header = _parse(head[12:16], head[16:29])
    _check_size(header)
    return header


def _check_signature(data: bytes) -> None:
    if not data:
        raise InvalidFileFormat("is empty (0 bytes)")
    if not data.startswith(SIGNATURE):
        other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), "")
        raise InvalidFileFormat(f"is not a PNG file{f' but a {other}' if other else ''}, whatever its name says")


def _header(chunks: list[tuple[bytes, bytes]]) -> Header:
    if sum(k == b"IHDR" for k, _ in chunks) != 1:
        raise InvalidFileFormat("is a damaged PNG: its header is missing or not first")
    if not any(k == b"IDAT" for k, _ in chunks):
        raise InvalidFileFormat("is a damaged PNG: it holds no picture data")
    return _parse(*chunks[0])


def _parse(kind: bytes, content: bytes) -> Header:
    if kind != b"IHDR" or len(content) != 13:
        raise InvalidFileFormat("is a damaged PNG: its header is missing or not first")
    width, height, bits, colour_type, compression, method, interlace = struct.unpack(">IIBBBBB", content)
    if colour_type not in _CHANNELS or bits not in (1, 2, 4, 8, 16) or compression or method or interlace > 1:
        raise InvalidFileFormat("is a damaged PNG: its header says what no PNG can be")
    return Header(width, height, bits, colour_type, bool(interlace))


def _check_size(header: Header) -> None:
    size = f"{header.width} x {header.height} pixels"
    if header.width * header.height > MAX_PIXELS:
        raise ValidationFailed(f"has {size}; at most 4096 x 4096 are read", "Scale the picture down.")
    if min(header.width, header.height) < MIN_SIDE:
        raise ValidationFailed(f"has {size}; each side needs at least {MIN_SIDE}", "Render the picture larger.")


def _check_stream(header: Header, body: bytes) -> None:
    """Decompresses the data in pieces and checks that it has exactly the length that the header implies."""
    expected = header.height * (1 + (header.width * header.channels * header.bits + 7) // 8)
    unpack, size, rest = zlib.decompressobj(), 0, body
    try:
        while rest and not unpack.eof and size <= expected:
            size += len(unpack.decompress(rest, 1 << 20))
            rest = unpack.unconsumed_tail
    except zlib.error as error:
        raise InvalidFileFormat(f"is damaged: its compressed data is broken ({error})") from None
    if size != expected or not unpack.eof:
        raise InvalidFileFormat("is damaged: its data does not fill the picture that the header announces")


def _pack_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _decode_deep(header: Header, body: bytes, key: bytes | None) -> Picture:
    """A picture of 16 bits and several channels. key: the colour that tRNS makes transparent."""
    most = 2 * header.height * (8 + header.width * header.channels * 2)  # interlaced, there are more and shorter rows
    try:
        data = zlib.decompressobj().decompress(body, most)
        pixels = png_chunks.pixels(data, header.width, header.height, header.channels, header.interlaced)
    except (ValueError, zlib.error):
        raise InvalidFileFormat("is damaged: its data does not fill the picture that the header announces") from None
    if header.colour_type == 2 and key is not None and len(key) == 6:
        clear = (pixels == np.frombuffer(key, ">u2")).all(axis=2)
        pixels = np.dstack([pixels, np.where(clear, 0, 65535).astype(np.uint16)])
    return Picture(pixels, 65535)


def _picture(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):
        return Picture(np.asarray(image).astype(np.uint16)[..., None], 65535)
    wanted = "RGB" if image.mode in ("P", "RGB") else "L"
    if "A" in image.mode or "transparency" in image.info:
        wanted = "LA" if image.mode in ("1", "L", "LA") else "RGBA"
    pixels = np.asarray(image.convert(wanted))
    return Picture(pixels[..., None] if pixels.ndim == 2 else pixels, 255)


def write(path: Any, pixels: Array, level: int = 6) -> None:
    """Writes [H, W], [H, W, 3] or [H, W, 4] uint8, or [H, W] uint16, as PNG; level: of compression, 1 fast to 9 small."""
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG", compress_level=level)


def to_bytes(image: Array) -> Array:
    """[..., C] float in [0, 1] to uint8, rounded."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
