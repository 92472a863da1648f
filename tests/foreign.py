"""Renders of the result files by independent programs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from steps.compute.arrays import Array


def mitsuba_pictures(glb: Path, cameras: Path, samples: int = 36) -> dict[str, Array]:
    """The GLB, read by trimesh and rendered by Mitsuba 3 in its own colours over white: {view: [H, W, 3] float32}."""
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    loaded = trimesh.load_mesh(glb, process=False)
    with tempfile.TemporaryDirectory() as folder:
        shape = _as_mitsuba_sees_it(mi, loaded, Path(folder))
        views = json.loads(cameras.read_text())["views"]
        return {v["name"]: _over_white(mi.render(_scene(mi, v, shape, samples))) for v in views}


def _as_mitsuba_sees_it(mi: Any, loaded: Any, folder: Path) -> dict[str, Any]:
    """A shape that shines with its texture: what the camera sees is the texture itself, without light or shadow."""
    made = mi.Mesh("object", len(loaded.vertices), len(loaded.faces), has_vertex_texcoords=True)
    parameters = mi.traverse(made)
    parameters["vertex_positions"] = np.array(loaded.vertices, np.float32).ravel()
    parameters["faces"] = np.array(loaded.faces, np.uint32).ravel()
    parameters["vertex_texcoords"] = np.array(loaded.visual.uv, np.float32).ravel()
    parameters.update()
    made.write_ply(str(folder / "mesh.ply"))
    image = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
    # Mitsuba counts v from the top of a bitmap, trimesh's from the bottom; `raw` keeps Mitsuba from touching the colours
    texture = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(image[::-1])),
        "raw": True,
        "wrap_mode": "clamp",
    }
    return {"type": "ply", "filename": str(folder / "mesh.ply"), "emitter": {"type": "area", "radiance": texture}}


def _scene(mi: Any, view: dict[str, Any], shape: dict[str, Any], samples: int) -> Any:
    k, pose = view["intrinsics"], np.array(view["camera_to_world"])
    pose = pose @ np.diag([-1.0, 1.0, -1.0, 1.0])  # Mitsuba's camera looks along +z, with x to the left
    sensor = {
        "type": "perspective",
        "to_world": mi.ScalarTransform4f(pose),
        "fov": float(np.degrees(2 * np.arctan(k["width"] / 2 / k["fx"]))),
        "fov_axis": "x",
        "film": {
            "type": "hdrfilm",
            "width": k["width"],
            "height": k["height"],
            "rfilter": {"type": "box"},
            "pixel_format": "rgba",
        },
        "sampler": {"type": "stratified", "sample_count": samples},
    }
    return mi.load_dict({"type": "scene", "integrator": {"type": "direct"}, "sensor": sensor, "object": shape})


def _over_white(rendered: Any) -> Array:
    rgba = np.array(rendered, np.float32)
    return np.clip(rgba[..., :3] + 1 - rgba[..., 3:4], 0, 1)


def f3d_picture(obj: Path, size: int) -> Array:
    """The OBJ as the viewer F3D shows it from the front, lit by its own lamps, over white: [H, W, 3] uint8.

    In a process of its own: F3D brings an OpenSSL that cannot be loaded beside one that is there already."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.npy"
        code = f"from tests import foreign; foreign.draw_by_f3d({str(obj)!r}, {size}, {str(picture)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return np.load(picture)


def draw_by_f3d(obj: str, size: int, picture: str) -> None:
    """Writes what `f3d_picture` returns."""
    import f3d

    f3d.Log.set_verbose_level(f3d.Log.QUIET)
    f3d.Engine.autoload_plugins()
    engine = f3d.Engine.create_egl()
    engine.options.update({"render.background.color": [1.0, 1.0, 1.0]})
    engine.window.size = (size, size)
    engine.scene.add(obj)
    camera = engine.window.camera
    camera.position, camera.focal_point, camera.view_up = (0, 0, 2.5), (0, 0, 0), (0, 1, 0)
    camera.view_angle = float(np.degrees(2 * np.arctan(0.5 * 1024 / 1111)))
    image = engine.window.render_to_image()
    pixels = np.frombuffer(image.content, np.uint8).reshape(image.height, image.width, -1)
    np.save(picture, pixels[::-1, :, :3])
