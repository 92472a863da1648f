"""Physically based shading: glTF's metallic-roughness material under distant light in spherical harmonics. The same code runs on
arrays (`xp` is numpy, for CuPy's as well) and torch tensors.

The light is nine coefficients per channel (l <= 2) rather than a filtered environment map with split sums: irradiance from
distant light lies in them to within 1 % (Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment
maps", 2001), and six views of a mostly matt object cannot tell a sharper one; 27 numbers cannot hide the object's own
colours, as a map could. Mirror-like reflections of a sharp environment are beyond it.

Light's coefficients are those of the radiance over that of white light, so that WHITE leaves a matt base colour as it is.
Colours are sRGB-encoded outside and linear inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from steps.compute.arrays import Array
from steps.compute.device import beside, to_device

Values = Any  # an array or a tensor
WHITE = np.concatenate([np.ones((1, 3)), np.zeros((8, 3))]).astype(np.float32)
LAMBERT = (1.0, 2.0 / 3.0, 0.25)  # what a cosine lobe leaves of each band, over its share of band 0
BANDS = (0, 1, 1, 1, 2, 2, 2, 2, 2)
DIELECTRIC = 0.04  # reflectance of a dielectric seen head on, at specular 1


@dataclass(frozen=True)
class Material:
    """Material parameters beside the base colour. orm: [S, S, 3] float32 (occlusion, unused and 1; roughness; metalness);
    normal: [S, S, 3] float32 in [0, 1], tangent space, green towards larger v; tangents: (n, 4) float32 per vertex, w the
    bitangent's sign; specular: strength of dielectric reflections (KHR_materials_specular); light: (9, 3) float32."""

    orm: Array
    normal: Array
    tangents: Array
    specular: float
    light: Array

    @property
    def is_plain(self) -> bool:
        """Whether shading leaves the base colour unchanged in all directions."""
        return (
            self.specular == 0
            and bool((self.light == beside(WHITE, self.light)).all())
            and bool((self.orm[..., 2] == 0).all())
        )

    def on(self, device: str) -> Material:
        """The material on `cpu` or `cuda`."""
        orm, normal, tangents, light = (
            to_device(a, device) for a in (self.orm, self.normal, self.tangents, self.light)
        )
        return Material(orm, normal, tangents, self.specular, light)


class MetallicRoughness(NamedTuple):
    """glTF's metallic-roughness model at surface points. base: (n, 3) sRGB; roughness, metalness: (n, 1); specular: number,
    strength of dielectric reflections."""

    base: Values
    roughness: Values
    metalness: Values
    specular: Values


def to_linear(colour: Values, xp: Any) -> Values:
    """sRGB-encoded to linear (IEC 61966-2-1)."""
    return xp.where(colour <= 0.04045, colour / 12.92, ((xp.clip(colour, 0.0, None) + 0.055) / 1.055) ** 2.4)


def to_srgb(colour: Values, xp: Any) -> Values:
    """Linear to sRGB-encoded."""
    return xp.where(colour <= 0.0031308, colour * 12.92, 1.055 * xp.clip(colour, 1e-6, None) ** (1 / 2.4) - 0.055)


def harmonics(direction: Values, xp: Any) -> Values:
    """The nine real spherical harmonics of unit vectors (n, 3), over the constant one: (n, 9)."""
    x, y, z = direction[:, 0], direction[:, 1], direction[:, 2]
    a, b = 3**0.5, 15**0.5
    one = xp.ones_like(x)
    bands = [
        one,
        a * y,
        a * z,
        a * x,
        b * x * y,
        b * y * z,
        5**0.5 / 2 * (3 * z * z - 1),
        b * x * z,
        b / 2 * (x * x - y * y),
    ]
    return xp.stack(bands, -1)


def shade(surface: MetallicRoughness, normal: Values, view: Values, light: Values, xp: Any) -> Values:
    """sRGB colours (n, 3) of surface points. normal: unit, (n, 3); view: unit, towards the camera, (n, 3); light: (9, 3).

    Reflections take the light blurred by a Gaussian lobe as wide as GGX's, and the environment's share of the BRDF as
    Karis fitted it ("Physically based shading on mobile", 2014)."""
    base, roughness, metalness, specular = surface
    cosine = xp.clip((normal * view).sum(-1)[:, None], 1e-3, 1.0)
    mirrored = 2.0 * cosine * normal - view
    albedo = to_linear(base, xp)
    head_on = DIELECTRIC * specular * (1.0 - metalness) + albedo * metalness
    grazing = specular * (1.0 - metalness) + metalness
    scale, bias = _environment(roughness, cosine, xp)
    diffuse = (harmonics(normal, xp) * _bands(LAMBERT, normal, xp)) @ light
    lobe = roughness**2  # GGX's alpha
    band = _bands((0.0, 1.0, 3.0), normal, xp)  # l (l + 1) / 2
    reflected = (harmonics(mirrored, xp) * xp.exp(-band * lobe)) @ light
    linear = albedo * (1.0 - metalness) * diffuse + (head_on * scale + grazing * bias) * reflected
    return to_srgb(xp.clip(linear, 0.0, None), xp)


def _bands(per_band: tuple[float, float, float], like: Values, xp: Any) -> Values:
    """One factor for each of the nine harmonics."""
    factors = [per_band[band] for band in BANDS]
    return (
        beside(np.array(factors, np.float32), like)
        if xp is np
        else xp.tensor(factors, dtype=like.dtype, device=like.device)
    )


def _environment(roughness: Values, cosine: Values, xp: Any) -> tuple[Values, Values]:
    """Scale and bias of the reflectance head on."""
    x, y, z, w = 1.0 - roughness, 0.0425 - 0.0275 * roughness, 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04
    power = xp.exp(-9.28 * float(np.log(2)) * cosine)
    least = xp.where(x * x < power, x * x, power) * x + y
    return -1.04 * least + z, 1.04 * least + w


def tangents_of(vertices: Array, faces: Array, uv: Array, normals: Array) -> Array:
    """Unit tangents (n, 4) along growing u, orthogonal to the normals, w the sign of the bitangent w * cross(normal, tangent)."""
    p, t = vertices[faces], uv[faces].astype(np.float64)
    e1, e2, d1, d2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0], t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    area = (d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0])[:, None]
    safe = np.where(np.abs(area) < 1e-14, np.inf, area)
    along_u = (e1 * d2[:, 1:] - e2 * d1[:, 1:]) / safe * np.abs(area)
    along_v = (e2 * d1[:, :1] - e1 * d2[:, :1]) / safe * np.abs(area)
    u, v = (_scatter_add(x, faces, len(vertices)) for x in (along_u, along_v))
    u = u - normals * (u * normals).sum(axis=1, keepdims=True)
    some = np.cross(normals, np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]]))
    u = np.where(np.linalg.norm(u, axis=1, keepdims=True) > 1e-12, u, some)
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    sign = np.where((np.cross(normals, u) * v).sum(axis=1) < 0, -1.0, 1.0)
    return np.concatenate([u, sign[:, None]], axis=1).astype(np.float32)


def _scatter_add(values: Array, faces: Array, count: int) -> Array:
    """The sum at each vertex of its faces' values (m, 3)."""
    return np.stack([np.bincount(faces.ravel(), np.repeat(values[:, k], 3), count) for k in range(3)], axis=1)
