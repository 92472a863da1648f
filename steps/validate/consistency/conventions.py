"""Other conventions under which given cameras would be consistent: to name what is wrong with them, never to correct it
silently."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations, product

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera

Hypothesis = tuple[str, list[Camera]]  # what the cameras are, as the end of "these cameras look like ...", and read so
OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
NAMED_AXES = {
    ("right", "down", "forward"): "OpenCV's or COLMAP's",
    ("left", "up", "forward"): "PyTorch3D's",
}
EULER = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")
HALF_DEGREES = np.arange(-720, 721) / 2
EXACT = 2e-4  # radians up to which an angle is one of so many half degrees, taken for radians
UNITS = {
    1000.0: "in kilometres where depth is in metres, or metres where it is in millimetres",
    100.0: "in metres where depth is in centimetres",
    39.3701: "in metres where depth is in inches",
    25.4: "in inches where depth is in millimetres",
    10.0: "in centimetres where depth is in millimetres",
    3.28084: "in metres where depth is in feet",
    2.54: "in inches where depth is in centimetres",
}


def hypotheses(cameras: list[Camera]) -> Iterator[Hypothesis]:
    """The cameras read by every other known convention, the most common first."""
    poses = [np.asarray(camera.camera_to_world, np.float64) for camera in cameras]
    inverse = [np.linalg.inv(pose) for pose in poses]
    yield "world-to-camera matrices (invert them)", _with_poses(cameras, inverse)
    yield f"camera-to-world matrices with {_axes_words(OPENCV)}", _with_poses(cameras, [p @ OPENCV for p in poses])
    yield (
        f"world-to-camera matrices with {_axes_words(OPENCV)} (invert them, then negate the second and third columns)",
        _with_poses(cameras, [i @ OPENCV for i in inverse]),
    )
    yield "matrices whose rotation is transposed", _with_poses(cameras, [_with_rotation(p, p[:3, :3].T) for p in poses])
    yield from _degrees(cameras, poses)
    for axes in _all_axes():
        if not np.allclose(axes, OPENCV):
            yield f"camera-to-world matrices with {_axes_words(axes)}", _with_poses(cameras, [p @ axes for p in poses])


def _with_poses(cameras: list[Camera], poses: list[Array]) -> list[Camera]:
    return [replace(camera, camera_to_world=pose) for camera, pose in zip(cameras, poses, strict=True)]


def _with_rotation(pose: Array, rotation: Array) -> Array:
    result = pose.copy()
    result[:3, :3] = rotation
    return result


def _all_axes() -> Iterator[Array]:
    """The 23 other right-handed ways to name a camera's axes, as (4, 4): from OpenGL's axes to theirs."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            axes = np.eye(4)
            axes[:3, :3] = np.eye(3)[:, order] * signs
            if np.linalg.det(axes) > 0 and not np.allclose(axes, np.eye(4)):
                yield axes


def _axes_words(axes: Array) -> str:
    """Which way x, y and z point in a camera whose matrix becomes OpenGL's when `axes` are multiplied from the right."""
    ways = {(0, 1): "right", (0, -1): "left", (1, 1): "up", (1, -1): "down", (2, 1): "backward", (2, -1): "forward"}
    theirs = np.linalg.inv(axes[:3, :3])  # column k: their axis k in OpenGL's
    words = tuple(ways[int(np.abs(a).argmax()), int(np.sign(a[np.abs(a).argmax()]))] for a in theirs.T)
    known = f"{NAMED_AXES[words]} axes: " if words in NAMED_AXES else ""
    return f"{known}x {words[0]}, y {words[1]}, z {words[2]}"


def _degrees(cameras: list[Camera], poses: list[Array]) -> Iterator[Hypothesis]:
    """Rotations made of angles in degrees taken for radians: each Euler angle is then a multiple of half a degree, modulo a
    turn. With and without the positions rotated along."""
    for sequence in EULER:
        in_degrees = [_of_degrees(pose[:3, :3], sequence) for pose in poses]
        rotations = [rotation for rotation in in_degrees if rotation is not None]
        if len(rotations) < len(poses) or all(np.allclose(r, p[:3, :3]) for r, p in zip(rotations, poses, strict=True)):
            continue
        words = "rotations by angles in degrees that were taken for radians"
        yield words, _with_poses(cameras, [_with_rotation(p, r) for p, r in zip(poses, rotations, strict=True)])
        along = [p.copy() for p in poses]
        for pose, rotation in zip(along, rotations, strict=True):
            pose[:3, 3] = rotation @ pose[:3, :3].T @ pose[:3, 3]
            pose[:3, :3] = rotation
        yield words + ", and the positions with them", _with_poses(cameras, along)


def _of_degrees(rotation: Array, sequence: str) -> Array | None:
    from scipy.spatial.transform import Rotation  # only where something is wrong: it takes a while to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two of the angles turn about the same axis does no harm here
        first = Rotation.from_matrix(rotation).as_euler(sequence)
    second = np.array([first[0] + np.pi, np.pi - first[1], first[2] + np.pi])
    for angles in (first, second):
        degrees = [_degree(float(angle)) for angle in angles]
        known = [d for d in degrees if d is not None]
        if len(known) == len(angles):
            return np.asarray(Rotation.from_euler(sequence, known, degrees=True).as_matrix())
    return None


def _degree(angle: float) -> float | None:
    """The smallest number of half degrees that is this angle, taken for radians and modulo a turn."""
    apart = np.abs((HALF_DEGREES - angle + np.pi) % (2 * np.pi) - np.pi)
    near = HALF_DEGREES[apart < EXACT]
    return float(near[np.abs(near).argmin()]) if len(near) else None


def rescaled(
    cameras: list[Camera], pointclouds: list[Array], score: Callable[[list[Camera]], float]
) -> Iterator[Hypothesis]:
    """The cameras with positions in another unit. pointclouds: (n, 3) of each view, relative to its camera; score: how badly
    cameras agree. The unit is estimated from where all views would see one place."""
    positions = np.array([camera.position for camera in cameras])
    middles = np.array([np.median(cloud, axis=0) for cloud in pointclouds])
    t, m = positions - positions.mean(axis=0), middles - middles.mean(axis=0)
    size = float((t**2).sum())
    estimate = -float((t * m).sum()) / size if size else 0.0
    if estimate <= 0:
        return
    for factor, words in (*UNITS.items(), *((1 / f, _inverse_words(w)) for f, w in UNITS.items())):
        if 0.6 < factor / estimate < 1.7:
            mends = f"multiply them by {factor:.6g}, or depth's scale, near and far by {1 / factor:.6g}"
            yield f"positions {words} ({mends})", _scale_positions(cameras, factor)
    best = _median_minimizer(
        estimate * np.geomspace(0.8, 1.5, 33), lambda factor: score(_scale_positions(cameras, factor))
    )
    if abs(np.log(best)) > 0.1:
        yield (
            f"positions in another unit than depth (multiply them by about {best:.3g})",
            _scale_positions(cameras, best),
        )


def _inverse_words(words: str) -> str:
    """The wording of the inverse factor."""
    parts = [
        part.split(" where depth is in ")
        for part in words.removeprefix("in ").replace("it is", "depth is").split(", or ")
    ]
    return "in " + ", or ".join(f"{depth} where depth is in {own}" for own, depth in parts)


def _scale_positions(cameras: list[Camera], factor: float) -> list[Camera]:
    poses = [np.asarray(camera.camera_to_world, np.float64).copy() for camera in cameras]
    for pose in poses:
        pose[:3, 3] *= factor
    return _with_poses(cameras, poses)


def lenses(cameras: list[Camera], score: Callable[[list[Camera]], float]) -> Iterator[Hypothesis]:
    """The cameras with the focal length at which they agree best."""

    def zoomed(factor: float) -> list[Camera]:
        return [replace(c, fx=c.fx * factor, fy=c.fy * factor) for c in cameras]

    factors = np.geomspace(0.3, 3.0, 41)
    factor = _median_minimizer(factors[np.abs(np.log(factors)) > 0.1], lambda f: score(zoomed(f)))
    angle = np.degrees(2 * np.arctan(cameras[0].width / 2 / (cameras[0].fx * factor)))
    yield f"those of another lens (about {angle:.0f} degrees across the picture would fit)", zoomed(factor)


def _median_minimizer(factors: Array, score: Callable[[float], float]) -> float:
    """The middle of the factors with the lowest score: a whole range may be within the tolerance."""
    scores = np.array([score(float(factor)) for factor in factors])
    best = np.flatnonzero(scores <= scores.min() + 0.01)
    return float(factors[best[len(best) // 2]])


def look_inward(cameras: list[Camera]) -> bool:
    """Whether all viewing axes pass one point in front of the cameras, to an eighth of their distance from it."""
    positions = np.array([camera.position for camera in cameras])
    viewing_axes = -np.array([np.asarray(camera.camera_to_world)[:3, 2] for camera in cameras])
    projectors = (
        np.eye(3) - viewing_axes[:, :, None] * viewing_axes[:, None, :]
    )  # onto the plane across each viewing axis
    place = np.linalg.lstsq(projectors.sum(axis=0), np.einsum("nij,nj->i", projectors, positions), rcond=None)[0]
    ahead = np.einsum("nk,nk->n", place - positions, viewing_axes)
    distance_beside = np.linalg.norm(np.einsum("nij,nj->ni", projectors, place - positions), axis=1)
    camera_spread = float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).mean())
    return bool((ahead > camera_spread / 8).all() and (distance_beside < ahead / 8).all())


def duplicate_cameras(cameras: list[Camera]) -> list[tuple[str, str]]:
    """Names of pairs of views with the same camera."""
    pairs = [(a, b) for i, a in enumerate(cameras) for b in cameras[i + 1 :]]
    return [(a.name, b.name) for a, b in pairs if np.allclose(a.camera_to_world, b.camera_to_world, rtol=1e-9, atol=0)]
