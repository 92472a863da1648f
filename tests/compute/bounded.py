"""Every kernel over degenerate meshes and cameras, for a process in which numba checks bounds: see test_bounds."""

from __future__ import annotations

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import trimesh
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from scipy.spatial.transform import Rotation

from steps import calibration, compute, fusion, geometry, raster, registration, texturing
from steps.calibration import observations, rig_model, rig_residuals, solver
from steps.compute import kernels
from steps.compute.arrays import Array
from steps.fusion import isosurface, signed_field, thin_parts
from steps.fusion.marching_tetrahedra import march
from steps.geometry import collapse, crossings, depth_ops
from steps.geometry.cameras import Camera
from steps.geometry.uv_mesh import UvMesh
from steps.raster import antialias, interpolate, rasterize, render, texture
from steps.registration.global_icp import Similarity
from steps.registration.pointcloud import RegistrationView
from steps.registration.refine import NormalEquations
from steps.runtime.errors import StepError
from steps.texturing import bake

LAYERS = (calibration, compute, fusion, geometry, raster, registration, texturing)
NOT_NUMBERS = np.array([np.nan, np.inf, -np.inf])
SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (17, 9), (4096, 2), (3, 4096)]
HARDLY_DRAWN = (4, 3)  # the picture of cases that are not about its size

SETTINGS = hypothesis.settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
seeds = st.integers(0, 2**32 - 1)
exponents = st.integers(-12, 12)
few = st.integers(0, 3)


def spoilt(random: np.random.Generator, values: Array, count: int) -> Array:
    """`values` with `count` of them at random replaced by NaN or infinity."""
    out = np.array(values)
    if out.size:
        out.reshape(-1)[random.integers(0, out.size, count)] = random.choice(NOT_NUMBERS, count)
    return out


@st.composite
def meshes(draw: st.DrawFn) -> tuple[Array, Array, np.random.Generator]:
    """Vertices, faces, and a random generator: no face, one, many; without area; as small and as large as float64 allows; with
    non-finite vertices, or all at the origin."""
    random = np.random.default_rng(draw(seeds))
    vertices = random.normal(size=(draw(st.integers(3, 9)), 3)) * 10.0 ** draw(exponents)
    faces = random.integers(0, len(vertices), (draw(st.sampled_from([0, 1, 2, 12])), 3)).astype(np.int32)
    if draw(st.booleans()):
        vertices[random.integers(0, len(vertices))] = 0
    return spoilt(random, vertices, draw(few)), faces, random


@st.composite
def cameras(draw: st.DrawFn, sizes: list[tuple[int, int]] = SIZES) -> Camera:
    """Cameras at random positions, with the meshes in front, behind, and around them."""
    random = np.random.default_rng(draw(seeds))
    width, height = draw(st.sampled_from(sizes))
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=int(random.integers(1 << 30))).as_matrix()
    pose[:3, 3] = random.normal(size=3) * 10.0 ** draw(exponents)
    focal = max(width, height) * 10.0 ** draw(st.integers(-2, 3))
    return Camera("test", pose, focal, focal, width / 2, height / 2, width, height)


def case(strategy: dict[str, Any], examples: int = 50) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A case: the function over this many hypothesis examples. Documented exceptions pass, IndexError fails."""

    def made(function: Callable[..., None]) -> Callable[[], None]:
        def tried(**given: Any) -> None:
            with np.errstate(all="ignore"):
                try:
                    function(**given)
                except (ValueError, StepError):
                    pass

        CASES[function.__name__] = hypothesis.settings(SETTINGS, max_examples=examples)(
            hypothesis.given(**strategy)(tried)
        )
        return CASES[function.__name__]

    return made


CASES: dict[str, Callable[[], None]] = {}
MESH_AND_CAMERA = {"mesh": meshes(), "camera": cameras()}
MESH = {"mesh": meshes(), "camera": cameras([HARDLY_DRAWN])}


@case({**MESH_AND_CAMERA, "side": st.sampled_from([1, 2, 5]), "bad": few}, 120)
def rasterized(mesh: Any, camera: Camera, side: int, bad: int) -> None:
    vertices, faces, random = mesh
    fragments = rasterize.rasterize(vertices, faces, camera)
    assert fragments.face.min() >= -1 and fragments.face.max() < len(faces)
    assert np.isfinite(fragments.bary).all()
    uv = spoilt(random, random.normal(size=(len(vertices), 2)), bad).astype(np.float32)
    picture = render.shade(fragments, faces, uv, random.random((side, 3, 3)))
    assert np.isfinite(picture).all()
    render.wireframe(vertices, faces, camera, 1)


@case({"mesh": meshes(), "size": st.sampled_from(SIZES), "bad": few}, 120)
def differentiated(mesh: Any, size: tuple[int, int], bad: int) -> None:
    vertices, faces, random = mesh
    w = random.normal(size=(len(vertices), 1)) + random.integers(-1, 3)
    corners = np.concatenate([vertices[:, :2], vertices[:, 2:], w], axis=1)
    fragments = rasterize.rasterize_homogeneous(corners, faces, *size)
    differentiate(random, corners, faces, rasterize.pack_fragments(fragments), bad)


@case({"mesh": meshes(), "bad": st.integers(0, 12)})
def differentiated_from_damaged_fragments(mesh: Any, bad: int) -> None:
    vertices, faces, random = mesh
    corners = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
    rast = random.normal(size=(3, 4, 4)) * 10.0 ** random.integers(0, 12, (3, 4, 4))
    differentiate(random, corners, faces, spoilt(random, rast, bad).astype(np.float32), bad)


def differentiate(random: np.random.Generator, corners: Array, faces: Array, rast: Array, bad: int) -> None:
    gradient = spoilt(random, random.normal(size=rast.shape), bad).astype(np.float32)
    bary_derivatives = rasterize.derivatives(corners, faces, rast)
    rasterize.rasterize_backward(corners, faces, rast, gradient)
    attributes = spoilt(random, random.normal(size=(len(corners), 4)), bad).astype(np.float32)
    image = interpolate.interpolate(attributes, faces, rast)
    interpolate.interpolate_backward(attributes, faces, rast, gradient)
    interpolate.screen_derivatives(attributes, faces, rast, bary_derivatives)
    edges = antialias.edges_of(faces)
    edge_hits = antialias.find_edge_hits(corners, edges, rast)
    antialias.antialias(image, corners, edges, edge_hits)
    antialias.antialias_backward(image, corners, edges, edge_hits, gradient)


@case(
    {
        "seed": seeds,
        "scale": exponents,
        "bad": few,
        "mode": st.sampled_from(range(4)),
        "boundary": st.sampled_from(range(3)),
    },
    120,
)
def textured(seed: int, scale: int, bad: int, mode: int, boundary: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [(1, 1), (4, 2), (3, 5)][: int(random.integers(1, 4))]
    firsts = np.cumsum([0] + [h * w for h, w in sizes])
    table = np.array([[first, *size] for first, size in zip(firsts, sizes, strict=False)], np.int64)
    texels = random.random((firsts[-1], 3)).astype(np.float32)
    uv = spoilt(random, random.normal(size=(3, 4, 2)) * 10.0**scale, bad).astype(np.float32)
    level = spoilt(random, random.normal(size=(3, 4)) * 4, bad).astype(np.float32)
    gradient = random.normal(size=(3, 4, 3)).astype(np.float32)
    texture.lookup(texels, table, uv, level, mode, boundary)
    texture.lookup_backward(texels, table, uv, level, mode, boundary, gradient)


@case({**MESH, "size": st.sampled_from([(1, 1), (1, 3), (4, 4)]), "bad": few})
def baked(mesh: Any, camera: Camera, size: tuple[int, int], bad: int) -> None:
    vertices, faces, random = mesh
    photo_camera = camera.resized(size[1], size[0])
    photo = bake.Photo(
        photo_camera, random.random((*size, 3)).astype(np.float32), random.random(size).astype(np.float32)
    )
    uv = spoilt(random, random.random((len(vertices), 2)), bad).astype(np.float32)
    normals = random.normal(size=vertices.shape) * random.integers(0, 2, (len(vertices), 1))
    at = bake.texel_fragments(faces, uv, 8)
    bands, weight = np.zeros((8, 8, 6), np.float32), np.zeros((8, 8, 2), np.float32)
    seen, confidence = (spoilt(random, random.random(size) * 3, bad).astype(np.float32) for _ in range(2))
    surface = UvMesh(vertices, faces, uv, normals)
    seen_photo = bake.SeenPhoto(photo_camera, random.random((*size, 6)).astype(np.float32), seen, confidence)
    bake._add_photo(seen_photo, at, surface, bake.ROUGH, bake.Sums(bands, weight))
    bake.bake(surface, [photo], 8)


@case({"camera": cameras([(1, 1), (1, 4), (5, 3)]), "seed": seeds, "scale": exponents, "bad": few})
def fused(camera: Camera, seed: int, scale: int, bad: int) -> None:
    random = np.random.default_rng(seed)
    shape = camera.height, camera.width
    seen, step = (spoilt(random, random.normal(size=shape) * 10.0**scale, bad).astype(np.float32) for _ in range(2))
    depth_ops.dequantize(seen, step, 2)
    depth_ops.inpaint_depth(seen, random.random(shape) < 0.5)
    depth_ops.tangent_planes(seen, camera)
    view = signed_field.DepthView(camera, seen, random.random(shape).astype(np.float32), step)
    grid = signed_field.Grid(spoilt(random, random.normal(size=3), bad), 10.0**scale, (3, 2, 4))
    for band in (0.0, 3.0):
        signed_field.signed_field([view, view], grid, band)
    signed_field.grid_around([view], 16)


@case({**MESH, "scale": exponents, "bad": few})
def registered(mesh: Any, camera: Camera, scale: int, bad: int) -> None:
    points, _, random = mesh
    shape = camera.height, camera.width
    seen = spoilt(random, random.normal(size=shape) * 10.0**scale, bad)
    view = RegistrationView(camera, seen, random.random((*shape, 3)))
    normals = random.normal(size=points.shape)
    view.sample_colours(points, normals, 1e9)
    view.point_to_plane(points, 1e9)
    equations = NormalEquations(np.zeros(3), 1.0)
    equations.add(points, normals, points[:, 0], np.ones(len(points)))
    equations.solve(Similarity(1.0, np.eye(3), np.zeros(3)))


@case(
    {
        "seed": seeds,
        "cells": st.sampled_from([1, 2, 5]),
        "scale": st.integers(-12, 3),
        "bad": few,
        "encoding": st.integers(0, 3),
    }
)
def rigged(seed: int, cells: int, scale: int, bad: int, encoding: int) -> None:
    random = np.random.default_rng(seed)
    points, extreme_points = (spoilt(random, random.normal(size=(6, n, 5)), bad) for n in (4, 2))
    maps = [spoilt(random, random.normal(size=(6, cells, cells)), bad).astype(np.float32) for _ in range(3)]
    extent = random.normal(size=(6, observations.DIRECTIONS))
    observed = observations.Observations(points, *maps, extent, [], 0.01, extreme_points=extreme_points)
    axes = Rotation.random(6, random_state=seed).as_matrix()
    model = rig_model.EncodingModel(encoding & 1, encoding >> 1)
    params = random.normal(size=rig_model.SHARED + 6 * rig_model.PER_VIEW) * 10.0**scale
    params[rig_model.CURVE] = (
        (0.0, 0.0, 0.0) if seed % 2 else (3 * random.normal(), 0.1, 0.1)
    )  # others do not rise, and are left
    params = spoilt(random, params, bad)
    used = random.random(6) < 0.8
    rig_residuals.cross_view_projections(observed, axes, model, params)
    problem = solver.Problem(observed, axes, model, used, np.ones(len(params), bool), tolerance=solver.FINEST)
    state = problem.evaluate(params)
    if len(state.world_points):  # else the curve does not rise
        problem.jacobian(params, state)


@case({"seed": seeds, "shape": st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), "bad": few})
def shelled(seed: int, shape: tuple[int, int, int], bad: int) -> None:
    random = np.random.default_rng(seed)
    points = spoilt(random, random.normal(2, 4, (9, 3)), bad).astype(np.float32)
    thin_parts._carve_balls(points, thin_parts.RADIUS, np.zeros(shape, np.float32))


@case({"mesh": meshes(), "bad": few})
def smoothed(mesh: Any, bad: int) -> None:
    vertices, faces, random = mesh
    isosurface.taubin(spoilt(random, vertices, bad), faces, 2)


@case({"seed": seeds, "shape": st.tuples(*[st.integers(1, 4)] * 3), "more": st.integers(-1, 1)})
def marched(seed: int, shape: tuple[int, int, int], more: int) -> None:
    count = int(np.prod(shape)) + more
    march(np.random.default_rng(seed).random(count) < 0.5, shape)


@case({**MESH, "bad": few})
def crossed(mesh: Any, camera: Camera, bad: int) -> None:
    vertices, faces, random = mesh
    crossings.crossing_faces(vertices, faces)
    crossings.resolve_crossings(spoilt(random, vertices, bad), faces, vertices)


@case({"seed": seeds, "scale": exponents, "rough": st.sampled_from([0.0, 0.05, 1.0]), "target": st.integers(0, 60)})
def reduced(seed: int, scale: int, rough: float, target: int) -> None:
    """A ball, more or less crumpled, some corners together; with and without asking at each collapse for faces that cross."""
    random = np.random.default_rng(seed)
    ball = trimesh.creation.icosphere(1)
    vertices = (ball.vertices + rough * random.normal(size=ball.vertices.shape)) * 10.0**scale
    vertices[random.integers(0, len(vertices), 3)] = vertices[0]
    collapse.decimate_safely(vertices, ball.faces, target)
    for watched in (random.random(len(vertices)) < 0.5, np.ones(len(vertices), bool)):
        collapse._reduce(collapse._half_edges(vertices, ball.faces), target, watched)


def modules() -> list[Any]:
    """All modules with array code, except those that need a GPU or torch: see `test_cuda`."""
    names = [m.name for layer in LAYERS for m in pkgutil.iter_modules(layer.__path__, f"{layer.__name__}.")]
    return [importlib.import_module(n) for n in names if n.rpartition(".")[2] not in ("cuda", "keys", "torch_ops")]


def every_kernel() -> dict[str, Dispatcher]:
    """Name -> kernel, for the kernels that these modules define."""
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
    }


def calls(kernel: Dispatcher) -> set[Dispatcher]:
    """The kernel and all kernels that it calls, directly or not."""
    fragments, waiting = set(), [kernel]
    while waiting:
        one = waiting.pop()
        if one not in fragments:
            fragments.add(one)
            scope = one.py_func.__globals__
            waiting += [scope[n] for n in one.py_func.__code__.co_names if isinstance(scope.get(n), Dispatcher)]
    return fragments


@kernels.kernel
def beyond(array, index):  # type: ignore[no-untyped-def]
    array[index] = 1.0


def main() -> None:
    """Prints "checked" where bounds are; then each case's name, after "failed" if it did; then "missed" with each kernel that no
    case ran."""
    try:
        beyond(np.zeros(3), 1000)
    except IndexError:
        print("checked")
    for name, run in CASES.items():
        started = time.monotonic()
        try:
            run()
        except Exception:
            traceback.print_exc()
            print("failed", end=" ")
        print(f"{name} {time.monotonic() - started:.1f} s", flush=True)
    ran = [kernel for kernel in every_kernel().values() if kernel.signatures]
    reached = set().union(*map(calls, ran))
    for name, kernel in every_kernel().items():
        if kernel not in reached:
            print("missed", name)
