"""Seconds per iteration of differentiable rendering, forward and backward: ours on 1 and on all cores, beside Mitsuba 3 on the
same scene; and how ours grows with faces and pixels.

Mitsuba's `llvm_ad_rgb` takes the system's LLVM: Debian's libllvm19 does, 14 to 16 do not. The smallest form measures sixview
alone where there is none that does."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.common import WORK
from tests.benchmarks.records import Run

FACES = {5_000: 36, 20_000: 71, 50_000: 111, 100_000: 157, 200_000: 221}  # about: cells of the grid that gives them
SIDES = (128, 256, 512, 1024)
TEXTURE = 1024
INTEGRATORS = {"direct_projective": 4, "prb": 1}  # samples per pixel


def main(run: Run) -> None:
    """Three tables, and a plot in out/benchmarks/scaling.svg."""
    cores, repeats, faces = len(os.sched_getaffinity(0)), run.size(12, 1), run.size(20_000, 5_000)
    WORK.mkdir(parents=True, exist_ok=True)
    beside = not run.smallest or llvm_works()
    if not beside:
        run.note("No LLVM library that Mitsuba can use is installed: sixview was measured alone.")
    rows: list[list[object]] = []
    for count in run.size(sorted({1, cores}), [cores]):
        for side in run.size((256, 512), (32,)):
            ours = _measured("ours", (side, faces, repeats), count)
            theirs = [_measured(w, (side, faces, repeats), count) if beside else math.nan for w in INTEGRATORS]
            times = [cell for seconds in theirs for cell in (seconds * 1e3, seconds / ours)]
            rows.append([count, side, ours * 1e3, *times])
    run.table(f"{faces:,} faces", HEADER, rows)
    middle = run.size(512, 32)
    by_faces = {f: _measured("ours", (middle, f, repeats), cores) for f in run.size(tuple(FACES), (5_000, 20_000))}
    by_side = {s: _measured("ours", (s, faces, repeats), cores) for s in run.size(SIDES, (32, 64))}
    for title, found in ((f"sixview at {middle} px", by_faces), (f"sixview with {faces:,} faces", by_side)):
        head = "faces" if found is by_faces else "px"
        run.table(title, (head, "time per iteration, ms"), [[size, seconds * 1e3] for size, seconds in found.items()])
    panels = [(f"faces, {middle} px", by_faces), (f"pixels per side, {faces:,} faces", by_side)]
    (WORK / "scaling.svg").write_text(plot(panels))


HEADER = (
    "cores",
    "px",
    "sixview, ms",
    "direct_projective with 4 spp, ms",
    "times sixview's",
    "prb with 1 spp, ms",
    "times sixview's again",
)


# what Mitsuba's integrators need of LLVM
PROBE = "import drjit; from drjit.llvm import Float; drjit.eval(drjit.minimum(Float([0.5, 2.0]), Float(1)))"


def llvm_works() -> bool:
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False).returncode == 0


@functools.cache
def _measured(what: str, size: tuple[int, int, int], cores: int) -> float:
    """Seconds per iteration, in a process of its own on so many cores; measured once. size: pixels per side, faces, repeats."""
    ids = sorted(os.sched_getaffinity(0))[:cores]
    words = [
        sys.executable,
        "-c",
        f"from tests.benchmarks import rasterizer_benchmark as b; b.child({what!r}, {size})",
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, ids)
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.rpartition("seconds ")[2].split()[0])


def child(what: str, size: tuple[int, int, int]) -> None:
    """Prints the seconds."""
    side, faces, repeats = size
    iteration = ours(side, faces) if what == "ours" else mitsuba(side, faces, what)
    print("seconds", _timed(iteration, repeats), flush=True)


def _timed(iteration: Callable[[], None], repeats: int) -> float:
    """The median of so many, after up to three that do not count."""
    for _ in range(min(repeats, 3)):
        iteration()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        iteration()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def ours(side: int, faces: int) -> Callable[[], None]:
    """A textured ball: gradients by vertices and texels of a squared error."""
    from steps.nvdiffrec.run import keep_freed_memory

    keep_freed_memory()
    import torch

    from steps.raster import torch_ops as dr
    from tests.raster.shapes import ball, camera, clip_of

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    vertices, triangles = ball(FACES[faces], rough=0.0)
    tri = torch.from_numpy(triangles)
    x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
    uv = torch.tensor(0.5 + 0.45 * vertices[:, :2], dtype=torch.float32)
    image = torch.rand((1, TEXTURE, TEXTURE, 3), requires_grad=True)
    target, edges, view = torch.rand((1, side, side, 3)), dr.antialias_construct_topology_hash(tri), camera(side)

    def iteration() -> None:
        pos = clip_of(x, view)
        rast, _ = dr.rasterize(pos, tri, (side, side), with_db=False)
        seen = dr.texture(image, dr.interpolate(uv, rast, tri)[0]) * (rast[..., 3:] > 0)
        loss = ((dr.antialias(seen, rast, pos, tri, edges) - target) ** 2).mean()
        x.grad = image.grad = None
        loss.backward()

    return iteration


def mitsuba(side: int, faces: int, integrator: str) -> Callable[[], None]:
    """The same ball, shining in its texture, by Mitsuba's own gradients."""
    import drjit as dj
    import mitsuba as mi

    from tests.raster.shapes import ball, camera

    mi.set_variant("llvm_ad_rgb")
    dj.set_thread_count(len(os.sched_getaffinity(0)))
    vertices, triangles = ball(FACES[faces], rough=0.0)
    folder = WORK / "mitsuba"
    folder.mkdir(parents=True, exist_ok=True)
    made = mi.Mesh("ball", len(vertices), len(triangles), has_vertex_texcoords=True)
    parameters = mi.traverse(made)
    parameters["vertex_positions"] = vertices.astype(np.float32).ravel()
    parameters["faces"] = triangles.astype(np.uint32).ravel()
    parameters["vertex_texcoords"] = (0.5 + 0.45 * vertices[:, :2]).astype(np.float32).ravel()
    parameters.update()
    path = folder / f"ball_{faces}.ply"
    made.write_ply(str(path))
    scene = mi.load_dict(_scene(mi, path, camera(side), side, integrator))
    parameters = mi.traverse(scene)
    names = ["ball.vertex_positions", "ball.emitter.radiance.data"]
    target = mi.TensorXf(np.random.default_rng(0).random((side, side, 3)).astype(np.float32))
    samples = INTEGRATORS[integrator]
    seed = iter(range(10_000))

    def iteration() -> None:
        for name in names:
            dj.enable_grad(parameters[name])
        parameters.update()
        loss = dj.mean(dj.square(mi.render(scene, parameters, spp=samples, seed=next(seed)) - target), axis=None)  # type: ignore[arg-type]
        dj.backward(loss)
        dj.eval(*[dj.grad(parameters[name]) for name in names])
        dj.sync_thread()
        for name in names:
            dj.disable_grad(parameters[name])

    return iteration


def _scene(mi: Any, path: Path, view: Any, side: int, integrator: str) -> dict[str, Any]:
    pose = np.asarray(view.camera_to_world) @ np.diag([-1.0, 1.0, -1.0, 1.0])
    image = mi.Bitmap(np.random.default_rng(1).random((TEXTURE, TEXTURE, 3)).astype(np.float32))
    return {
        "type": "scene",
        "integrator": {"type": integrator, **({"sppi": 0} if integrator == "direct_projective" else {})},
        "sensor": {
            "type": "perspective",
            "to_world": mi.ScalarTransform4f(pose),
            "fov": float(np.degrees(2 * np.arctan(side / 2 / view.fx))),
            "film": {
                "type": "hdrfilm",
                "width": side,
                "height": side,
                "rfilter": {"type": "box"},
                "pixel_format": "rgb",
            },
            "sampler": {"type": "independent"},
        },
        "ball": {
            "type": "ply",
            "filename": str(path),
            "emitter": {"type": "area", "radiance": {"type": "bitmap", "bitmap": image, "raw": True}},
        },
    }


def plot(series: list[tuple[str, dict[int, float]]]) -> str:
    """Time against size, both logarithmic, one panel each, as SVG."""
    panels = "".join(f'<g transform="translate({i * 360},0)">{_panel(*one)}</g>' for i, one in enumerate(series))
    opening = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 300" style="font:12px system-ui,sans-serif">'
    return f'{opening}<rect width="720" height="300" fill="#fff"/>{panels}</svg>'


def _panel(title: str, found: dict[int, float]) -> str:
    sizes, times = np.array(list(found), float), np.array(list(found.values())) * 1e3
    x = 60 + 260 * np.log(sizes / sizes[0]) / np.log(sizes[-1] / sizes[0])
    low, high = np.log(times.min() / 1.5), np.log(times.max() * 1.5)
    y = 250 - 210 * (np.log(times) - low) / (high - low)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    marks = "".join(_mark(*values) for values in zip(x, y, times, sizes, strict=True))
    curve = f'<polyline points="{line}" fill="none" stroke="#2f6fde" stroke-width="2"/>'
    axes = '<path d="M50 30V250H330" fill="none" stroke="#9aa7b5"/>'
    return f'<text x="60" y="20">ms per iteration against {title}</text>{axes}{curve}{marks}'


def _mark(x: float, y: float, milliseconds: float, size: float) -> str:
    """A point with its time above it and its size below the axis."""
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#2f6fde"/>'
    above = f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{milliseconds:.1f} ms</text>'
    return f'{dot}{above}<text x="{x:.1f}" y="268" text-anchor="middle" fill="#5b6877">{int(size):,}</text>'
