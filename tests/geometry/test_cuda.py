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
    command = [sys.executable, "-W", "ignore", "-c", f"from tests.geometry import test_cuda; test_cuda.{what}()"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_the_simulator_the_results_are_the_cpu_s() -> None:
    assert run("compare", NUMBA_ENABLE_CUDASIM="1").split() == ["same"] * 8


def test_every_kernel_compiles_for_a_device() -> None:
    lines = run("compile_all").splitlines()
    assert len(lines) == 17 and all(int(line.split()[1]) > 1000 for line in lines)
    atomic = {line.split()[0] for line in lines if "atomic" in line}
    assert {"draw_face", "scatter_pixel", "_walk"} <= atomic


def compare() -> None:
    """Prints "same" for each result that is."""
    import torch

    from steps.geometry import autograd as dr
    from steps.geometry import backends
    from steps.geometry.cuda import Cuda
    from tests.geometry.shapes import ball, camera, clip_of, waves

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


def compile_all() -> None:
    """Prints each kernel's name, the length of its PTX, and whether that has atomic operations."""
    import types

    import numba.cuda.dispatcher as dispatcher
    from numba import cuda
    from numba import types as t

    from steps.geometry import antialias as a
    from steps.geometry import cuda as c
    from steps.geometry import interpolate as i
    from steps.geometry import rasterize as r
    from steps.geometry import texture as x

    device = types.SimpleNamespace(compute_capability=(9, 0))
    dispatcher.get_current_device = lambda: device  # device functions ask the driver, which is not there
    d, n = t.float64, t.int64
    d2, d3, f2, f3 = t.float64[:, ::1], t.float64[:, :, ::1], t.float32[:, ::1], t.float32[:, :, ::1]
    i2, n1, n2, b1 = t.int32[:, ::1], t.int64[::1], t.int64[:, ::1], t.boolean[::1]
    kernels: list[tuple[Any, int, tuple[Any, ...]]] = [
        (r.span_face, 1, (d2, i2, n, n, i2)),
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
