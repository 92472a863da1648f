"""Least squares for the cameras and the depth encoding of six depth renders.

Lengths are in half picture widths, see `rig_model`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.calibration.observations import DIRECTIONS, Observations, unit_directions
from steps.calibration.rig_model import (
    CURVE,
    EncodingModel,
    curve_is_monotone,
    to_world_all,
    unpack_params,
)
from steps.calibration.rig_residuals import NO_EXTENT, finite_difference_jacobian, rig_residuals
from steps.compute.arrays import Array
from steps.compute.kernels import for_bands

PARAM_STD = np.array([0.025, 0.03, 0.03, 0.02, 0.02])  # prior standard deviations of the per-view parameters
PER_VIEW_RANGE_STD = np.array([0.025, 0.03, 0.03, 0.5, 0.5])  # the same where each view stretched its values for itself
CURVE_STD = np.array([2.5, 0.3, 0.15])  # prior standard deviations of the curve's parameters
N_INDEPENDENT = 500.0  # independent observations among all of them, which the prior is weighed against
# true error of the perspective over the standard error for independent residuals: those of one view are correlated. Root mean
# square over a hundred captures of `python -m tests.benchmarks captures`
STD_ERROR_FACTOR = 1.2


@dataclass(frozen=True)
class Tolerance:
    """Scales of the robust loss, half widths. occlusion_limit: of points behind the surface, which may be hidden; error_limit:
    of all others, where Geman and McClure's loss levels off; noise: standard deviation of a good fit's residuals.

    redescending: 1 for points behind the surface, 2 also for those in front: a loss whose pull goes back to zero. 1 spares
    concave shapes; 2 also noisy depth, which would push the surfaces backwards and the perspective after them. Redescending
    losses have no gradient far from the solution: use for the final fit only."""

    occlusion_limit: float
    error_limit: float
    noise: float
    redescending: int = 0


ROUGH = Tolerance(0.05, 0.15, 0.02)
EXACT = Tolerance(0.03, 0.04, 0.008)
STRICT = Tolerance(0.008, 0.012, 0.003, 1)  # for parameters that are given, and may be far off
FINEST = Tolerance(0.008, 0.016, 0.003, 2)
# where per-view ranges are free: FINEST would let a view recede until its points are all hidden
FINE = Tolerance(0.008, 0.016, 0.003, 1)


@dataclass(frozen=True)
class Fit:
    """params: (SHARED + 6 * PER_VIEW,); cost: mean squared residual in units of the tolerance's noise, plus the prior;
    std_error: of the perspective, 0 where it was fixed or not computed; final_cost: the cost by FINEST, where the fit was
    refined."""

    params: Array
    cost: float
    std_error: float = 0.0
    final_cost: float = np.inf


@dataclass(frozen=True)
class State:
    """errors: residuals and prior, scaled so that the sum of their squares is the cost; extents: (6, 6, DIRECTIONS), support
    functions of each view's points in each other; world_points: (6, n, 6)."""

    errors: Array
    extents: Array
    world_points: Array

    @property
    def cost(self) -> float:
        return float(self.errors @ self.errors)


class Problem:
    """Robust nonlinear least squares over one rig's parameters. axes: (6, 3, 3), each camera's right, up and back in the world;
    used: (6,) bool, views that take part; free: bool per parameter; stride: every so many'th point."""

    def __init__(
        self,
        observations: Observations,
        axes: Array,
        encoding: EncodingModel,
        used: Array,
        free: Array,
        stride: int = 1,
        tolerance: Tolerance = ROUGH,
    ) -> None:
        self.observations, self.axes, self.encoding, self.used = (
            observations,
            np.ascontiguousarray(axes),
            encoding,
            used,
        )
        self.tolerance = tolerance
        self.free = np.flatnonzero(free)
        self.max_step = np.where(self.free == CURVE.start, 1.0, 0.15)
        sampled = observations.points[:, ::stride]
        self.n_points = sampled.shape[1]
        self.points = np.concatenate([sampled, observations.extreme_points], axis=1)
        n_views = int(used.sum())
        self.n_residuals = n_views * (n_views - 1) * self.n_points + n_views * DIRECTIONS
        self.unit = 1 / (tolerance.noise * np.sqrt(self.n_residuals))
        self.directions = unit_directions()
        spread = PER_VIEW_RANGE_STD if observations.per_view_range else PARAM_STD
        self.prior_std = np.concatenate([np.full(CURVE.start, np.inf), CURVE_STD, np.tile(spread, 6)]) * np.sqrt(
            N_INDEPENDENT
        )

    def evaluate(self, params: Array) -> State:
        """Residuals at these parameters; infinite where the curve is not monotone."""
        if not curve_is_monotone(params):
            return State(np.full(1, np.inf), np.empty(0), np.empty(0))
        s, t, c = self.observations, self.tolerance, self.encoding
        unpacked, world_points = unpack_params(params), np.empty((*self.points.shape[:2], 6))
        for i in range(6):
            to_world_all(self.points[i], self.axes[i], unpacked, i, c.inverse, c.ray, world_points[i])
        extents, errors = np.full((6, 6, DIRECTIONS), NO_EXTENT), np.empty(self.n_residuals + len(params))
        rig_residuals(
            world_points, world_points[0], self.n_points, s.values, s.slopes, s.silhouette_distance, s.silhouette_extent,
            self.directions, self.axes, self.used, unpacked, c.inverse, c.ray, -1, t.occlusion_limit, t.error_limit,
            t.redescending, self.unit, extents, errors,
        )  # fmt: skip
        errors[self.n_residuals :] = params / self.prior_std
        errors[self.n_residuals] = max(0.0, abs(params[0] - 0.4) - 0.4)  # fields of view from 0 to 77 degrees
        return State(errors, extents, world_points)

    def minimize(self, params: Array, rounds: int) -> Fit:
        """Levenberg-Marquardt from `params`."""
        params, state, damping = params.copy(), self.evaluate(params), 1e-3
        if not np.isfinite(state.cost):
            return Fit(params, np.inf)
        for _ in range(rounds):
            jacobian = self.jacobian(params, state)
            square, gradient = jacobian @ jacobian.T, jacobian @ state.errors
            before = state.cost
            for _ in range(7):
                step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -gradient)
                trial = params.copy()
                trial[self.free] += np.clip(step, -self.max_step, self.max_step)
                trial[0] = max(trial[0], 0.0)
                trial_state = self.evaluate(trial)
                if trial_state.cost < state.cost:
                    params, state, damping = trial, trial_state, damping / 4
                    break
                damping *= 6
            if state.cost > before * (1 - 1e-5):
                break
        return Fit(params, state.cost)

    def std_error(self, params: Array) -> float:
        """Standard error of the perspective, with all parameters free."""
        jacobian = self.jacobian(params, self.evaluate(params))
        square = jacobian @ jacobian.T
        return STD_ERROR_FACTOR * float(
            np.sqrt(np.linalg.inv(square + 1e-9 * np.eye(len(square)))[0, 0] / N_INDEPENDENT)
        )

    def jacobian(self, params: Array, before: State) -> Array:
        """(free parameters, residuals): finite differences."""
        s, t, c = self.observations, self.tolerance, self.encoding
        rows = np.empty((len(self.free), len(before.errors)))

        def fill(start: int, stop: int) -> None:
            finite_difference_jacobian(
                self.points, before.world_points, before.errors[: self.n_residuals], self.n_points, s.values, s.slopes,
                s.silhouette_distance, s.silhouette_extent, self.directions, self.axes, self.used, params, c.inverse, c.ray,
                t.occlusion_limit, t.error_limit, t.redescending, self.unit, before.extents, self.free[start:stop],
                np.empty_like(params), np.empty_like(before.world_points), np.empty_like(before.extents), rows[start:stop],
            )  # fmt: skip

        for_bands(fill, len(self.free))
        rows[:, self.n_residuals :] = (np.eye(len(params)) / self.prior_std)[self.free]
        rows[self.free == 0, self.n_residuals] = np.sign(params[0] - 0.4) * (abs(params[0] - 0.4) > 0.4)
        return rows
