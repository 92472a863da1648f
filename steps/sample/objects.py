"""The sample objects: signed distance functions and solid textures, so that geometry and colours are known everywhere.

A shape maps points (n, 3) to signed distances (n,), negative inside; a paint maps points (n, 3) to colours (n, 3).
Objects stand y up, face +z, and are later scaled into the unit sphere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steps.compute.arrays import Array

Field = Callable[[Array], Array]


@dataclass(frozen=True)
class SampleObject:
    """A shape, its paint, and one line that says what it is good for."""

    shape: Field
    paint: Field
    about: str


# -- shapes (distance functions after Inigo Quilez's catalogue) ---------------------------------------------------------


def _ellipsoid(p: Array, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    q = p - np.array(centre)
    k0 = np.linalg.norm(q / radii, axis=1)
    k1 = np.linalg.norm(q / np.square(radii), axis=1)
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)


def _torus(p: Array, major: float, minor: float) -> Array:
    """A ring around the y axis."""
    return np.hypot(np.hypot(p[:, 0], p[:, 2]) - major, p[:, 1]) - minor


def _cylinder(p: Array, radius: float, half_height: float, rounding: float = 0.0) -> Array:
    d = np.stack([np.hypot(p[:, 0], p[:, 2]) - radius + rounding, np.abs(p[:, 1]) - half_height + rounding], axis=1)
    return np.minimum(d.max(axis=1), 0.0) + np.linalg.norm(np.maximum(d, 0.0), axis=1) - rounding


def _box(
    p: Array, centre: tuple[float, float, float], half: tuple[float, float, float], rounding: float = 0.0
) -> Array:
    d = np.abs(p - np.array(centre)) - np.array(half) + rounding
    return np.minimum(d.max(axis=1), 0.0) + np.linalg.norm(np.maximum(d, 0.0), axis=1) - rounding


def _smooth_union(a: Array, b: Array, k: float) -> Array:
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0.0, 1.0)
    return b + (a - b) * h - k * h * (1.0 - h)


def _mug(p: Array) -> Array:
    handle = _torus((p - np.array([0.62, 0.0, 0.0]))[:, [0, 2, 1]] / np.array([0.8, 1.0, 1.0]), 0.36, 0.085) * 0.85
    outside = _smooth_union(_cylinder(p, 0.6, 0.7, 0.08), handle, 0.06)
    hollow = _cylinder(p - np.array([0.0, 0.18, 0.0]), 0.49, 0.72, 0.1)
    return np.maximum(outside, -hollow)


def _donut(p: Array) -> Array:
    angle = np.arctan2(p[:, 2], p[:, 0])
    bumps = 0.02 * np.sin(5 * angle) * np.cos(3 * np.arctan2(p[:, 1], np.hypot(p[:, 0], p[:, 2]) - 0.62))
    return (_torus(p, 0.62, 0.3) - bumps) * 0.9


def _duck(p: Array) -> Array:
    body = _ellipsoid(p, (0.0, -0.25, -0.1), (0.5, 0.38, 0.66))
    tail = _ellipsoid(p, (0.0, 0.02, -0.66), (0.2, 0.16, 0.22))
    head = _ellipsoid(p, (0.0, 0.4, 0.36), (0.33, 0.32, 0.33))
    beak = _ellipsoid(p, (0.0, 0.32, 0.72), (0.17, 0.06, 0.16))
    wings = np.minimum(
        _ellipsoid(p, (0.47, -0.2, -0.15), (0.1, 0.2, 0.34)), _ellipsoid(p, (-0.47, -0.2, -0.15), (0.1, 0.2, 0.34))
    )
    figure = _smooth_union(_smooth_union(body, tail, 0.18), head, 0.16)
    return _smooth_union(_smooth_union(figure, wings, 0.05), beak, 0.05)


def _bowl(p: Array) -> Array:
    shell = np.abs(np.linalg.norm(p - np.array([0.0, 0.45, 0.0]), axis=1) - 0.85) - 0.06
    cut = np.maximum(shell, p[:, 1] - 0.3)
    foot = _cylinder(p - np.array([0.0, -0.45, 0.0]), 0.34, 0.08, 0.03)
    return _smooth_union(cut, foot, 0.05)


def _house(p: Array) -> Array:
    walls = _box(p, (0.0, -0.3, 0.0), (0.55, 0.4, 0.42), 0.02)
    slope = (np.abs(p[:, 0]) * 0.66 + (p[:, 1] - 0.62) * 0.75) * 0.98
    roof = np.maximum(slope, np.maximum(-0.02 - p[:, 1] - 0.05, np.abs(p[:, 2]) - 0.52))
    chimney = _box(p, (0.3, 0.4, -0.15), (0.09, 0.28, 0.09), 0.01)
    door = _box(p, (-0.2, -0.42, 0.45), (0.12, 0.24, 0.06))
    return np.minimum(np.maximum(np.minimum(walls, roof), -door), chimney)


# -- paints -------------------------------------------------------------------------------------------------------------


def _mix(a: tuple[float, float, float], b: tuple[float, float, float], t: Array) -> Array:
    return np.asarray(a) * (1.0 - t[:, None]) + np.asarray(b) * t[:, None]


def _step(x: Array, softness: float = 0.012) -> Array:
    """A soft edge: 0 where x is well below 0, 1 well above."""
    return np.clip(x / softness * 0.5 + 0.5, 0.0, 1.0)


def _noise(p: Array, frequency: float) -> Array:
    """A smooth, repeatable pattern in [0, 1] made of a few plane waves."""
    waves = np.random.default_rng(7).normal(size=(10, 3))
    phases = np.arange(10) * 2.4
    return 0.5 + 0.5 * np.sin(p @ waves.T * frequency + phases).mean(axis=1) * 2.2


def _mug_paint(p: Array) -> Array:
    angle = np.arctan2(p[:, 0], p[:, 2])
    stripes = _step(np.sin(angle * 9 + 3.0 * np.sin(p[:, 1] * 6)), 0.15)
    band = _step(0.42 - np.abs(p[:, 1])) * _step(np.hypot(p[:, 0], p[:, 2]) - 0.55)
    body = _mix((0.93, 0.9, 0.84), (0.16, 0.42, 0.62), stripes * band)
    speckle = _step(_noise(p, 26.0) - 0.83, 0.05)
    return body * (1.0 - 0.35 * speckle[:, None])


def _donut_paint(p: Array) -> Array:
    dough = _mix((0.8, 0.58, 0.33), (0.64, 0.41, 0.2), np.clip(_noise(p, 9.0), 0, 1))
    angle = np.arctan2(p[:, 2], p[:, 0])
    icing = _step(p[:, 1] - 0.02 - 0.05 * np.sin(angle * 7) - 0.03 * np.cos(angle * 3), 0.02)
    sprinkles = _step(_noise(p, 31.0) - 0.8, 0.06)
    sugar = _mix((0.86, 0.35, 0.52), (0.98, 0.93, 0.6), sprinkles)
    return dough * (1 - icing[:, None]) + sugar * icing[:, None]


def _duck_paint(p: Array) -> Array:
    yellow = _mix((0.97, 0.8, 0.2), (0.9, 0.62, 0.12), np.clip(_noise(p, 7.0), 0, 1))
    feathers = _step(np.sin(p[:, 2] * 30 + 4 * np.cos(p[:, 1] * 14)), 0.4) * _step(np.abs(p[:, 0]) - 0.44, 0.03)
    colour = yellow * (1 - 0.3 * feathers[:, None])
    beak = _step(p[:, 2] - 0.64, 0.02)[:, None] * _step(0.41 - p[:, 1], 0.02)[:, None]
    colour = colour * (1 - beak) + np.array([0.88, 0.36, 0.1]) * beak
    eyes = np.minimum(*(np.linalg.norm(p - np.array([x, 0.5, 0.62]), axis=1) for x in (0.16, -0.16)))
    eye, pupil = _step(0.085 - eyes)[:, None], _step(0.05 - eyes)[:, None]
    return (colour * (1 - eye) + 0.96 * eye) * (1 - pupil) + 0.06 * pupil


def _bowl_paint(p: Array) -> Array:
    radius = np.hypot(p[:, 0], p[:, 2])
    angle = np.arctan2(p[:, 2], p[:, 0])
    petals = _step(np.sin(angle * 8) * 0.12 + 0.38 - radius) * _step(radius - 0.16)
    glaze = _mix((0.87, 0.9, 0.88), (0.66, 0.77, 0.74), np.clip(_noise(p, 6.0), 0, 1))
    inside = _step(0.85 - np.linalg.norm(p - np.array([0.0, 0.45, 0.0]), axis=1), 0.02)
    rim = _step(p[:, 1] - 0.24, 0.02)
    colour = glaze + (np.array([0.2, 0.3, 0.58]) - glaze) * (petals * inside)[:, None]
    rings = _step(np.sin(p[:, 1] * 46), 0.5) * (1 - inside)
    colour = colour * (1 - 0.35 * rings[:, None])
    return colour * (1 - rim[:, None]) + np.array([0.47, 0.27, 0.15]) * rim[:, None]


def _house_paint(p: Array) -> Array:
    row = np.floor(p[:, 1] / 0.09)
    along = np.where(np.abs(p[:, 2]) > 0.415, p[:, 0], p[:, 2]) + row * 0.09
    mortar = np.minimum(np.abs((p[:, 1] / 0.09) % 1 - 0.5), np.abs((along / 0.18) % 1 - 0.5) * 2)
    bricks = _mix((0.62, 0.28, 0.2), (0.5, 0.2, 0.15), np.clip(_noise(p, 12.0), 0, 1))
    wall = bricks + (np.array([0.8, 0.77, 0.72]) - bricks) * _step(mortar - 0.42, 0.05)[:, None]
    tiles = _mix(
        (0.28, 0.3, 0.36), (0.4, 0.42, 0.47), _step(np.sin(p[:, 1] * 60) * 0.5 + np.sin(p[:, 2] * 40) * 0.5, 0.6)
    )
    under_roof = _step(0.02 + p[:, 1], 0.01) * _step(np.abs(p[:, 0]) * 0.66 + (p[:, 1] - 0.62) * 0.75 + 0.03, 0.02)
    chimney = (np.abs(p[:, 0] - 0.3) < 0.095) & (np.abs(p[:, 2] + 0.15) < 0.095)
    roof = (under_roof * ~chimney)[:, None]
    colour = wall * (1 - roof) + tiles * roof
    door = ((np.abs(p[:, 0] + 0.2) < 0.125) & (p[:, 1] < -0.17) & (p[:, 2] > 0.3) & (p[:, 2] < 0.415))[:, None]
    window = (np.maximum(np.abs(p[:, 0] - 0.22), np.abs(p[:, 1] + 0.3)) < 0.13)[:, None] & (np.abs(p[:, 2]) > 0.4)[
        :, None
    ]
    panes = np.where(
        np.minimum(np.abs(p[:, 0] - 0.22), np.abs(p[:, 1] + 0.3))[:, None] < 0.012, 0.92, [0.55, 0.72, 0.82]
    )
    colour = np.where(window, panes, colour)
    return np.where(door, [0.25, 0.42, 0.3], colour)


OBJECTS = {
    "mug": SampleObject(_mug, _mug_paint, "a hollow (concavity) and a handle (hole)"),
    "donut": SampleObject(_donut, _donut_paint, "a hole, smooth"),
    "duck": SampleObject(_duck, _duck_paint, "a blobby figure without symmetry front to back"),
    "bowl": SampleObject(_bowl, _bowl_paint, "a deep concavity with a thin wall"),
    "house": SampleObject(_house, _house_paint, "flat walls and sharp edges"),
}


def shaded(paint: Array, normals: Array) -> Array:
    """Paint (n, 3) under soft light from above that is baked in, as in a product photo whose light does not move with the
    camera. normals: (n, 3). Returns (n, 3) float in [0, 1], sRGB."""
    light = 0.86 + 0.14 * normals[:, 1] + 0.04 * normals[:, 0]
    return np.clip(paint, 0.0, 1.0) * light[:, None].clip(0.0, 1.0)
