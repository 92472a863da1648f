"""The CUDA kernels without a GPU: their source in numba's simulator against the CPU's, and compiled for a device."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np

SIZE = 20


def run(what: str, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", f"from tests.raster import test_cuda; test_cuda.{what}()"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_the_simulator_the_results_are_the_cpu_s() -> None:
    assert run("compare", NUMBA_ENABLE_CUDASIM="1").split() == ["same"] * 8


def test_in_the_simulator_the_nearest_face_wins_up_to_the_far_plane() -> None:
    assert run("far_plane", NUMBA_ENABLE_CUDASIM="1").split() == ["near"] * 8


def test_in_the_simulator_degenerate_meshes_are_drawn_as_on_the_cpu() -> None:
    assert run("degenerate", NUMBA_ENABLE_CUDASIM="1").split() == ["same"] * 6


def test_every_kernel_compiles_for_a_device() -> None:
    lines = run("compile_all").splitlines()
    assert len(lines) == 17 and all(int(line.split()[1]) > 1000 for line in lines)
    atomic = {line.split()[0] for line in lines if "atomic" in line}
    assert {"draw_face", "scatter_pixel", "_walk"} <= atomic


def compare() -> None:
    """Prints "same" for each result that is."""
    import torch

    from steps.raster import backends
    from steps.raster import torch_ops as dr
    from steps.raster.cuda import Cuda
    from tests.raster.shapes import ball, camera, clip_of, waves

    vertices, faces = ball(5)
    tri, attr = torch.from_numpy(faces), torch.rand((len(vertices), 3), generator=torch.Generator().manual_seed(0))
    image = torch.rand((1, 16, 16, 3), generator=torch.Generator().manual_seed(1))

    def everything() -> list[Any]:
        x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
        tex, paint = image.clone().requires_grad_(True), attr.clone().requires_grad_(True)
        pos = clip_of(x, camera(SIZE))
        rast, db = dr.rasterize(pos, tri, (SIZE, SIZE))
        uv, da = dr.interpolate(0.5 + 0.4 * x[:, :2], rast, tri, db, "all")
        picture = dr.texture(tex, uv, da) + dr.interpolate(paint, rast, tri)[0]
        picture = dr.antialias(picture * (rast[..., 3:] > 0), rast, pos, tri)
        (picture * waves(SIZE)).sum().backward()
        return [t.detach().numpy() for t in (rast, db, uv, da, picture, x.grad, tex.grad, paint.grad)]

    expected = everything()
    backends.Cpu = Cuda  # type: ignore[misc,assignment]
    for a, b in zip(everything(), expected, strict=True):
        print("same" if np.allclose(a, b, atol=1e-5 * np.abs(b).max()) else "different")


def far_plane() -> None:
    """Prints which of two faces wins every pixel: that at z / w, or that at the far plane, whose z / w is 1."""
    import torch

    from steps.raster.cuda import Cuda

    square = np.array([[0, 0], [8, 0], [0, 8]], float)  # half of the picture
    for z in (-1.0, 0.0, 0.999, 1 - 2.0**-29):
        layers = [np.column_stack([square, np.full(3, depth), np.ones(3)]) for depth in (z, 1.0)]
        for first in (0, 1):
            corners = torch.from_numpy(np.concatenate([layers[first], layers[1 - first]]))
            tri = torch.arange(6, dtype=torch.int32).reshape(2, 3)
            faces = Cuda().rasterize(corners, tri, 4, 4)[..., 3]
            drawn = set(faces.numpy().ravel().tolist()) - {0.0}
            print("near" if drawn == {first + 1.0} else f"far {z} {first} {drawn}")


def degenerate() -> None:
    """Prints "same" for each mesh that the simulator draws, and blends at its outlines, as the CPU does."""
    import torch

    from steps.raster import antialias
    from steps.raster.backends import Cpu
    from steps.raster.cuda import Cuda

    random = np.random.default_rng(0)
    plain = np.column_stack([random.uniform(0, 6, (8, 2)), random.uniform(-1, 1, 8), np.ones(8)])
    faces = random.integers(0, 8, (6, 3))
    spoilt = {k: plain.copy() for k in ("nan", "infinite", "huge", "behind", "flat")}
    spoilt["nan"][2] = np.nan
    spoilt["infinite"][3, 0] = np.inf
    spoilt["huge"][4] *= 1e300
    spoilt["behind"][:3, 3] = -1.0
    spoilt["flat"][:, 1] = 2.5
    for corners, tri in [(plain, faces[:0]), *((c, faces) for c in spoilt.values())]:
        edges = torch.from_numpy(antialias.edges_of(tri.astype(np.int32)))
        results = []
        for backend in (Cpu(), Cuda()):
            rast = backend.rasterize(torch.from_numpy(corners), torch.from_numpy(tri.astype(np.int32)), 6, 6)
            results.append((rast.numpy(), backend.find_edge_hits(torch.from_numpy(corners), edges, rast).numpy()))
        same = all(np.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))
        print("same" if same else "different")


def compile_all() -> None:
    """Prints each kernel's name, the length of its PTX, and whether that has atomic operations."""
    import types

    import numba.cuda.dispatcher as dispatcher
    from numba import cuda
    from numba import types as t

    from steps.raster import antialias as a
    from steps.raster import cuda as c
    from steps.raster import interpolate as i
    from steps.raster import rasterize as r
    from steps.raster import texture as x

    device = types.SimpleNamespace(compute_capability=(9, 0))
    dispatcher.get_current_device = lambda: device  # device functions ask the driver, which is not there
    d, n = t.float64, t.int64
    d2, d3, f2, f3 = t.float64[:, ::1], t.float64[:, :, ::1], t.float32[:, ::1], t.float32[:, :, ::1]
    i2, n1, n2, b1 = t.int32[:, ::1], t.int64[::1], t.int64[:, ::1], t.boolean[::1]
    kernels: list[tuple[Any, int, tuple[Any, ...]]] = [
        (r.face_bounds, 1, (d2, i2, n, n, i2)),
        (r.draw_face, 1, (d2, i2, i2, d, d, n2, d3, d3, n, n)),
        (c.resolve_pixel, 2, (n2, d2, i2, f3)),
        (r.derivatives_pixel, 2, (d2, i2, f3, f3)),
        (r.backward_pixel, 2, (d2, i2, f3, f3, d2)),
        (i.forward_pixel, 2, (f2, i2, f3, f3)),
        (i.backward_pixel, 2, (f2, i2, f3, f3, f2, f3)),
        (i.derivatives_pixel, 2, (f2, i2, f3, f3, f3)),
        (x.forward_pixel, 2, (f2, n2, f3, f2, n, n, f3)),
        (x.scatter_pixel, 2, (n2, f3, f2, n, n, f3, f2, n, n)),
        (x.by_uv_pixel, 2, (f2, n2, f3, f2, n, n, f3, f3)),
        (a.mark_edge, 1, (d2, i2, b1)),
        (c._walk, 1, (d2, i2, n1, f3, n, n2, d2, n, n)),
        (c.decode_pixel, 2, (n2, i2)),
        (a.blend_pixel, 2, (f3, d2, i2, i2, i2, f3)),
        (a.by_image_pixel, 2, (d2, i2, i2, i2, f3, f3)),
        (a.by_corners_pixel, 2, (f3, d2, i2, i2, i2, f3, d2)),
    ]
    warnings.simplefilter("ignore")
    for function, dimensions, signature in kernels:
        kernel = c.launcher(function, dimensions)
        ptx, _ = cuda.compile(kernel.py_func, (n,) * dimensions + signature, device=False, cc=(9, 0), abi="numba")
        print(function.__name__, len(ptx), "atomic" if "atom" in ptx or "red." in ptx else "")
