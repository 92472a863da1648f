"""A rendering of a rig: the point cloud of the six depth renders, with the six views standing around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera, ray_to_z, unproject
from steps.io.cameras_json import View
from steps.io.depth_encoding import metric_depth
from steps.io.input_checks import Pictures
from steps.io.scene import Scene

SIDE = 900
POINTS = 30_000  # of each view
AROUND = 2.3  # radii of the object between its middle and the views that stand around it
LARGE = 0.75  # radii: half the side of such a view
SIGHT = np.array([[0.80, 0.0, -0.60], [-0.27, 0.89, -0.36], [0.53, 0.45, 0.71]])  # rows: right, up, towards the eye


@dataclass(frozen=True)
class Board:
    """A view as it is drawn. camera: of the depth map; depth: [h, w], 0 where nothing is; picture: the view."""

    camera: Camera
    depth: Array
    picture: Image.Image


def boards_of(scene: Scene) -> list[Board]:
    return [
        Board(v.depth_camera, v.depth(), Image.fromarray(np.rint(v.picture() * 255).astype(np.uint8)))
        for v in scene.views
    ]


def boards_of_set(pictures: Pictures, views: list[View]) -> list[Board]:
    """The boards of an input set, given the cameras of its depth renders, before a scene exists."""
    result = []
    for view, picture, stored in zip(views, pictures.views, pictures.depths, strict=True):
        shape = stored.pixels.shape[:2]
        camera = view.camera.resized(shape[1], shape[0])
        assert view.depth is not None
        depth = metric_depth(stored, view.depth, ray_to_z(camera, shape)).depth
        result.append(Board(camera, depth, Image.fromarray(picture.colour)))
    return result


def rig_picture(views: list[Board]) -> Image.Image:
    """The scene from the front, its right and above, without perspective, over white."""
    pointclouds = [_coloured_points(view) for view in views]
    points = np.concatenate([pointcloud[0] for pointcloud in pointclouds])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    scale = SIDE / 2 / ((AROUND + LARGE) * 1.02 * radius)
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    behind = sorted(views, key=lambda view: float(_back(view) @ SIGHT[2]))
    for view in behind[:3]:
        _stand(canvas, view, radius, scale)
    _splat(canvas, (points - middle) @ SIGHT.T * scale, np.concatenate([pointcloud[1] for pointcloud in pointclouds]))
    for view in behind[3:]:
        _stand(canvas, view, radius, scale)
    return canvas


def _back(view: Board) -> Array:
    return np.asarray(view.camera.camera_to_world)[:3, 2]


def _coloured_points(view: Board) -> tuple[Array, Array]:
    """Points (n, 3) in the world and their colours (n, 3) uint8."""
    size = view.depth.shape[1], view.depth.shape[0]
    colours = np.asarray(view.picture.resize(size))[view.depth > 0]
    step = max(1, len(colours) // POINTS)
    return unproject(view.depth, view.camera)[::step], colours[::step]


def _splat(canvas: Image.Image, points: Array, colours: Array) -> None:
    """Draws points (n, 3) as squares of two pixels, the nearest last; x right, y up from the middle, pixels; z to the viewer."""
    pixels = np.asarray(canvas).copy()
    order = np.argsort(points[:, 2])
    column, row = (SIDE / 2 + points[order, 0]).astype(int), (SIDE / 2 - points[order, 1]).astype(int)
    for dr in (0, 1):
        for dc in (0, 1):
            pixels[np.clip(row + dr, 0, SIDE - 1), np.clip(column + dc, 0, SIDE - 1)] = colours[order]
    canvas.paste(Image.fromarray(pixels))


def _stand(canvas: Image.Image, view: Board, radius: float, scale: float) -> None:
    """A view as a board that faces the object, in parallel projection, with its name."""
    pose = np.asarray(view.camera.camera_to_world)[:3, :3]
    centre = (SIGHT @ pose[:, 2] * AROUND * radius * scale)[:2]
    right, up = ((SIGHT @ pose[:, k])[:2] * LARGE * radius * scale for k in (0, 1))
    place = np.array([SIDE / 2 + centre[0], SIDE / 2 - centre[1]])
    right, down = right * [1, -1], -(up * [1, -1])
    board = view.picture.resize((256, 256))
    # board (u, v) in [0, 256] -> canvas: place + (u / 128 - 1) right + (v / 128 - 1) down; PIL wants the way back
    forth = np.column_stack([right, down]) / 128
    if abs(np.linalg.det(forth)) < 1e-3:
        return  # seen from its edge
    back = np.linalg.inv(forth)
    offset = np.array([128, 128]) - back @ place
    data = (*back[0], offset[0], *back[1], offset[1])
    mask = Image.new("L", board.size, 235).transform(canvas.size, Image.Transform.AFFINE, data)
    canvas.paste(board.transform(canvas.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR), mask=mask)
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(place + a * right + b * down) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    draw.line(corners, fill=(120, 120, 120))
    draw.text(tuple(place - right * 0.95 - down * 0.95), view.camera.name, fill=(30, 30, 30))
