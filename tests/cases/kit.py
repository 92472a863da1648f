"""Shared by the cases: `Case`, and functions that read and write the pictures of a copied sample."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.runtime.contract import VIEW_NAMES
from tests.damage import chunk

MUG = ("--object", "mug", "--size", "256")


@dataclass(frozen=True)
class Case:
    """One input and its expected outcome.

    make: changes the copy of a sample; returns what to hand in (mostly the folder itself).
    base: the flags of `sixview sample` that write the sample.
    code: "" where a mesh is expected, else the code of the refusal. Where `or_code` is given, a refusal with it is right, too.
    loss: decibels of object PSNR that the mesh may lose against the unchanged sample; ratio: how many times its Chamfer-L1.
    says: words that must stand in the notes (or in the refusal's message or suggestion), each whole.
    closed: whether the mesh must be watertight.
    """

    name: str
    make: Callable[[Path], Path]
    base: tuple[str, ...] = MUG
    code: str = ""
    or_code: str = ""
    loss: float | None = None
    ratio: float | None = None
    says: tuple[str, ...] = ()
    closed: bool = True
    flags: tuple[str, ...] = ()  # of `sixview run`

    def write(self, sample: Path, out: Path) -> Path:
        """The input, made anew at `out` from the sample; what else the sample holds (its truth) is not handed in."""
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(sample, out, ignore=shutil.ignore_patterns("ground_truth", "sample.json"))
        return self.make(out)


def cameras(folder: Path) -> Any:
    return json.loads((folder / "cameras.json").read_text())


def write_cameras(folder: Path, document: Any) -> None:
    (folder / "cameras.json").write_text(json.dumps(document, indent=1))


def depth(folder: Path, name: str) -> Array:
    """[H, W] uint16: the sample's counts."""
    return np.asarray(Image.open(folder / "depth_renders" / f"{name}.png")).astype(np.uint16)


def write_depth(folder: Path, name: str, pixels: Array) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "depth_renders" / f"{name}.png")


def view(folder: Path, name: str) -> Array:
    """[H, W, 4] uint8."""
    return np.asarray(Image.open(folder / "multi_views" / f"{name}.png"))


def write_view(folder: Path, name: str, pixels: Array) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "multi_views" / f"{name}.png")


def each_depth(folder: Path, change: Callable[[Array], Array]) -> Path:
    for name in VIEW_NAMES:
        write_depth(folder, name, change(depth(folder, name)))
    return folder


def each_view(folder: Path, change: Callable[[Array], Array]) -> Path:
    for name in VIEW_NAMES:
        write_view(folder, name, change(view(folder, name)))
    return folder


def metres(counts: Array, near: float = 1.5, far: float = 3.5) -> Array:
    """Depth along the axis [H, W] float64 of the sample's 16-bit linear counts, 0 where nothing is."""
    return np.where(counts > 0, near + counts / 65535.0 * (far - near), 0.0)


def write_png(path: Path, pixels: Array, bits: int, colour: int, extra: tuple[bytes, ...] = ()) -> None:
    """[H, W] or [H, W, C] as a PNG of kinds that Pillow cannot write (16-bit colour, 16-bit grey with alpha): `colour` is the
    colour type of the PNG specification, `extra` are whole chunks."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).astype(">u2" if bits == 16 else np.uint8)
    header = np.array([width, height], ">u4").tobytes() + bytes([bits, colour, 0, 0, 0])
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 6)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
