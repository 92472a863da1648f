"""Cases: thin objects, sheets that vanish in views of their edge, and wires."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from steps.compute.arrays import Array
from tests.cases import kit
from tests.cases.kit import Case

FOLDER = Path(tempfile.gettempdir()) / "sixview-thin-objects"


def painted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """In waves of colour, by its vertices."""
    x, y, z = mesh.vertices.T
    waves = [np.sin(9 * x + 2 * y), np.cos(7 * y + 3 * z), np.sin(5 * z + 4 * x + 1)]
    mesh.visual = trimesh.visual.ColorVisuals(
        mesh, vertex_colors=np.stack([127 + 100 * w for w in waves], 1).astype(np.uint8)
    )
    return mesh


def card(thickness: float) -> trimesh.Trimesh:
    """An upright card of this thickness that faces the front view."""
    return trimesh.creation.box((1.0, 1.4, thickness))


def tile(thickness: float) -> trimesh.Trimesh:
    """A horizontal tile of this thickness."""
    return trimesh.creation.box((1.0, thickness, 1.4))


def leaf(bend: float = 0.15, cells: int = 60) -> trimesh.Trimesh:
    """A sheet without any thickness, bent lengthwise and across."""
    u, v = np.meshgrid(np.linspace(-1, 1, cells), np.linspace(-1, 1, cells), indexing="ij")
    wide = 0.45 * np.sqrt(np.clip(1 - u**2, 0, 1))
    sheet = np.stack([v * wide, 0.9 * u, bend * (np.cos(1.5 * u) + 2 * v**2)], axis=-1).reshape(-1, 3)
    i = np.arange(cells * cells).reshape(cells, cells)
    a, b, c, d = (corner.ravel() for corner in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    faces = np.concatenate([np.stack([a, c, b], 1), np.stack([a, d, c], 1)])
    return trimesh.Trimesh(sheet, faces, process=False)


def frame(radius: float = 0.02) -> trimesh.Trimesh:
    """The edges of a cube, of wire."""
    corners = np.array([[x, y, z] for x in (-0.6, 0.6) for y in (-0.6, 0.6) for z in (-0.6, 0.6)])
    ends = [(p, q) for i, p in enumerate(corners) for q in corners[i + 1 :] if np.count_nonzero(p != q) == 1]
    return trimesh.util.concatenate([trimesh.creation.cylinder(radius, segment=both) for both in ends])


OBJECTS: dict[str, Callable[[], trimesh.Trimesh]] = {
    "card": lambda: card(0.001),
    "thick-card": lambda: card(0.01),
    "tile": lambda: tile(0.002),
    "leaf": leaf,
    "frame": frame,
    "box": lambda: trimesh.creation.box((1.0, 1.2, 0.8)),
}


def file_of(name: str) -> str:
    """The path of the object's mesh, written anew."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.ply"
    painted(OBJECTS[name]()).export(path)
    return str(path)


def flags_of(name: str) -> tuple[str, ...]:
    return ("--object", file_of(name), "--size", "256")


def without_cameras(folder: Path) -> Path:
    (folder / "cameras.json").unlink()
    return folder


def masks(folder: Path) -> Path:
    """Depth renders replaced by masks of the object."""
    return kit.each_depth(without_cameras(folder), lambda counts: np.where(counts > 0, 255, 0).astype(np.uint8))


def over_white(folder: Path) -> Path:
    def change(pixels: Array) -> Array:
        share = pixels[..., 3:] / 255
        return np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)

    return kit.each_view(folder, change)


def blank(folder: Path, name: str) -> Path:
    """One depth render without anything in it."""
    kit.write_depth(folder, name, np.zeros_like(kit.depth(folder, name)))
    return folder


CASES: list[Case] = [
    Case("thin card", lambda f: f, flags_of("card"), says=("too thin to be seen in left, right, top, bottom",)),
    Case("thin card over white", over_white, flags_of("card"), loss=1.0, says=("too thin to be seen in left",)),
    Case(
        "thin card without cameras",
        without_cameras,
        flags_of("card"),
        code="RIG_AMBIGUOUS",
        says=("too thin to be seen in left, right, top, bottom", "45 degrees"),
    ),
    Case("thin tile", lambda f: f, flags_of("tile"), says=("too thin to be seen in front, back, left, right",)),
    Case("thin card of some pixels, without cameras", without_cameras, flags_of("thick-card"), loss=0.1),
    Case("thin leaf", lambda f: f, flags_of("leaf"), says=("two voxels thick",)),
    Case("thin wires", lambda f: f, flags_of("frame")),
    Case("flat faces without cameras", without_cameras, flags_of("box"), loss=0.1),
    Case(
        "depth blank in one view", lambda f: blank(f, "left"), code="VALIDATION_FAILED", says=("left.png", "no depth")
    ),
    Case("depth that is a mask", masks, code="VALIDATION_FAILED", says=("masks", "no depth")),
]
