"""The step preview: textured and wireframe renders from the input cameras, a turntable, and input / render / difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from steps.compute import device
from steps.compute.arrays import Array
from steps.compute.device import beside, to_host
from steps.compute.launch import map_on
from steps.geometry.cameras import Camera, look_at
from steps.io import mesh_files, png, scene
from steps.io.mesh_files import Mesh
from steps.io.scene import SceneView
from steps.raster.render import render_mesh, wireframe
from steps.runtime.contract import Preview
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter

WHITE = np.ones(3, np.float32)
FRAMES, FRAME_MS, FRAME_SIDE = 36, 70, 384
ELEVATION = np.radians(20.0)
FIELD_OF_VIEW = np.radians(35.0)


def run(parameters: Preview, out: Path, reporter: Reporter) -> None:
    """Writes textured_00..05.png, wireframe_00..05.png, compare_00..05.png and turntable.webp to `out`."""
    loaded = scene.load(parameters.scene)
    mesh = mesh_files.load(parameters.mesh, loaded.frame)
    where = device.choose(parameters.device, reporter.note)
    placed, views = mesh.on(where), loaded.views
    cameras = [resized_camera(view.camera, parameters.size) for view in views]
    map_on(where, lambda i: write_view(draw(placed, views[i], cameras[i]), views[i], i, out), range(len(views)))
    reporter.progress(1, 2)
    write_turntable(placed, where, out / "turntable.webp")
    reporter.value("peak-vram-mib", device.peak_memory_mib(where))
    names = [view.camera.name for view in views]
    write_json(out / "preview.json", {"views": names, "size": parameters.size, "frames": FRAMES, "drawn_on": where})
    reporter.progress(2, 2)


def draw(mesh: Mesh, view: SceneView, camera: Camera) -> list[Array]:
    """The mesh and its wireframe over white, and the mesh over what is behind the view: [H, W, 3] uint8 each."""
    rgba, lines = render_mesh(mesh, camera), wireframe(mesh.vertices, mesh.faces, camera)
    behind = view.behind() if view.behind().ndim == 1 else _resized(view.behind(), camera.width, camera.height)
    layers = (rgba, WHITE), (lines, WHITE), (rgba, behind)
    return [to_host(png.to_bytes(scene.over_premultiplied(layer, beside(under, layer)))) for layer, under in layers]


def write_view(pictures: list[Array], view: SceneView, index: int, out: Path) -> None:
    """The three files of one view. pictures: of `draw`."""
    textured, lines, composited = pictures
    png.write(out / f"textured_{index:02d}.png", textured)
    png.write(out / f"wireframe_{index:02d}.png", lines)
    picture = composited.astype(np.float32) / 255
    reference = _resized(view.picture(), picture.shape[1], picture.shape[0])
    png.write(out / f"compare_{index:02d}.png", png.to_bytes(comparison(reference, picture)))


def resized_camera(camera: Camera, size: int) -> Camera:
    """The camera with its longest side at `size` pixels."""
    longest = max(camera.width, camera.height)
    return camera.resized(round(camera.width * size / longest), round(camera.height * size / longest))


def _resized(picture: Array, width: int, height: int) -> Array:
    image = Image.fromarray(png.to_bytes(picture)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / 255.0


def comparison(reference: Array, picture: Array) -> Array:
    """Input, render and their difference side by side: grey where they agree, four times stronger where not."""
    return np.concatenate([reference, picture, np.clip(0.5 + 2.0 * (picture - reference), 0, 1)], axis=1)


def orbit(mesh: Mesh) -> list[Camera]:
    """FRAMES cameras once around the object, slightly from above, far enough to see all of it."""
    vertices = to_host(mesh.vertices)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre = (low + high) / 2
    distance = float(np.linalg.norm(high - low)) / 2 / np.sin(FIELD_OF_VIEW / 2) * 1.02
    focal = FRAME_SIDE / 2 / np.tan(FIELD_OF_VIEW / 2)
    return [_orbit_camera(centre, angle, distance, focal) for angle in np.arange(FRAMES) * 2 * np.pi / FRAMES]


def _orbit_camera(centre: Array, angle: float, distance: float, focal: float) -> Camera:
    flat = np.cos(ELEVATION)
    offset = distance * np.array([np.sin(angle) * flat, np.sin(ELEVATION), np.cos(angle) * flat])
    camera = look_at("orbit", offset, np.array([0.0, 1.0, 0.0]), FRAME_SIDE, focal)
    camera.camera_to_world[:3, 3] += centre
    return camera


def write_turntable(mesh: Mesh, where: str, path: Path) -> None:
    """An animated WebP that loops. where: the mesh's device."""

    def frame(camera: Camera) -> Array:
        rgba = render_mesh(mesh, camera, 2)
        return to_host(png.to_bytes(scene.over_premultiplied(rgba, beside(WHITE, rgba))))

    frames = [Image.fromarray(picture) for picture in map_on(where, frame, orbit(mesh))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=80, method=2)
