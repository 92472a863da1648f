"""Texture from photographs: blends the views per texel, weighted by viewing angle.

In two frequency bands (after Burt and Adelson, "A multiresolution spline", 1983). Low frequencies blend over wide seams,
which hides differences of lighting and exposure; high frequencies come almost from the best view alone, since views that are
slightly misregistered would show detail twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.compute.device import beside, ndimage_of, to_device, to_host
from steps.compute.kernels import check_indices, floor_int, inlined, kernel, project_point, within
from steps.compute.launch import iterate_on, launch, zeros
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import inpaint
from steps.geometry.uv_mesh import UvMesh
from steps.raster.rasterize import Fragments, rasterize, rasterize_homogeneous

BLUR = 64  # longest side of a picture over the standard deviation of the blur that separates the bands
LEAST_WEIGHT = 1e-25  # of a view that sees a texel at all: not zero in 32 bits
LEAST_COSINE = 0.05  # between normal and viewing ray, below which a view does not count
# pixels over which a view's weight fades towards outlines and occlusions, where misregistration shows
EDGE_FADE = 8.0
OCCLUSION = 0.01  # of the distance: a texel this far behind the view's depth is occluded
# diagonals of the mesh: tolerances of farther cameras, as of orthographic ones, are those at this distance
MAX_DISTANCE = 2.5
# of the diagonal, per unit of difference of normals, in the distance by which unseen texels are inpainted
NORMAL_DISTANCE = 0.2


# of the diagonal, over which the correction of the mesh's own colours at unseen texels decays
SEAM_WIDTH = 0.05
GAIN_RANGE = 0.5, 2.0  # limits of the change of contrast of the mesh's own colours


@dataclass(frozen=True)
class Blend:
    """Exponents of the cosine between normal and viewing ray in the views' weights: of the low band (slow) and of the high
    band."""

    slow: float
    detail: float


EXACT = Blend(6, 6)  # registered views, lit alike: one main source per texel, for both bands
ROUGH = Blend(2, 24)  # views slightly misregistered, or lit differently


@dataclass(frozen=True)
class Photo:
    """camera; colour: [H, W, 3] float32, straight; coverage: [H, W] float32, the object's share of each pixel."""

    camera: Camera
    colour: Array
    coverage: Array


@dataclass(frozen=True)
class TexturedMesh:
    """vertices: (n, 3) float64; faces: (m, 3) int32; uv: (n, 2) float32; normals: (n, 3) float64.

    texture: [S, S, 3] float32; seen: share of the surface's texels that at least one view saw; unseen_at: [S, S] bool, the
    others."""

    vertices: Array
    faces: Array
    uv: Array
    normals: Array
    texture: Array
    seen: float
    unseen_at: Array


def texel_fragments(faces: Array, uv: Array, size: int) -> Fragments:
    """Face and barycentric coordinates of each texel [size, size]."""
    x, y = uv[:, 0] * size, (1.0 - uv[:, 1]) * size
    flat = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=1)
    return rasterize_homogeneous(flat, faces, size, size)


@dataclass(frozen=True)
class SeenPhoto:
    """A photograph on the device that bakes. layers: [H, W, 6] float32, its low and high frequencies; depth: [H, W], the mesh's;
    confidence: [H, W] in (0, 1], a weight that fades towards edges."""

    camera: Camera
    layers: Array
    depth: Array
    confidence: Array


@dataclass(frozen=True)
class Sums:
    """Weighted sums per texel over the views. bands: [S, S, 6] float32, low and high frequencies; weight: [S, S, 2] float32, of
    each band."""

    bands: Array
    weight: Array


def bake(
    mesh: UvMesh,
    photos: list[Photo],
    size: int,
    blend: Blend = EXACT,
    own_colours: Callable[[Array], Array] | None = None,
    device: str = "cpu",
) -> TexturedMesh:
    """Bakes `photos` into a texture of size x size. Unseen texels are inpainted from the nearest seen ones; or, given
    own_colours, take the mesh's own colours at points (n, 3), matched to the photographs' tone and without a seam. device: of
    all but the nearest neighbours' search."""
    check_indices(mesh.faces, min(len(mesh.vertices), len(mesh.normals)))
    fragments, sums = _sums_over_photos(mesh, photos, size, blend, device)
    bands, weight = sums.bands, sums.weight
    surface, seen = fragments.face >= 0, weight[..., 0] > 0
    bands[seen] /= np.repeat(weight[seen], 3, axis=1)
    colour = bands[..., :3] + bands[..., 3:]
    base = _tone_mapped_own_colours(own_colours, fragments, surface, surface & seen, colour, mesh)
    unseen = surface & ~seen
    _inpaint_unseen(colour, base, unseen, surface & seen, fragments, mesh)
    seen_fraction = float(seen.sum() / max(1, surface.sum()))
    texture = np.clip(to_host(inpaint(to_device(colour, device), to_device(surface, device))), 0, 1)
    return TexturedMesh(mesh.vertices, mesh.faces, mesh.uv, mesh.normals, texture, seen_fraction, unseen)


def _sums_over_photos(
    mesh: UvMesh, photos: list[Photo], size: int, blend: Blend, device: str
) -> tuple[Fragments, Sums]:
    """The texels' fragments, and the photographs' sums over them: computed on the device, returned as numpy's arrays."""
    placed = UvMesh(*(to_device(a, device) for a in (mesh.vertices, mesh.faces, mesh.uv, mesh.normals)))
    fragments = texel_fragments(placed.faces, placed.uv, size)
    sums = Sums(*(zeros((size, size, n), np.float32, fragments.face) for n in (6, 2)))
    for seen_photo in iterate_on(device, lambda p: _seen_photo(placed, p), photos):
        _add_photo(seen_photo, fragments, placed, blend, sums)
    host = (to_host(a) for a in (fragments.face, fragments.bary, fragments.depth))
    return Fragments(*host), Sums(to_host(sums.bands), to_host(sums.weight))


def _max_distance(vertices: Array) -> float:
    return MAX_DISTANCE * float(np.linalg.norm(np.ptp(vertices, axis=0)))


def _seen_photo(mesh: UvMesh, photo: Photo) -> SeenPhoto:
    depth = rasterize(mesh.vertices, mesh.faces, photo.camera).depth
    distance, ndimage = max(min(float(depth.max()), _max_distance(mesh.vertices)), 1e-9), ndimage_of(depth)
    jump = ndimage.maximum_filter(depth, 3) - ndimage.minimum_filter(depth, 3) > OCCLUSION * 2 * distance
    edge = jump | (beside(photo.coverage, depth) < 0.999) | (depth <= 0)
    confidence = np.clip(ndimage.distance_transform_edt(~edge) / EDGE_FADE, 1e-3, 1.0).astype(np.float32)
    return SeenPhoto(photo.camera, _frequency_bands(photo, depth), depth, confidence)


def _add_photo(seen: SeenPhoto, fragments: Fragments, mesh: UvMesh, blend: Blend, sums: Sums) -> None:
    """Adds a photograph to the sums, in place."""
    where = seen.camera.projection, seen.camera.position, _max_distance(mesh.vertices), fragments.face, fragments.bary
    surface = mesh.vertices, mesh.faces, mesh.normals
    exponents, target = (float(blend.slow), float(blend.detail)), (sums.bands, sums.weight)
    maps = seen.layers, seen.depth, seen.confidence
    launch(_accumulate, fragments.face.shape, *maps, *where, surface, exponents, target)


def _frequency_bands(photo: Photo, like: Array) -> Array:
    """[H, W, 6] float32: low and high frequencies, both extended beyond the outline; on the device of `like`."""
    colour, coverage = beside(photo.colour, like), beside(photo.coverage, like)
    whole_pixels = coverage > 0.999
    if not whole_pixels.any():  # thinner than a pixel everywhere
        whole_pixels = coverage >= 0.5
    clean = inpaint(colour, whole_pixels).astype(np.float32)
    blur, gaussian_filter = max(clean.shape) / BLUR, ndimage_of(clean).gaussian_filter
    slow = np.stack([gaussian_filter(clean[..., k], blur, mode="nearest") for k in range(3)], axis=-1)
    return np.concatenate([slow, clean - slow], axis=2)


@kernel
def _cubic(t):  # type: ignore[no-untyped-def]
    """The four Catmull-Rom weights at offset t in [0, 1): sharper than bilinear, since texels are resampled once more later."""
    w0 = t * (-0.5 + t * (1.0 - 0.5 * t))
    w1 = 1.0 + t * t * (-2.5 + 1.5 * t)
    w2 = t * (0.5 + t * (2.0 - 1.5 * t))
    return w0, w1, w2, t * t * (-0.5 + 0.5 * t)


@inlined
def _project_texel(p, n, m, eye, max_distance, depth):  # type: ignore[no-untyped-def]
    """Pixel coordinates of a texel, and the cosine between its normal and the viewing ray; 0 where it is occluded or outside."""
    z, x, y = project_point(p, m)
    if z <= 0 or not within(x, y, depth.shape[1], depth.shape[0]):
        return 0.0, 0.0, 0.0
    c, r = int(x), int(y)
    if depth[r, c] <= 0 or z > depth[r, c] + OCCLUSION * min(z, max_distance):
        return 0.0, 0.0, 0.0
    ex, ey, ez = eye[0] - p[0], eye[1] - p[1], eye[2] - p[2]
    cosine = (n[0] * ex + n[1] * ey + n[2] * ez) / math.sqrt(
        (ex * ex + ey * ey + ez * ez) * (n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    )
    return x, y, cosine


@inlined
def _add_bicubic(layers, x, y, slow_weight, detail_weight, bands):  # type: ignore[no-untyped-def]
    """Adds a picture's bicubic sample at (x, y) to a texel's bands (6,), each band with its own weight."""
    height, width = layers.shape[:2]
    c, r = floor_int(x - 0.5), floor_int(y - 0.5)
    wx, wy = _cubic(x - 0.5 - c), _cubic(y - 0.5 - r)
    for dy in range(4):
        rr = min(max(r + dy - 1, 0), height - 1)
        for dx in range(4):
            cc = min(max(c + dx - 1, 0), width - 1)
            weight = wx[dx] * wy[dy]
            for a in range(3):
                bands[a] += slow_weight * weight * layers[rr, cc, a]
                bands[3 + a] += detail_weight * weight * layers[rr, cc, 3 + a]


@kernel
def _accumulate(  # type: ignore[no-untyped-def]
    rows, columns, layers, depth, confidence, m, eye, max_distance, face, bary, surface, exponents, sums
):
    """surface: vertices, faces, normals; exponents: of `Blend`; sums: of `Sums`."""
    vertices, faces, normals = surface
    slow, detail = exponents
    bands, weight = sums
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            f = face[row, column]
            if f < 0:
                continue
            b0, b1 = bary[row, column, 0], bary[row, column, 1]
            weights = b0, b1, 1.0 - b0 - b1
            corners = faces[f, 0], faces[f, 1], faces[f, 2]
            p, n = _at(vertices, corners, weights), _at(normals, corners, weights)
            x, y, cosine = _project_texel(p, n, m, eye, max_distance, depth)
            if not cosine > LEAST_COSINE:  # nan, too: a normal without a length
                continue
            pixel_confidence = confidence[int(y), int(x)]
            slow_weight, detail_weight = (
                max(cosine**slow * pixel_confidence, LEAST_WEIGHT),
                max(cosine**detail * pixel_confidence, LEAST_WEIGHT),
            )
            _add_bicubic(layers, x, y, slow_weight, detail_weight, bands[row, column])
            weight[row, column, 0] += slow_weight
            weight[row, column, 1] += detail_weight


@inlined
def _at(values, corners, weights):  # type: ignore[no-untyped-def]
    """The values (n, 3) of a face's corners, weighted: a tuple of three."""
    i, j, k = corners
    b0, b1, b2 = weights
    return (
        b0 * values[i, 0] + b1 * values[j, 0] + b2 * values[k, 0],
        b0 * values[i, 1] + b1 * values[j, 1] + b2 * values[k, 1],
        b0 * values[i, 2] + b1 * values[j, 2] + b2 * values[k, 2],
    )


def _positions(fragments: Fragments, where: Array, vertices: Array, faces: Array) -> Array:
    corners = vertices[faces[fragments.face[where]]]
    b = fragments.bary[where]
    return corners[:, 0] * b[:, :1] + corners[:, 1] * b[:, 1:] + corners[:, 2] * (1 - b.sum(axis=1, keepdims=True))


def _tone_mapped_own_colours(
    own_colours: Callable[[Array], Array] | None,
    fragments: Fragments,
    surface: Array,
    seen: Array,
    colour: Array,
    mesh: UvMesh,
) -> Array | None:
    """The mesh's own colours of all surface texels, [S, S, 3], with contrast and brightness per channel fitted to the
    photographs where these see; None where it has none."""
    if own_colours is None or not seen.any():
        return None
    base = np.zeros_like(colour)
    base[surface] = own_colours(_positions(fragments, surface, mesh.vertices, mesh.faces))
    for k in range(3):
        x, y = base[seen][:, k], colour[seen][:, k]
        gain = float(np.clip(np.cov(x, y)[0, 1] / max(float(x.var()), 1e-6), *GAIN_RANGE))
        base[..., k] = (base[..., k] - x.mean()) * gain + y.mean()
    return base


def _inpaint_unseen(
    colour: Array, base: Array | None, unseen: Array, seen: Array, fragments: Fragments, mesh: UvMesh
) -> None:
    """Fills unseen texels with the mean of the eight nearest seen ones, weighted by 1 / distance, in place. Distance includes
    normals, so that the inside of a thin wall does not take colours of its outside. With a `base`, its correction is
    interpolated instead, and decays with distance, so that there is no seam."""
    if not unseen.any() or not seen.any():
        return
    step = max(1, int(seen.sum()) // 100_000)  # a denser tree costs time and changes nothing visible
    diagonal = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    layers = mesh.vertices, NORMAL_DISTANCE * diagonal * mesh.normals

    def coordinates(where: Array) -> Array:
        return np.hstack([_positions(fragments, where, layer, mesh.faces) for layer in layers])

    tree = cKDTree(coordinates(seen)[::step])
    distance, nearest = tree.query(coordinates(unseen), k=8, workers=-1)
    weight = 1.0 / np.maximum(distance, 1e-9)
    known = (colour if base is None else colour - base)[seen][::step]
    nearest = np.minimum(nearest, len(known) - 1)  # fewer than eight known texels: the tree reports one past the end
    weight[~np.isfinite(distance)] = 0.0
    colours = (known[nearest] * (weight / weight.sum(axis=1, keepdims=True))[..., None]).sum(axis=1)
    if base is not None:
        colours = base[unseen] + colours * np.exp(-((distance[:, :1] / (SEAM_WIDTH * diagonal)) ** 2))
    colour[unseen] = colours
