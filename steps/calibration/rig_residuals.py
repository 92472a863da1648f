"""Residuals of a rig over six depth renders, across surfaces and silhouettes, and the visibility of points across views.

Lengths are in half picture widths, see `rig_model`."""

from __future__ import annotations

import numpy as np

from steps.calibration.observations import Observations
from steps.calibration.rig_model import (
    PER_VIEW,
    SHARED,
    EncodingModel,
    height_in_view,
    project_to_view,
    to_world,
    to_world_all,
    unpack_params,
)
from steps.compute.arrays import Array
from steps.compute.kernels import blend, cell, inlined, kernel

VISIBLE = 0.03  # half widths between a point and the surface in a view, up to which the point counts as visible there
SILHOUETTE_WEIGHT = 3.0  # weight of a silhouette residual against a point's
NO_EXTENT = -9.0  # extent of an empty set of points
# half widths inside an outline over which the weight of depth rises to one: at the rim it is steep and unreliable
RIM_WIDTH = 0.04
# of a parameter, for derivatives: small, since at a good fit the outermost points lie on the outlines, where residuals
# have a kink
DIFFERENCE_STEP = 1e-5


@inlined
def _cell(s, x, y):  # type: ignore[no-untyped-def]
    """Row, column and bilinear weights of the four cells around picture coordinates, clamped to the map."""
    c, _, u = cell((x + 1.0) * 0.5 * s - 0.5, s)
    r, _, v = cell((1.0 - y) * 0.5 * s - 0.5, s)
    return r, c, u, v


@inlined
def _interpolated(values, r, c, u, v):  # type: ignore[no-untyped-def]
    return blend(values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1], u, v)


@inlined
def _lookup_or_nearest(values, r, c, u, v):  # type: ignore[no-untyped-def]
    """Normalized depth, bilinear where all four neighbours have one, else the nearest; -1 for none."""
    if min(values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1]) >= 0:
        return _interpolated(values, r, c, u, v)
    return values[r + int(v >= 0.5), c + int(u >= 0.5)]


@kernel
def _geman_mcclure(error, limit):  # type: ignore[no-untyped-def]
    """Square root of Geman and McClure's loss: the error where it is small, at most the limit."""
    return error / np.sqrt(1.0 + (error / limit) ** 2)


@kernel
def _cross_view_projections(world_points, values, axes, params, inverse, ray, out):  # type: ignore[no-untyped-def]
    for i in range(6):
        for m in range(world_points.shape[1]):
            _, _, _, _, _, own = project_to_view(world_points[i, m], axes[i], params, i)
            for j in range(6):
                out[i, j, m, 2] = 0.0
                if i == j:
                    continue
                px, py, hj, ox, oy, facing = project_to_view(world_points[i, m], axes[j], params, j)
                value = _lookup_or_nearest(values[j], *_cell(values.shape[1], ox, oy))
                if value < 0 or max(abs(ox), abs(oy)) > 1:
                    continue
                seen, _ = height_in_view(value, px, py, params, j, inverse, ray)
                if abs(hj - seen) * max(facing, 0.0) < VISIBLE:
                    out[i, j, m, 0] = ox
                    out[i, j, m, 1] = oy
                    out[i, j, m, 2] = max(0.0, min(facing, own))


def cross_view_projections(
    observations: Observations, axes: Array, encoding: EncodingModel, params: Array
) -> tuple[Array, Array]:
    """Projections of each view's points into the others, (6, 6, n, 3): x, y and the lesser of the two cosines between normal
    and viewing ray, 0 where hidden; and the points' world normals (6, n, 3)."""
    axes = np.ascontiguousarray(axes)
    world_points = np.stack([to_world(observations.points[i], axes[i], encoding, params, i) for i in range(6)])
    out = np.empty((6, 6, observations.points.shape[1], 3))
    _cross_view_projections(
        world_points, observations.values, axes, unpack_params(params), encoding.inverse, encoding.ray, out
    )
    return out, world_points[..., 3:]


@inlined
def _surface_residual(height_difference, slope, facing, occlusion_limit, error_limit, redescending):  # type: ignore[no-untyped-def]
    """Robust distance across the surface of a point that lies `height_difference` above it, towards the camera. slope: the
    surface's."""
    # against steep surfaces the error along the axis is larger than that across the surface
    error = height_difference / np.sqrt(1.0 + min(slope * slope, 25.0))
    # a point behind the surface is hidden, or turned away: its residual is bounded by the smaller limit
    limit, weight = (error_limit, 1.0) if error > 0 else (occlusion_limit, min(max(facing * 4.0, 0.0), 1.0))
    return weight * (
        error / (1.0 + (error / limit) ** 2) if redescending > int(error > 0) else _geman_mcclure(error, limit)
    )


@inlined
def _view_residual(  # type: ignore[no-untyped-def]
    world_point, j, values, slopes, distances, axes, params, inverse, ray, occlusion_limit, error_limit, redescending
):
    """Picture coordinates of a world point (6,) in view j, and its residual there: distance outside the silhouette and from the
    visible surface, in one. values, slopes, distances, axes: of view j."""
    px, py, hj, ox, oy, facing = project_to_view(world_point, axes, params, j)
    r, c, u, v = _cell(values.shape[0], ox, oy)
    distance = _interpolated(distances, r, c, u, v) + max(abs(ox) - 1.0, 0.0) + max(abs(oy) - 1.0, 0.0)
    value = _lookup_or_nearest(values, r, c, u, v)
    error = 0.0
    if value >= 0 and distance < 0:
        seen, slope_of_height = height_in_view(value, px, py, params, j, inverse, ray)
        slope = _interpolated(slopes, r, c, u, v) * slope_of_height
        error = _surface_residual(hj - seen, slope, facing, occlusion_limit, error_limit, redescending) * min(
            -distance / RIM_WIDTH, 1.0
        )
    if distance > 0:
        error = np.sqrt(error * error + _geman_mcclure(distance, error_limit) ** 2)
    return ox, oy, error


@inlined
def _update_extent(extents, directions, x, y, least):  # type: ignore[no-untyped-def]
    """Updates the support function `extents` (DIRECTIONS,) by the point (x, y); returns its minimum. least: the minimum so far:
    a point nearer to the centre changes nothing."""
    if least > 0.0 and x * x + y * y < least * least:
        return least
    least = 9.0
    for d in range(len(directions)):
        extents[d] = max(extents[d], directions[d, 0] * x + directions[d, 1] * y)
        least = min(least, extents[d])
    return least


@kernel
def _pair_residuals(  # type: ignore[no-untyped-def]
    world_points, j, values, slopes, distances, directions, axes, params, inverse, ray,
    occlusion_limit, error_limit, redescending, unit, extents, out,
):  # fmt: skip
    """Residuals in view j of the first len(out) of another view's world points (n, 6), in units; and the support function of
    all of them there, into extents (DIRECTIONS,)."""
    least = NO_EXTENT
    extents[:] = least
    for m in range(len(out), len(world_points)):
        _, _, _, x, y, _ = project_to_view(world_points[m], axes, params, j)
        least = _update_extent(extents, directions, x, y, least)
    for m in range(len(out)):
        x, y, error = _view_residual(
            world_points[m], j, values, slopes, distances, axes, params, inverse, ray, occlusion_limit, error_limit, redescending
        )  # fmt: skip
        out[m] = error * unit
        least = _update_extent(extents, directions, x, y, least)


@kernel
def _silhouette_residuals(extents, reach, used, error_limit, unit, out):  # type: ignore[no-untyped-def]
    """How far the projected points of the other views, extents (6, 6, DIRECTIONS), fall short of each silhouette (6,
    DIRECTIONS)."""
    n = 0
    for j in range(6):
        if used[j]:
            for d in range(reach.shape[1]):
                furthest = NO_EXTENT
                for i in range(6):
                    if used[i] and i != j:
                        furthest = max(furthest, extents[i, j, d])
                out[n] = SILHOUETTE_WEIGHT * _geman_mcclure(reach[j, d] - furthest, error_limit) * unit
                n += 1


@kernel
def rig_residuals(  # type: ignore[no-untyped-def]
    world_points, changed_points, count, values, slopes, distances, reach, directions, axes, used, params, inverse, ray,
    changed_view, occlusion_limit, error_limit, redescending, unit, extents, out,
):  # fmt: skip
    """All residuals of one rig, into `out`, in units: per pair of views and point, and per view and direction of its
    silhouette.

    world_points: (6, n, 6), the first `count` of which have a residual, while all count for the silhouettes. axes: (6, 3,
    3), rows right, up, back; used: the views that take part; extents: (6, 6, DIRECTIONS), support functions of view i's
    points in view j. changed_view: the view whose own parameters alone have changed since world_points, extents and out were
    filled, with its points now at changed_points (n, 6); -1: compute everything."""
    n = 0
    for i in range(6):
        for j in range(6):
            if i == j or not used[i] or not used[j]:
                continue
            if changed_view < 0 or i == changed_view or j == changed_view:
                _pair_residuals(
                    changed_points if i == changed_view else world_points[i], j, values[j], slopes[j], distances[j],
                    directions, axes[j], params, inverse, ray, occlusion_limit, error_limit, redescending, unit,
                    extents[i, j], out[n : n + count],
                )  # fmt: skip
            n += count
    _silhouette_residuals(extents, reach, used, error_limit, unit, out[n:])


@inlined
def _copy_into(source, target):  # type: ignore[no-untyped-def]
    for n in range(len(source)):
        target[n] = source[n]


@kernel
def finite_difference_jacobian(  # type: ignore[no-untyped-def]
    points, world_points, before, count, values, slopes, distances, reach, directions, axes, used, params, inverse, ray,
    occlusion_limit, error_limit, redescending, unit, extents, indices, perturbed, changed_points, scratch_extents, rows,
):  # fmt: skip
    """Forward differences of all residuals by the parameters `indices`, into rows (indices, residuals and more).

    points: (6, n, 5); before: the residuals at params; the others as in `rig_residuals`. perturbed, changed_points,
    scratch_extents: scratch, shaped like params, world_points and extents."""
    for row in range(len(indices)):
        _copy_into(params, perturbed)
        perturbed[indices[row]] += DIFFERENCE_STEP
        for i in range(6):
            perturbed[SHARED + PER_VIEW * i] = np.exp(perturbed[SHARED + PER_VIEW * i])
        changed_view = (indices[row] - SHARED) // PER_VIEW if indices[row] >= SHARED else -1
        for i in range(6):
            if changed_view < 0 or i == changed_view:
                to_world_all(points[i], axes[i], perturbed, i, inverse, ray, changed_points[i])
        out = rows[row][: len(before)]
        _copy_into(before, out)
        for pair in range(36):
            _copy_into(extents[pair // 6, pair % 6], scratch_extents[pair // 6, pair % 6])
        rig_residuals(
            changed_points if changed_view < 0 else world_points, changed_points[max(changed_view, 0)], count, values,
            slopes, distances, reach, directions, axes, used, perturbed, inverse, ray, changed_view, occlusion_limit,
            error_limit, redescending, unit, scratch_extents, out,
        )  # fmt: skip
        for m in range(len(out)):
            out[m] = (out[m] - before[m]) / DIFFERENCE_STEP
