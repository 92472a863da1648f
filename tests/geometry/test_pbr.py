"""Light and material."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steps.compute.arrays import Array
from steps.geometry import pbr
from steps.geometry.pbr import WHITE, harmonics, shade

N = 500


def directions(seed: int, count: int = N) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def points(seed: int = 0) -> dict[str, Array]:
    rng, normal = np.random.default_rng(seed), directions(seed)
    view = normal + 0.8 * directions(seed + 1)
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    return {
        "base": rng.random((N, 3)),
        "roughness": rng.uniform(0.1, 1, (N, 1)),
        "metalness": rng.random((N, 1)),
        "normal": normal,
        "view": view,
    }


def test_white_light_leaves_a_matt_surface_its_colour() -> None:
    at = points()
    at["metalness"] *= 0
    assert shade(**at, specular=0.0, light=WHITE, xp=np) == pytest.approx(at["base"], abs=1e-6)


def test_numpy_and_torch_agree() -> None:
    at, light = points(), WHITE + 0.2 * np.random.default_rng(3).normal(size=(9, 3))
    expected = shade(**at, specular=0.7, light=light, xp=np)
    tensors = {name: torch.from_numpy(array) for name, array in at.items()}
    shaded = shade(**tensors, specular=0.7, light=torch.from_numpy(light), xp=torch)
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
    at = points()
    at["base"][:] = 1.0
    assert shade(**at, specular=1.0, light=WHITE, xp=np).max() < 1.03  # the fitted BRDF's own error


def test_gradients_are_central_differences() -> None:
    at = {name: torch.from_numpy(array[:20]) for name, array in points().items()}
    light = torch.from_numpy(WHITE.astype(np.float64)) + 0.1
    inputs = [at[k].clone().requires_grad_(k != "view") for k in ("base", "roughness", "metalness", "normal", "view")]
    inputs += [torch.tensor(0.5, dtype=torch.float64, requires_grad=True), light.requires_grad_(True)]
    assert torch.autograd.gradcheck(lambda *a: shade(*a, xp=torch), inputs, atol=1e-5)
