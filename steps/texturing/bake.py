"""Texture from photographs: every texel takes its colour from the views that see it best.

In two bands (after Burt and Adelson, "A multiresolution spline", 1983): what changes slowly over a picture is blended over a wide
seam, which hides that views were lit and exposed differently; the detail comes from very nearly the best view alone, since views
that do not quite meet would show it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from steps.compute.kernels import check_indices, for_bands, inlined, kernel, parallel_map, projected, whole, within
from steps.geometry.cameras import Camera
from steps.geometry.image_ops import filled
from steps.raster.rasterize import Fragments, rasterize, rasterize_homogeneous

Array = NDArray[Any]
BLUR = 64  # the standard deviation, as a part of a picture's longest side, beyond which change is slow
LEAST = 1e-25  # weight of a view that sees a texel at all: a number still in 32 bits
GRAZING = 0.05  # cosine between normal and sight up to which a view says nothing
EDGE = 8.0  # pixels over which a view's weight fades towards outlines and occlusions, where registration errors show
OCCLUSION = 0.01  # of the distance: a texel this far behind what the view sees is hidden
FAR_AWAY = (
    2.5  # diagonals of the mesh: cameras further off, as orthographic ones stand for, count as if they stood there
)
TURNED = 0.2  # of the diagonal: how far apart two unit normals lie that differ by one, where unseen texels are filled


SEAM = 0.05  # of the diagonal, over which unseen texels with colours of their own take over those of the seen ones
TONES = 0.5, 2.0  # how much the contrast of a mesh's own colours is changed at most


@dataclass(frozen=True)
class Blend:
    """Exponents of the cosine between normal and sight that views are weighed by: for what changes slowly, and for the detail."""

    slow: float
    detail: float


EXACT = Blend(
    6, 6
)  # views that meet and were lit alike: a texel has one main source, and the bands need no seams of their own
ROUGH = Blend(2, 24)  # views that do not quite meet, or were lit differently


@dataclass(frozen=True)
class Photo:
    """camera; colour: [H, W, 3] float32, straight; coverage: [H, W] float32, the object's share of each pixel."""

    camera: Camera
    colour: Array
    coverage: Array


@dataclass(frozen=True)
class TexturedMesh:
    """vertices: (n, 3) float64; faces: (m, 3) int32; uv: (n, 2) float32; normals: (n, 3) float64.

    texture: [S, S, 3] float32; seen: share of the texels on the surface that at least one view saw;
    unseen_at: [S, S] bool, which texels on it none did."""

    vertices: Array
    faces: Array
    uv: Array
    normals: Array
    texture: Array
    seen: float
    unseen_at: Array


def texel_fragments(faces: Array, uv: Array, size: int) -> Fragments:
    """Which face and where on it each texel [size, size] lies."""
    flat = np.stack([uv[:, 0] * size, (1.0 - uv[:, 1]) * size, np.zeros(len(uv)), np.ones(len(uv))], axis=1)
    return rasterize_homogeneous(flat, faces, size, size)


def bake(
    vertices: Array,
    faces: Array,
    uv: Array,
    normals: Array,
    photos: list[Photo],
    size: int,
    blend: Blend = EXACT,
    own: Callable[[Array], Array] | None = None,
) -> TexturedMesh:
    """Bakes `photos` into a texture of size x size. Texels that no view saw take the colours of the nearest that were, or, where
    the mesh has colours of its own, `own` of their places (n, 3), in the photographs' tone and without a seam."""
    check_indices(faces, min(len(vertices), len(normals)))
    fragments = texel_fragments(faces, uv, size)
    bands = np.zeros((size, size, 6), np.float32)
    weight = np.zeros((size, size, 2), np.float32)
    for photo, (depth, trust) in zip(photos, parallel_map(lambda p: _sight(vertices, faces, p), photos), strict=True):
        _add(photo, depth, trust, fragments, vertices, faces, normals, blend, bands, weight)
    surface, seen = fragments.face >= 0, weight[..., 0] > 0
    bands[seen] /= np.repeat(weight[seen], 3, axis=1)
    colour = bands[..., :3] + bands[..., 3:]
    unseen, base = surface & ~seen, _own_colours(own, fragments, surface, surface & seen, colour, vertices, faces)
    _fill_unseen(colour, base, unseen, surface & seen, fragments, vertices, faces, normals)
    share = float(seen.sum() / max(1, surface.sum()))
    return TexturedMesh(vertices, faces, uv, normals, np.clip(filled(colour, surface), 0, 1), share, unseen)


def _reach(vertices: Array) -> float:
    return FAR_AWAY * float(np.linalg.norm(np.ptp(vertices, axis=0)))


def _sight(vertices: Array, faces: Array, photo: Photo) -> tuple[Array, Array]:
    """What the view sees of the mesh, depth [H, W], and how far each pixel may be trusted, [H, W] in (0, 1]."""
    depth = rasterize(vertices, faces, photo.camera).depth
    distance = max(min(float(depth.max()), _reach(vertices)), 1e-9)
    jump = maximum_filter(depth, 3) - minimum_filter(depth, 3) > OCCLUSION * 2 * distance
    edge = jump | (photo.coverage < 0.999) | (depth <= 0)
    return depth, np.clip(distance_transform_edt(~edge) / EDGE, 1e-3, 1.0).astype(np.float32)


def _add(
    photo: Photo,
    depth: Array,
    trust: Array,
    at: Fragments,
    vertices: Array,
    faces: Array,
    normals: Array,
    blend: Blend,
    bands: Array,
    weight: Array,
) -> None:
    layers = _layers(photo)
    projection, eye, reach = photo.camera.projection, photo.camera.position, _reach(vertices)
    for_bands(
        lambda a, b: _gather(
            layers,
            depth,
            trust,
            projection,
            eye,
            reach,
            at.face,
            at.bary,
            vertices,
            faces,
            normals,
            np.empty((2, 3)),
            float(blend.slow),
            float(blend.detail),
            bands,
            weight,
            a,
            b,
        ),
        len(at.face),
    )


def _layers(photo: Photo) -> Array:
    """[H, W, 6] float32: what changes slowly, and the rest, both reaching beyond the outline."""
    whole_pixels = photo.coverage > 0.999
    if not whole_pixels.any():  # of what is thinner than a pixel
        whole_pixels = photo.coverage >= 0.5
    clean = filled(photo.colour, whole_pixels).astype(np.float32)
    blur = max(clean.shape) / BLUR
    slow = np.stack([gaussian_filter(clean[..., k], blur, mode="nearest") for k in range(3)], axis=-1)
    return np.concatenate([slow, clean - slow], axis=2)


@kernel
def _cubic(t):  # type: ignore[no-untyped-def]
    """The four Catmull-Rom weights at offset t in [0, 1): sharper than bilinear, and texels are resampled once more later."""
    w0 = t * (-0.5 + t * (1.0 - 0.5 * t))
    w1 = 1.0 + t * t * (-2.5 + 1.5 * t)
    w2 = t * (0.5 + t * (2.0 - 1.5 * t))
    return w0, w1, w2, t * t * (-0.5 + 0.5 * t)


@inlined
def _seen(p, n, m, eye, reach, depth):  # type: ignore[no-untyped-def]
    """Where a texel lies in the picture, and the cosine between its normal and the sight; 0 where the view does not see it."""
    z, x, y = projected(p, m)
    if z <= 0 or not within(x, y, depth.shape[1], depth.shape[0]):
        return 0.0, 0.0, 0.0
    c, r = int(x), int(y)
    if depth[r, c] <= 0 or z > depth[r, c] + OCCLUSION * min(z, reach):
        return 0.0, 0.0, 0.0
    ex, ey, ez = eye[0] - p[0], eye[1] - p[1], eye[2] - p[2]
    cosine = (n[0] * ex + n[1] * ey + n[2] * ez) / np.sqrt(
        (ex * ex + ey * ey + ez * ez) * (n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    )
    return x, y, cosine


@inlined
def _take(layers, x, y, wide, narrow, bands):  # type: ignore[no-untyped-def]
    """Adds a picture's colours at (x, y) to a texel's (6,), each band with its own weight."""
    height, width = layers.shape[:2]
    c, r = whole(x - 0.5), whole(y - 0.5)
    wx, wy = _cubic(x - 0.5 - c), _cubic(y - 0.5 - r)
    for dy in range(4):
        rr = min(max(r + dy - 1, 0), height - 1)
        for dx in range(4):
            cc = min(max(c + dx - 1, 0), width - 1)
            share = wx[dx] * wy[dy]
            for a in range(3):
                bands[a] += wide * share * layers[rr, cc, a]
                bands[3 + a] += narrow * share * layers[rr, cc, 3 + a]


@kernel
def _gather(  # type: ignore[no-untyped-def]
    layers,
    depth,
    trust,
    m,
    eye,
    reach,
    face,
    bary,
    vertices,
    faces,
    normals,
    place,
    slow,
    detail,
    bands,
    weight,
    start,
    stop,
):
    p, n = place[0], place[1]
    for row in range(start, stop):
        for column in range(face.shape[1]):
            f = face[row, column]
            if f < 0:
                continue
            b0, b1 = bary[row, column, 0], bary[row, column, 1]
            b2 = 1.0 - b0 - b1
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            for a in range(3):
                p[a] = b0 * vertices[i, a] + b1 * vertices[j, a] + b2 * vertices[k, a]
                n[a] = b0 * normals[i, a] + b1 * normals[j, a] + b2 * normals[k, a]
            x, y, cosine = _seen(p, n, m, eye, reach, depth)
            if not cosine > GRAZING:  # nan, too: a normal without a length
                continue
            trusted = trust[int(y), int(x)]
            wide, narrow = max(cosine**slow * trusted, LEAST), max(cosine**detail * trusted, LEAST)
            _take(layers, x, y, wide, narrow, bands[row, column])
            weight[row, column, 0] += wide
            weight[row, column, 1] += narrow


def _positions(fragments: Fragments, where: Array, vertices: Array, faces: Array) -> Array:
    corners = vertices[faces[fragments.face[where]]]
    b = fragments.bary[where]
    return corners[:, 0] * b[:, :1] + corners[:, 1] * b[:, 1:] + corners[:, 2] * (1 - b.sum(axis=1, keepdims=True))


def _own_colours(
    own: Callable[[Array], Array] | None,
    fragments: Fragments,
    surface: Array,
    seen: Array,
    colour: Array,
    vertices: Array,
    faces: Array,
) -> Array | None:
    """The mesh's own colours of all texels on the surface, [S, S, 3], with each channel's contrast and brightness as the
    photographs have them where they see; None where it has none."""
    if own is None or not seen.any():
        return None
    base = np.zeros_like(colour)
    base[surface] = own(_positions(fragments, surface, vertices, faces))
    for k in range(3):
        x, y = base[seen][:, k], colour[seen][:, k]
        gain = float(np.clip(np.cov(x, y)[0, 1] / max(float(x.var()), 1e-6), *TONES))
        base[..., k] = (base[..., k] - x.mean()) * gain + y.mean()
    return base


def _fill_unseen(
    colour: Array,
    base: Array | None,
    unseen: Array,
    seen: Array,
    fragments: Fragments,
    vertices: Array,
    faces: Array,
    normals: Array,
) -> None:
    """Gives `unseen` texels the mean of the nearest seen ones in space, weighted by 1 / distance; in place. What faces another
    way is further away: the inside of a thin wall must not take the colours of its outside. With a `base`, what is taken from the
    seen ones is how they differ from it, and ever less the further away they are: at the seam nothing jumps."""
    if not unseen.any() or not seen.any():
        return
    step = max(1, int(seen.sum()) // 100_000)  # a denser tree costs time and changes nothing visible
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))

    def places(where: Array) -> Array:
        return np.hstack(
            [_positions(fragments, where, part, faces) for part in (vertices, TURNED * diagonal * normals)]
        )

    tree = cKDTree(places(seen)[::step])
    distance, nearest = tree.query(places(unseen), k=8, workers=-1)
    weight = 1.0 / np.maximum(distance, 1e-9)
    known = (colour if base is None else colour - base)[seen][::step]
    nearest = np.minimum(nearest, len(known) - 1)  # fewer than eight known texels: the tree reports one past the end
    weight[~np.isfinite(distance)] = 0.0
    taken = (known[nearest] * (weight / weight.sum(axis=1, keepdims=True))[..., None]).sum(axis=1)
    if base is not None:
        taken = base[unseen] + taken * np.exp(-((distance[:, :1] / (SEAM * diagonal)) ** 2))
    colour[unseen] = taken
