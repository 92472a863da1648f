"""The CUDA kernels without a GPU: their source in numba's simulator against the CPU's, and compiled for a device."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.compute.arrays import Array
from tests.compute.on_device import OnDevice

SIZE = 20
# in the simulator Python runs kernels, and so whatever they call
SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}


def run(what: str, *words: object, **environment: str) -> str:
    code = f"from tests.compute import test_cuda; test_cuda.{what}({', '.join(map(repr, map(str, words)))})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scene", ["gradients", "far_plane", "degenerate", "over_many_tiles", "carved", "baked"])
def test_in_the_simulator_the_results_are_the_cpu_s(scene: str, tmp_path: Path) -> None:
    run("save", scene, tmp_path / "cpu.npz")
    run("save", scene, tmp_path / "cuda.npz", **SIMULATOR)
    expected, found = np.load(tmp_path / "cpu.npz"), np.load(tmp_path / "cuda.npz")
    assert expected.files == found.files and len(found.files) >= 4
    for name in found.files:
        limit = 1e-5 * max(1.0, float(np.abs(expected[name]).max()))
        assert np.allclose(found[name], expected[name], atol=limit), name


def test_the_nearest_face_wins_up_to_the_far_plane(tmp_path: Path) -> None:
    run("save", "far_plane", tmp_path / "cuda.npz", **SIMULATOR)
    for number, rast in enumerate(np.load(tmp_path / "cuda.npz").values()):
        assert set(rast[..., 3].ravel().tolist()) - {0.0} == {1.0 + number % 2}


def test_every_kernel_compiles_for_a_device() -> None:
    lines = run("compile_all").splitlines()
    assert len(lines) == 28 and all(int(line.split()[1]) > 1000 for line in lines)
    atomic = {line.split()[0] for line in lines if "atomic" in line}
    assert atomic == {"_draw_tile", "_scatter", "_walk", "_backward", "_by_corners"}


# -- in a process of its own --------------------------------------------------------------------------------------------


def save(scene: str, path: str) -> None:
    """Writes the arrays of a scene."""
    np.savez(path, *map(np.asarray, globals()[scene]()))


def on_device(array: Array) -> Array:
    return array.view(OnDevice) if "NUMBA_ENABLE_CUDASIM" in os.environ else array


def gradients() -> list[Array]:
    """A picture by all operations, and its gradients."""
    import torch

    from steps.raster import torch_ops as dr
    from tests.raster.shapes import ball, camera, clip_of, waves

    dr._in = lambda tensor: on_device(tensor.detach().contiguous().numpy())
    dr._out = lambda array: torch.from_numpy(np.asarray(array))
    vertices, faces = ball(5)
    tri, attr = torch.from_numpy(faces), torch.rand((len(vertices), 3), generator=torch.Generator().manual_seed(0))
    image = torch.rand((1, 16, 16, 3), generator=torch.Generator().manual_seed(1))
    x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
    tex, paint = image.clone().requires_grad_(True), attr.clone().requires_grad_(True)
    pos = clip_of(x, camera(SIZE))
    rast, db = dr.rasterize(pos, tri, (SIZE, SIZE))
    uv, da = dr.interpolate(0.5 + 0.4 * x[:, :2], rast, tri, db, "all")
    picture = dr.texture(tex, uv, da) + dr.interpolate(paint, rast, tri)[0]
    picture = dr.antialias(picture * (rast[..., 3:] > 0), rast, pos, tri)
    (picture * waves(SIZE)).sum().backward()
    return [t.detach().numpy() for t in (rast, db, uv, da, picture, x.grad, tex.grad, paint.grad)]


def drawn(corners: Array, faces: Array, side: int) -> list[Array]:
    """Packed fragments, and the hits of their outlines."""
    from steps.raster import antialias, rasterize

    edges = antialias.edges_of(faces.astype(np.int32))
    on = on_device(corners)
    fragments = rasterize.rasterize_homogeneous(on, on_device(faces.astype(np.int32)), side, side)
    rast = rasterize.pack_fragments(fragments)
    hits = antialias.find_edge_hits(on, on_device(edges), rast)
    return [rast, hits.across, hits.down]


def far_plane() -> list[Array]:
    """Of two faces over the same pixels one lies at z / w, the other at the far plane, whose z / w is 1; in both orders."""
    square = np.array([[0, 0], [8, 0], [0, 8]], float)  # half of the picture
    pictures = []
    for z in (-1.0, 0.0, 0.999, 1 - 2.0**-29):
        layers = [np.column_stack([square, np.full(3, depth), np.ones(3)]) for depth in (z, 1.0)]
        for first in (0, 1):
            corners = np.concatenate([layers[first], layers[1 - first]])
            pictures.append(drawn(corners, np.arange(6).reshape(2, 3), 4)[0])
    return pictures


def degenerate() -> list[Array]:
    """Meshes without faces, with corners that are no numbers, behind the camera, or without area."""
    random = np.random.default_rng(0)
    plain = np.column_stack([random.uniform(0, 6, (8, 2)), random.uniform(-1, 1, 8), np.ones(8)])
    faces = random.integers(0, 8, (6, 3))
    spoilt = {k: plain.copy() for k in ("nan", "infinite", "huge", "behind", "flat")}
    spoilt["nan"][2] = np.nan
    spoilt["infinite"][3, 0] = np.inf
    spoilt["huge"][4] *= 1e300
    spoilt["behind"][:3, 3] = -1.0
    spoilt["flat"][:, 1] = 2.5
    cases = [(plain, faces[:0]), *((c, faces) for c in spoilt.values())]
    return [array for corners, tri in cases for array in drawn(corners, tri, 6)]


def over_many_tiles() -> list[Array]:
    """Faces of very different sizes, which are cut into tiles on a GPU."""
    random = np.random.default_rng(1)
    corners = np.column_stack([random.uniform(-30, 70, (24, 2)), random.uniform(-0.9, 0.9, 24), np.ones(24)])
    corners[12:, :2] = random.uniform(0, 40, (12, 2))
    faces = np.concatenate([random.integers(0, 24, (6, 3)), random.integers(12, 24, (6, 3))])
    pictures = drawn(corners, faces, 40)
    return [*pictures, pictures[0][..., 3] > 0]


def carved() -> list[Array]:
    """The signed field of two views of different sizes, a part of whose depth is guessed; with and without consensus."""
    from steps.compute.launch import launch
    from steps.fusion import signed_field as sf
    from tests.raster.shapes import camera

    random = np.random.default_rng(2)
    cameras = [camera(12, 0.4, 0.7, 2.2), camera(9, 2.0, -0.3, 0.9)]
    sizes = [(c.height, c.width) for c in cameras]
    depths = [2.2 + 0.3 * random.standard_normal(size) for size in sizes]
    planes = [random.uniform(0.1, 1.0, (*size, 3)) for size in sizes]
    guesses = [on_device(random.random(size) < 0.3) for size in sizes]
    outlines = [random.uniform(-6, 2, size) for size in sizes]
    maps = [outlines, depths, planes, [0.01 * depth for depth in depths]]
    on = tuple(tuple(on_device(one.astype(np.float32)) for one in kind) for kind in maps)
    views = np.stack([c.projection for c in cameras]), np.array([c.fx for c in cameras])
    fields = []
    for band in (0.0, 2.0):
        field = on_device(np.zeros((6, 5, 4), np.float32))
        place = np.full(3, -0.5), 0.2, 0
        launch(sf._carve, (30, 4), *views, (*on, tuple(guesses)), place, band, field)
        fields.append(field)
    return [*fields, *(np.array([(f < 0).mean(), (f >= sf.TRUNCATION).mean()]) for f in fields)]


def baked() -> list[Array]:
    """The sums of a photograph over the texels of a face in front of it, of one behind it, and of one that turns away."""
    from steps.compute.launch import launch
    from steps.texturing import bake
    from tests.raster.shapes import camera

    random, seen_by = np.random.default_rng(3), camera(12)
    layers = random.random((12, 12, 6)).astype(np.float32)
    depth = np.full((12, 12), 2.4, np.float32)
    photo = layers, depth, random.uniform(0.1, 1, (12, 12)).astype(np.float32)
    where = seen_by.projection, seen_by.position, 5.0
    face = random.integers(-1, 3, (8, 8)).astype(np.int32)
    bary = random.uniform(0, 0.5, (8, 8, 2)).astype(np.float32)
    vertices = random.uniform(-0.3, 0.3, (9, 3))
    vertices[3:6] -= 2 * seen_by.position / np.linalg.norm(seen_by.position)
    normals = np.repeat(seen_by.position * [[1.0], [1.0], [-1.0]], 3, axis=0)
    surface = tuple(map(on_device, (vertices, np.arange(9, dtype=np.int32).reshape(3, 3), normals)))
    sums = tuple(on_device(np.zeros((8, 8, n), np.float32)) for n in (6, 2))
    arrays = [on_device(a) if isinstance(a, np.ndarray) else a for a in (*photo, *where, face, bary)]
    launch(bake._accumulate, (8, 8), *arrays, surface, (2.0, 24.0), sums)
    return [*sums, sums[1][face == 0], np.array([(sums[1][face == f] > 0).mean() for f in range(3)])]


def compile_all() -> None:
    """Prints each kernel's name, the length of its PTX, and whether that has atomic operations."""
    import types

    import numba.cuda.dispatcher as dispatcher
    from numba import cuda
    from numba import types as t

    device = types.SimpleNamespace(compute_capability=(9, 0))
    dispatcher.get_current_device = lambda: device  # device functions ask the driver, which is not there
    from steps.compute.cuda import grid_of
    from steps.fusion import isosurface, signed_field
    from steps.geometry import depth_ops
    from steps.raster import antialias as a
    from steps.raster import interpolate as i
    from steps.raster import keys as k
    from steps.raster import rasterize as r
    from steps.raster import render
    from steps.raster import texture as x
    from steps.texturing import bake

    d, n = t.float64, t.int64
    d1, d2, d3 = t.float64[::1], t.float64[:, ::1], t.float64[:, :, ::1]
    f2, f3, b2 = t.float32[:, ::1], t.float32[:, :, ::1], t.boolean[:, ::1]
    i2, n1, n2, b1, c1 = t.int32[:, ::1], t.int64[::1], t.int64[:, ::1], t.boolean[::1], t.int32[::1]
    keys = t.Tuple((n2, d1))
    maps = t.Tuple(tuple(t.UniTuple(one, 6) for one in (f2, f2, f3, f2, b2)))
    kernels: list[tuple[Any, int, tuple[Any, ...]]] = [
        (r._pixel_bounds, 1, (d2, i2, n, n, i2)),
        (k._count_tiles, 1, (i2, n1)),
        (k._draw_tile, 1, (n1, d2, i2, i2, d, d, keys)),
        (k._resolve, 2, (n2, d2, i2, i2, f3, f2)),
        (r._pack, 2, (i2, f3, f2, f3)),
        (r._to_depth, 2, (i2, f2)),
        (r._derivatives, 2, (d2, i2, f3, f3)),
        (r._backward, 2, (d2, i2, f3, f3, d2)),
        (i._forward, 2, (f2, i2, f3, f3)),
        (i._backward, 2, (f2, i2, f3, f3, f3, d2)),
        (i._derivatives, 2, (f2, i2, f3, f3, f3)),
        (x._forward, 2, (f2, n2, f3, f2, n, n, f3)),
        (x._scatter, 2, (n2, f3, f2, n, n, f3, n, n, f2)),
        (x._by_uv, 2, (f2, n2, f3, f2, n, n, f3, f3)),
        (a._mark, 1, (d2, i2, b1)),
        (k._walk, 1, (d2, i2, c1, f3, n, keys)),
        (k._decode, 2, (n2, i2)),
        (a._blend, 2, (f3, d2, i2, i2, i2, f3)),
        (a._by_image, 2, (d2, i2, i2, i2, f3, f3)),
        (a._by_corners, 2, (f3, d2, i2, i2, i2, f3, d2)),
        (render._shade, 2, (i2, f3, i2, d2, f3, f3)),
        (render._draw_wireframe, 2, (i2, d2, i2, d1, d, f3)),
        (depth_ops._tangent_planes, 2, (f2, d, d, d, d, f3)),
        (depth_ops._relax, 2, (f2, f2, f2, n, t.float32)),
        (depth_ops._relax_membrane, 2, (f2, b2, n)),
        (isosurface._smooth, 1, (c1, c1, f2, t.float32, f2)),
        (signed_field._carve, 2, (d3, d1, maps, t.Tuple((d1, d, n)), d, f3)),
        (
            bake._accumulate,
            2,
            (f3, f2, f2, d2, d1, d, i2, f3, t.Tuple((d2, i2, d2)), t.UniTuple(d, 2), t.UniTuple(f3, 2)),
        ),
    ]
    warnings.simplefilter("ignore")
    for kernel, dimensions, signature in kernels:
        grid = grid_of(kernel, dimensions)
        types_of_arguments = (n,) * dimensions + (t.Tuple(signature),)
        ptx, _ = cuda.compile(grid.py_func, types_of_arguments, device=False, cc=(9, 0), abi="numba")
        print(kernel.__name__, len(ptx), "atomic" if "atom" in ptx or "red." in ptx else "")
