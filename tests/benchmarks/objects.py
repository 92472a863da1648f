"""Textured objects of other people's, beside the samples: household goods of robosuite (MIT licence, PyPI), which is not needed
otherwise. `make out/objects/package` fetches it, without what it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from steps.sample.objects import OBJECTS

FOLDER = Path("out/objects")
ASSETS = FOLDER / "package" / "robosuite" / "models" / "assets"
TEXTURES = {"can": "soda", "milk": "ceramic", "cereal": "cereal", "bread": "bread", "lemon": "lemon"}
NAMES = (*OBJECTS, *TEXTURES)


def source(name: str) -> str:
    """What `sixview sample --object` is given for an object."""
    return name if name in OBJECTS else str(glb(name))


def glb(name: str) -> Path:
    """The object as a GLB, y up, with its texture, which the package keeps apart. Made once."""
    path = FOLDER / f"{name}.glb"
    if not path.exists():
        mesh: Any = trimesh.load(ASSETS / "objects" / "meshes" / f"{name}.obj", process=False, force="mesh")
        image = Image.open(ASSETS / "textures" / f"{TEXTURES[name]}.png").convert("RGB")
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        mesh.visual = trimesh.visual.TextureVisuals(mesh.visual.uv, material)
        mesh.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))
        mesh.export(path)
    return path
