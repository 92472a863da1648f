"""Small scenes that together run every kernel, on any device: the CPU's results and a GPU's must be the same.

A scene yields its results one by one, each with a name, so that of two runs the first result that differs is known. Sides grow
with `side`; at 20 a scene is as small as it shows all that it is about.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from steps.compute.device import to_device
from tests.compute import step_scenes
from tests.compute.on_device import OnDevice, simulate

SIDE = 20  # the side at which a scene's own sizes below are as written
LEAST_CELLS, MOST_CELLS = 4, 48  # to a side of the lattice of a ball

Results = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where the arrays of a scene lie. device: as the steps name it; array: takes numpy's arrays there; tensor: takes torch's
    there."""

    device: str
    array: Callable[[Array], Any]
    tensor: Callable[[Any], Any]


def cpu() -> Place:
    return Place("cpu", lambda array: array, lambda tensor: tensor)


def simulator() -> Place:
    """numba's simulator of CUDA, where NUMBA_ENABLE_CUDASIM has this process run kernels in Python."""
    import torch

    simulate()
    from steps.raster import torch_ops

    assert "NUMBA_ENABLE_CUDASIM" in os.environ
    torch_ops._in = lambda tensor: tensor.detach().contiguous().numpy().view(OnDevice)
    torch_ops._out = lambda array: torch.from_numpy(np.asarray(array))
    return Place("cuda", lambda array: array.view(OnDevice), lambda tensor: tensor)


def cuda() -> Place:
    """A GPU: CuPy's arrays, and torch's tensors."""
    return Place("cuda", lambda array: to_device(array, "cuda"), lambda tensor: tensor.to("cuda"))


PLACES = {"cpu": cpu, "simulator": simulator, "cuda": cuda}


def host(array: Any) -> Array:
    """A result as numpy has it: of numpy, CuPy or torch."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return np.asarray(array.get() if hasattr(array, "get") else array)


def of(side: int, at_20: int) -> int:
    """A scene's own size, in proportion."""
    return max(2, round(at_20 * side / SIDE))


def cells(side: int) -> int:
    """Of a ball's lattice."""
    return min(max(of(side, 5), LEAST_CELLS), MOST_CELLS)


def gradients(at: Place, side: int) -> Results:
    """A picture by all operations, and its gradients. What a kernel is given is computed on the CPU: a corner that another order
    of sums displaces by a bit would move outlines to other pixels."""
    import torch

    from steps.raster import torch_ops as dr
    from tests.raster.shapes import ball, camera, clip_of, waves

    vertices, faces = ball(cells(side))
    tri, attr = torch.from_numpy(faces), torch.rand((len(vertices), 3), generator=torch.Generator().manual_seed(0))
    texels = of(side, 16)
    image = torch.rand((1, texels, texels, 3), generator=torch.Generator().manual_seed(1))
    x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
    tex, paint = image.clone().requires_grad_(True), attr.clone().requires_grad_(True)
    pos, tri = at.tensor(clip_of(x, camera(side))), at.tensor(tri)
    rast, db = dr.rasterize(pos, tri, (side, side))
    yield from (("rast", rast), ("rast_db", db))
    uv, da = dr.interpolate(at.tensor(0.5 + 0.4 * x[:, :2]), rast, tri, db, "all")
    yield from (("uv", uv), ("uv_da", da))
    textured, painted = dr.texture(at.tensor(tex), uv, da), dr.interpolate(at.tensor(paint), rast, tri)[0]
    yield from (("textured", textured), ("painted", painted))
    picture = dr.antialias((textured + painted) * (rast[..., 3:] > 0), rast, pos, tri)
    yield "antialiased", picture
    (picture * at.tensor(waves(side))).sum().backward()
    yield from (("gradient by corners", x.grad), ("by texels", tex.grad), ("by attributes", paint.grad))


def drawn(at: Place, corners: Array, faces: Array, side: int) -> Results:
    """Packed fragments, and the hits of their outlines."""
    from steps.raster import antialias, rasterize

    edges = antialias.edges_of(faces.astype(np.int32))
    on = at.array(corners)
    fragments = rasterize.rasterize_homogeneous(on, at.array(faces.astype(np.int32)), side, side)
    rast = rasterize.pack_fragments(fragments)
    yield "rast", rast
    hits = antialias.find_edge_hits(on, at.array(edges), rast)
    yield from (("outlines across", hits.across), ("outlines down", hits.down))


def far_plane(at: Place, side: int) -> Results:
    """Of two faces over the same pixels one lies at z / w, the other at the far plane, whose z / w is 1; in both orders."""
    pixels = of(side, 4)
    square = np.array([[0, 0], [2 * pixels, 0], [0, 2 * pixels]], float)  # half of the picture
    for z in (-1.0, 0.0, 0.999, 1 - 2.0**-29):
        layers = [np.column_stack([square, np.full(3, depth), np.ones(3)]) for depth in (z, 1.0)]
        for first in (0, 1):
            corners = np.concatenate([layers[first], layers[1 - first]])
            _, rast = next(drawn(at, corners, np.arange(6).reshape(2, 3), pixels))
            yield f"z {z}, the {('nearest', 'farthest')[first]} first", rast


def degenerate(at: Place, side: int) -> Results:
    """Meshes without faces, with corners that are no numbers, behind the camera, or without area."""
    random, pixels = np.random.default_rng(0), of(side, 6)
    plain = np.column_stack([random.uniform(0, pixels, (8, 2)), random.uniform(-1, 1, 8), np.ones(8)])
    faces = random.integers(0, 8, (6, 3))
    spoilt = {k: plain.copy() for k in ("nan", "infinite", "huge", "behind", "flat")}
    spoilt["nan"][2] = np.nan
    spoilt["infinite"][3, 0] = np.inf
    spoilt["huge"][4] *= 1e300
    spoilt["behind"][:3, 3] = -1.0
    spoilt["flat"][:, 1] = 2.5
    yield from ((f"no faces, {name}", array) for name, array in drawn(at, plain, faces[:0], pixels))
    for kind, corners in spoilt.items():
        yield from ((f"{kind}, {name}", array) for name, array in drawn(at, corners, faces, pixels))


def over_many_tiles(at: Place, side: int) -> Results:
    """Faces of very different sizes, which are cut into tiles on a GPU."""
    random, pixels = np.random.default_rng(1), of(side, 40)
    scale = pixels / 40
    corners = np.column_stack([scale * random.uniform(-30, 70, (24, 2)), random.uniform(-0.9, 0.9, 24), np.ones(24)])
    corners[12:, :2] = scale * random.uniform(0, 40, (12, 2))
    faces = np.concatenate([random.integers(0, 24, (6, 3)), random.integers(12, 24, (6, 3))])
    yield from drawn(at, corners, faces, pixels)


def shaded(at: Place, side: int) -> Results:
    """A ball's depth, its texture's colours, and its wireframe."""
    from steps.compute.launch import launch
    from steps.raster import rasterize, render
    from tests.raster.shapes import ball, camera

    random, seen_by = np.random.default_rng(4), camera(of(side, 12))
    vertices, faces = ball(cells(side))
    projected = vertices @ seen_by.projection[:, :3].T + seen_by.projection[:, 3]
    corners = np.concatenate([projected[:, :2], np.full((len(vertices), 1), -1.0), projected[:, 2:]], axis=1)
    tri = at.array(faces)
    fragments = rasterize.rasterize_homogeneous(at.array(corners), tri, seen_by.width, seen_by.height, -10.0)
    launch(rasterize._to_depth, fragments.face.shape, fragments.face, fragments.depth)
    yield "depth", fragments.depth
    uv = at.array(random.random((len(vertices), 2)).astype(np.float32))
    yield "colours", render.shade(fragments, tri, uv, at.array(random.random((8, 8, 3)).astype(np.float32)))
    out = at.array(np.zeros((*fragments.face.shape, 4), np.float32))
    points, light = at.array(projected[:, :2] / projected[:, 2:]), at.array(random.random(len(faces)))
    launch(render._draw_wireframe, fragments.face.shape, fragments.face, points, tri, light, 0.6, out)
    yield "wireframe", out


def carved(at: Place, side: int) -> Results:
    """The signed field of two views of different sizes, a part of whose depth is guessed; with and without consensus."""
    from steps.compute.launch import launch
    from steps.fusion import signed_field as sf
    from tests.raster.shapes import camera

    random = np.random.default_rng(2)
    cameras = [camera(of(side, 12), 0.4, 0.7, 2.2), camera(of(side, 9), 2.0, -0.3, 0.9)]
    sizes = [(c.height, c.width) for c in cameras]
    depths = [2.2 + 0.3 * random.standard_normal(size) for size in sizes]
    planes = [random.uniform(0.1, 1.0, (*size, 3)) for size in sizes]
    guesses = [at.array(random.random(size) < 0.3) for size in sizes]
    outlines = [random.uniform(-6, 2, size) for size in sizes]
    maps = [outlines, depths, planes, [0.01 * depth for depth in depths]]
    on = tuple(tuple(at.array(one.astype(np.float32)) for one in kind) for kind in maps)
    views = np.stack([c.projection for c in cameras]), np.array([c.fx for c in cameras])
    shape = of(side, 6), of(side, 5), of(side, 4)
    for band in (0.0, 2.0):
        field = at.array(np.zeros(shape, np.float32))
        place = np.full(3, -0.5), 0.2 * SIDE / side, 0
        launch(sf._carve, (shape[0] * shape[1], shape[2]), *views, (*on, tuple(guesses)), place, band, field)
        yield from ((f"field, band {band:g}", field), (f"its kinds, band {band:g}", kinds(field)))


def kinds(field: Any) -> Array:
    """The share of a signed field that is inside, and of what is far outside."""
    from steps.fusion.signed_field import TRUNCATION

    return np.array([(host(field) < 0).mean(), (host(field) >= TRUNCATION).mean()])


def baked(at: Place, side: int) -> Results:
    """The sums of a photograph over the texels of a face in front of it, of one behind it, and of one that turns away."""
    from steps.compute.launch import launch
    from steps.texturing import bake
    from tests.raster.shapes import camera

    pixels, texels = of(side, 12), of(side, 8)
    random, seen_by = np.random.default_rng(3), camera(pixels)
    layers = random.random((pixels, pixels, 6)).astype(np.float32)
    depth = np.full((pixels, pixels), 2.4, np.float32)
    photo = layers, depth, random.uniform(0.1, 1, (pixels, pixels)).astype(np.float32)
    where = seen_by.projection, seen_by.position, 5.0
    face = random.integers(-1, 3, (texels, texels)).astype(np.int32)
    bary = random.uniform(0, 0.5, (texels, texels, 2)).astype(np.float32)
    vertices = random.uniform(-0.3, 0.3, (9, 3))
    vertices[3:6] -= 2 * seen_by.position / np.linalg.norm(seen_by.position)
    normals = np.repeat(seen_by.position * [[1.0], [1.0], [-1.0]], 3, axis=0)
    corners = np.arange(9, dtype=np.int32).reshape(3, 3)
    surface = at.array(vertices), at.array(corners), at.array(normals)
    sums = tuple(at.array(np.zeros((texels, texels, n), np.float32)) for n in (6, 2))
    arrays = [at.array(a) if isinstance(a, np.ndarray) else a for a in (*photo, *where, face, bary)]
    launch(bake._accumulate, (texels, texels), *arrays, surface, (2.0, 24.0), sums)
    yield from (("colours", sums[0]), ("weights", sums[1]))
    weight = host(sums[1])
    yield "texels of each face", np.array([(weight[face == f] > 0).sum() for f in range(3)])


def of_step(work: Callable[[str], list[Array]]) -> Callable[[Place, int], Results]:
    """A scene of what a step computes."""

    def scene(at: Place, side: int) -> Results:
        step_scenes.SIDE = max(of(side, 14), step_scenes.LEAST_SIDE)
        yield from ((f"result {number}", array) for number, array in enumerate(work(at.device), 1))

    return scene


OF_KERNELS = far_plane, degenerate, over_many_tiles, shaded, gradients, carved, baked
SCENES: dict[str, Callable[[Place, int], Results]] = {
    **{scene.__name__: scene for scene in OF_KERNELS},
    **{work.__name__: of_step(work) for work in step_scenes.WORKS},
}
