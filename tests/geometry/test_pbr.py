"""Light and material."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from steps.compute.arrays import Array
from steps.geometry import pbr
from steps.geometry.pbr import WHITE, MetallicRoughness, harmonics, shade

N = 500


def directions(seed: int, count: int = N) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Points(NamedTuple):
    surface: MetallicRoughness
    normal: Array
    view: Array


def points(specular: float, seed: int = 0) -> Points:
    rng, normal = np.random.default_rng(seed), directions(seed)
    view = normal + 0.8 * directions(seed + 1)
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    base, roughness, metalness = rng.random((N, 3)), rng.uniform(0.1, 1, (N, 1)), rng.random((N, 1))
    return Points(MetallicRoughness(base, roughness, metalness, specular), normal, view)


def test_white_light_leaves_a_matt_surface_its_colour() -> None:
    at = points(specular=0.0)
    at.surface.metalness[:] = 0
    assert shade(*at, WHITE, np) == pytest.approx(at.surface.base, abs=1e-6)


def test_numpy_and_torch_agree() -> None:
    at, light = points(specular=0.7), WHITE + 0.2 * np.random.default_rng(3).normal(size=(9, 3))
    expected = shade(*at, light, np)
    *arrays, specular = at.surface
    surface = MetallicRoughness(*(torch.from_numpy(array) for array in arrays), specular)
    normal, view, light = (torch.from_numpy(array) for array in (at.normal, at.view, light))
    shaded = shade(surface, normal, view, light, torch)
    assert shaded.numpy() == pytest.approx(expected, abs=1e-6)


def test_the_harmonics_are_orthonormal() -> None:
    values = harmonics(directions(5, 400_000), np)
    assert values.T @ values / len(values) == pytest.approx(np.eye(9), abs=0.02)


def test_irradiance_is_the_cosine_weighted_mean_of_the_radiance() -> None:
    """Against the integral over the hemisphere, by sampling."""
    light = WHITE + 0.3 * np.random.default_rng(4).normal(size=(9, 3)) * (np.arange(9) > 0)[:, None]
    light[:, 1:] = light[:, :1]
    around = directions(6, 400_000)
    normal = directions(7, 1)
    cosine = np.clip(around @ normal[0], 0, None)
    radiance = harmonics(around, np) @ light
    expected = (radiance * cosine[:, None]).sum(axis=0) / cosine.sum()
    band = np.array([pbr.LAMBERT[b] for b in pbr.BANDS])
    assert (harmonics(normal, np) * band @ light)[0] == pytest.approx(expected, abs=0.01)


def test_no_surface_sends_back_more_white_light_than_falls_on_it() -> None:
    at = points(specular=1.0)
    at.surface.base[:] = 1.0
    assert shade(*at, WHITE, np).max() < 1.03  # the fitted BRDF's own error


def test_gradients_are_central_differences() -> None:
    at = points(specular=0.5)
    *arrays, specular = at.surface
    inputs = [torch.from_numpy(array[:20]).requires_grad_(True) for array in (*arrays, at.normal)]
    inputs += [torch.tensor(specular, dtype=torch.float64, requires_grad=True)]
    inputs += [(torch.from_numpy(WHITE.astype(np.float64)) + 0.1).requires_grad_(True)]
    view = torch.from_numpy(at.view[:20])

    def shaded(base: Any, roughness: Any, metalness: Any, normal: Any, specular: Any, light: Any) -> Any:
        return shade(MetallicRoughness(base, roughness, metalness, specular), normal, view, light, torch)

    assert torch.autograd.gradcheck(shaded, inputs, atol=1e-5)
