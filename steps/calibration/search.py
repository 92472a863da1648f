"""Search for the rig of six depth renders: the hypothesis about the view names, the in-plane rotation of top and bottom, and the
camera parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from steps.calibration.hypotheses import Hypothesis, axes_of, perspective_of
from steps.calibration.observations import DIRECTIONS, Observations, all_points, points_of, with_extreme_points
from steps.calibration.rig_model import CURVE, PER_VIEW, SHARED, EncodingModel, initial_params, to_world
from steps.calibration.solver import EXACT, FINE, FINEST, ROUGH, Fit, Problem, Tolerance
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map

RING = np.array([True, True, True, True, False, False])
ALL = np.ones(6, bool)


PARAMETERS = np.arange(SHARED + 6 * PER_VIEW)
# factor on the cost of inverse depth, and of depth along rays, against linear depth along the axis
ENCODING_PENALTY = 1.005
FIELDS_OF_VIEW = (0, 12, 22, 32, 42, 52, 62, 72)  # degrees: fields of view to begin from
N_PERSPECTIVES = 3  # of them are tried with other encodings
N_REFINED = 4  # of all these starts are refined
# standard errors of perspective, below which it is taken for none: such cameras are common, very long lenses not
ORTHOGRAPHIC_SIGMAS = 2.0
# a cost so many times the best one's, and this more, from which no other parameters help a hypothesis
HOPELESS_COST = (6.0, 1.0)
ENCODINGS = tuple(EncodingModel(inverse, ray) for inverse, ray in product((0, 1), (0, 1)))
CURVED_ENCODINGS = (EncodingModel(curved=1), EncodingModel(ray=1, curved=1))
# the same factor and constant, up to which a fit to an eighth of the points is repeated with a quarter: the true arrangement of a
# symmetric shape can fit an eighth twice as badly as another one
CLOSE_COST = (4.0, 0.1)
N_PER_VIEW = 12  # hypotheses that are refined where each view has its own range
PER_VIEW_PERSPECTIVES = (0.1, 0.29, 0.49)  # perspectives to begin from, of such
CURVE_RATES = (-3.5, -1.5, 1.5, 3.5)  # of curves to begin from
# of curves that a search begins from, since no fit that is straight at first leads to a curve as strong as Filmic's: view
# transforms compress what is bright, so that undone they are convex
STRONG_RATES = (3.0,)
CURVE_PENALTY = 1.03  # factor on the cost of a curve against none


@dataclass(frozen=True)
class Candidate:
    """A hypothesis with its best parameters. fit.cost: about 0.5 for the right one."""

    hypothesis: Hypothesis
    encoding: EncodingModel
    fit: Fit

    @property
    def rig(self) -> Rig:
        return Rig(self.hypothesis, self.encoding, self.fit.params)


@dataclass(frozen=True)
class Rig:
    """Six cameras with their depth encoding: what a fit starts from. params: see `rig_model`."""

    hypothesis: Hypothesis
    encoding: EncodingModel
    params: Array


@dataclass(frozen=True)
class Schedule:
    """Settings of a fit: stride over the points, iterations, and scales of the loss."""

    stride: int
    rounds: int
    tolerance: Tolerance = ROUGH


def normals(observations: Observations, candidate: Candidate) -> Array:
    """(6, s, s, 3): world unit normals of each view's surface; zero where there is none."""
    axes, fit = axes_of(candidate.hypothesis), candidate.fit
    normals = np.zeros((*observations.values.shape, 3))
    for i, values in enumerate(observations.values):
        r, c = np.nonzero(values >= 0)
        normals[i, r, c] = to_world(points_of(values, r, c), axes[i], candidate.encoding, fit.params, i)[:, 3:]
    return normals


def search(observations: Observations, allowed: list[Hypothesis]) -> list[Candidate]:
    """Fits every allowed hypothesis; sorted by cost."""
    rough = _rough_fits(observations, allowed)
    if observations.per_view_range:
        return _search_per_view(observations, rough)
    best = _best_refit(observations, rough)
    curved = _best_refit(observations, _rough_fits(observations, allowed, STRONG_RATES))
    refitted = parallel_map(lambda c: _fit_encoding(observations, best, c), ENCODINGS)
    curves = [*product([best], CURVE_RATES), (curved, float(curved.fit.params[CURVE.start]))]
    refitted += parallel_map(lambda c: _fit_encoding(observations, c[0], CURVED_ENCODINGS[0], c[1]), curves)
    best_encoded = min(refitted, key=_penalized_cost)
    candidates = parallel_map(lambda c: _fit_other_hypothesis(observations, c.hypothesis, best_encoded), rough)
    return sorted(candidates, key=lambda c: c.fit.cost)


def _best_refit(observations: Observations, rough: list[Candidate]) -> Candidate:
    refits = parallel_map(lambda c: _fit(observations, c.rig, Schedule(8, 8)), rough[:6])
    return min(refits, key=lambda c: c.fit.cost)


def _fit(
    observations: Observations, start: Rig, schedule: Schedule, used: Array = ALL, shared_only: bool = False
) -> Candidate:
    free = _free_params(observations, start.encoding, shared_only)
    free[0] = perspective_of(start.hypothesis) is None
    axes, stride, tolerance = axes_of(start.hypothesis), schedule.stride, schedule.tolerance
    problem = Problem(observations, axes, start.encoding, used, free, stride, tolerance)
    return Candidate(start.hypothesis, start.encoding, problem.minimize(start.params, schedule.rounds))


def _free_params(observations: Observations, encoding: EncodingModel, shared_only: bool = False) -> Array:
    """Which parameters are optimized: bool, as PARAMETERS."""
    free = (PARAMETERS < SHARED) | (not shared_only)
    free[CURVE] = encoding.curved
    for view_start in range(SHARED, len(PARAMETERS), PER_VIEW):  # what a view's range is of
        free[view_start + 3 : view_start + PER_VIEW] |= observations.per_view_range
    return free


def _start_params(observations: Observations, hypothesis: Hypothesis) -> list[Array]:
    """Starting points: a grid over perspective and end heights, with larger values nearer and larger values farther."""
    fixed = perspective_of(hypothesis)
    perspectives = (0.15, 0.45) if fixed is None else (fixed,)
    if observations.per_view_range:
        return [_per_view_start(observations, hypothesis, *s) for s in product(perspectives, (True, False))]
    radius = (
        float(
            np.mean(observations.silhouette_extent + np.roll(observations.silhouette_extent, DIRECTIONS // 2, axis=1))
        )
        / 2
    )
    starts = []
    for k, near, far in product(perspectives, (0.8, 1.1), (0.0, -0.5, -1.0)):
        for low, high in ((near, far), (far, near)):
            starts.append(initial_params(k, low * radius, high * radius))
    return starts


def _per_view_start(observations: Observations, hypothesis: Hypothesis, k: float, larger_is_farther: bool) -> Array:
    """Start for per-view ranges: each view's values span from the silhouettes' nearest point to half way behind the centre."""
    axes = axes_of(hypothesis)
    near = np.array([_silhouette_extent(observations, axes, a) for a in axes[:, 2]])
    far = (near - [_silhouette_extent(observations, axes, -a) for a in axes[:, 2]]) / 2
    ends = np.stack([near, far] if larger_is_farther else [far, near], axis=1)
    low, high = ends.mean(axis=0)
    params = initial_params(k, low, high)
    gains = (ends[:, 1] - ends[:, 0]) / (high - low)
    params[SHARED + 3 :: PER_VIEW], params[SHARED + 4 :: PER_VIEW] = gains - 1, ends[:, 0] - low * gains
    return params


def _silhouette_extent(observations: Observations, axes: Array, direction: Array) -> float:
    """Extent of the object from its centre along a world direction: median over the views that see it from the side."""
    local = axes @ direction  # (6, 3)
    side_on = np.abs(local[:, 2]) < np.sqrt(0.5)
    steps = np.rint(np.arctan2(local[:, 1], local[:, 0]) * DIRECTIONS / (2 * np.pi)).astype(int) % DIRECTIONS
    extent = observations.silhouette_extent[np.arange(len(axes)), steps]
    return float(np.median(extent[side_on] if side_on.any() else observations.silhouette_extent))


def _rough_fits(
    observations: Observations, allowed: list[Hypothesis], rates: tuple[float, ...] = (0.0,)
) -> list[Candidate]:
    """A rough fit of every hypothesis, sorted by cost. The upright views, whose cameras many hypotheses share, determine
    perspective and depth for all of these; top and bottom are added afterwards. rates: of the curve, which stays as it is."""
    jobs = []
    for first in {(r.left_is, r.preset): r for r in allowed}.values():
        upright = ALL if first.preset else RING
        similar = [r for r in allowed if (r.left_is, r.preset) == (first.left_is, first.preset)]
        if observations.per_view_range:  # four views do not determine perspective and all ranges
            jobs += [(r, params) for r in similar for params in _start_params(observations, r)]
            continue
        for params in _fit_upright(observations, first, upright, rates):
            jobs += [(r, params) for r in similar]
    fits = parallel_map(
        lambda j: _fit(observations, Rig(j[0], EncodingModel(), j[1]), Schedule(12, 6), shared_only=True), jobs
    )
    best: dict[Hypothesis, Candidate] = {}
    for candidate in sorted(fits, key=lambda c: c.fit.cost):
        best.setdefault(candidate.hypothesis, candidate)
    return list(best.values())


def _fit_upright(
    observations: Observations, hypothesis: Hypothesis, used: Array, rates: tuple[float, ...]
) -> list[Array]:
    """The best parameters by the views in use: two sets with larger values farther, two with larger values nearer."""
    starts = [_with_curve(params, rate) for params, rate in product(_start_params(observations, hypothesis), rates)]
    candidates = parallel_map(
        lambda t: _fit(observations, Rig(hypothesis, EncodingModel(), t), Schedule(8, 8), used, shared_only=True),
        starts,
    )
    best = []
    for larger_is_farther in (True, False):
        fits = [c.fit for c in candidates if (c.fit.params[1] > c.fit.params[2]) == larger_is_farther]
        best += [fit.params for fit in sorted(fits, key=lambda f: f.cost)[:2]]
    return best


def _fit_encoding(observations: Observations, best: Candidate, encoding: EncodingModel, rate: float = 0.0) -> Candidate:
    """The candidate refitted with another encoding. rate: of the curve to start from."""
    rough = _fit(observations, Rig(best.hypothesis, encoding, _with_curve(best.fit.params, rate)), Schedule(8, 12))
    return _fit(observations, rough.rig, Schedule(4, 8, EXACT))


def _search_per_view(observations: Observations, rough: list[Candidate]) -> list[Candidate]:
    """All hypotheses sorted by cost, where each view has its own range. All start from the refined best one: from rough
    parameters other hypotheses of a symmetric shape would not reach their own optimum."""
    best = _fit_encoding_per_view(observations, rough[:N_PER_VIEW])
    candidates = parallel_map(lambda c: _fit_other_hypothesis(observations, c.hypothesis, best, FINE), rough)
    best = refine(observations, min(candidates, key=lambda c: c.fit.cost))
    candidates = parallel_map(
        lambda c: _fit_fixed_perspective(observations, replace(best.rig, hypothesis=c.hypothesis), (FINE,), 8, 6), rough
    )
    limit = CLOSE_COST[0] * min(c.fit.cost for c in candidates) + CLOSE_COST[1]

    def fit_closer(c: Candidate) -> Candidate:
        if c.fit.cost > limit:
            return c
        return _fit_fixed_perspective(observations, c.rig, (FINE,), 4, 8)

    return sorted(parallel_map(fit_closer, candidates), key=lambda c: c.fit.cost)


def _fit_encoding_per_view(observations: Observations, rough: list[Candidate]) -> Candidate:
    """The best encoding where each view has its own range. Per-view ranges nearly compensate for a wrong perspective, so it is
    fixed at a few values, and only the finest tolerance tells these apart."""

    def fit_fixed(start: tuple[Candidate, EncodingModel, float]) -> Candidate:
        candidate, encoding, k = start
        params = (
            candidate.fit.params
            if perspective_of(candidate.hypothesis) is not None
            else _with_perspective(candidate.fit.params, k)
        )
        start_rig = Rig(candidate.hypothesis, encoding, params)
        return _fit_fixed_perspective(observations, start_rig, (ROUGH, EXACT, FINE), 8, 4)

    best = min(parallel_map(fit_fixed, product(rough, ENCODINGS[:1], PER_VIEW_PERSPECTIVES)), key=_penalized_cost)
    k = float(best.fit.params[0])
    refitted = parallel_map(fit_fixed, product([best], [*ENCODINGS[1:], CURVED_ENCODINGS[0]], [k]))
    candidate = min([best, *refitted], key=_penalized_cost)
    return _fit(observations, candidate.rig, Schedule(4, 8, FINE))


def _fit_other_hypothesis(
    observations: Observations, hypothesis: Hypothesis, best: Candidate, tolerance: Tolerance = EXACT
) -> Candidate:
    """Another hypothesis, fitted from the best one's parameters: where the shape is symmetric these fit it, too. The cost is
    over all points; one far above the best is not refined."""
    params = best.fit.params
    before = cost(observations, hypothesis, best.encoding, params, tolerance)
    if before > HOPELESS_COST[0] * best.fit.cost + HOPELESS_COST[1]:
        return Candidate(hypothesis, best.encoding, Fit(params, before))
    fit = _fit(observations, Rig(hypothesis, best.encoding, params), Schedule(8, 6, tolerance)).fit
    return Candidate(
        hypothesis, best.encoding, Fit(fit.params, cost(observations, hypothesis, best.encoding, fit.params, tolerance))
    )


def cost(
    observations: Observations, hypothesis: Hypothesis, encoding: EncodingModel, params: Array, tolerance: Tolerance
) -> float:
    """Cost of a rig over all points."""
    return (
        Problem(observations, axes_of(hypothesis), encoding, ALL, PARAMETERS >= 0, 1, tolerance).evaluate(params).cost
    )


def refine(observations: Observations, best: Candidate) -> Candidate:
    """The final fit: all points, with tolerances that shrink, since residuals of outliers bias the perspective.

    Starts from every perspective and, at the better ones, every encoding: these and the views' scales compensate for each
    other. `Fit.cost` stays that of the comparison; final_cost is the refined one."""
    points, fixed_perspective = all_points(observations), perspective_of(best.hypothesis)
    extended = _with_extreme_points(observations, points, best)
    perspectives = list(np.tan(np.radians(FIELDS_OF_VIEW) / 2)) if fixed_perspective is None else [fixed_perspective]
    fits = _fit_starts(extended, best, product([best.encoding], perspectives, [None]))
    perspectives = [float(c.fit.params[0]) for c in sorted(fits, key=_penalized_cost)[:N_PERSPECTIVES]]
    fits += _fit_starts(extended, best, product([c for c in ENCODINGS if c != best.encoding], perspectives, [None]))
    fits += _fit_starts(
        extended, best, product([c for c in CURVED_ENCODINGS if c != best.encoding], perspectives, _curve_rates(best))
    )
    better = [c.rig for c in sorted(fits, key=_penalized_cost)[:N_REFINED]]
    refits = parallel_map(lambda rig: _fit_fixed_perspective(extended, rig, (FINEST,), 4, 5), better)
    refined = min(refits, key=_penalized_cost)
    for stride in (4, 2):
        extended = _with_extreme_points(observations, points, refined)
        refined = _fit(extended, refined.rig, Schedule(stride, 12, FINEST))
    std_error = _std_error(extended, refined) if fixed_perspective is None else 0.0
    if refined.fit.params[0] < ORTHOGRAPHIC_SIGMAS * std_error:
        encoding = EncodingModel(curved=refined.encoding.curved)
        start = Rig(best.hypothesis, encoding, _with_perspective(refined.fit.params, 0.0))
        refined = _fit_fixed_perspective(extended, start, (FINEST,), 2, 12)
    final_cost = cost(observations, refined.hypothesis, refined.encoding, refined.fit.params, FINEST)
    return replace(refined, fit=Fit(refined.fit.params, best.fit.cost, std_error, final_cost))


def _fit_starts(
    observations: Observations, best: Candidate, starts: Iterable[tuple[EncodingModel, float, float | None]]
) -> list[Candidate]:
    """Rough fits from encodings, fixed perspectives and curve rates (None: keep the curve)."""

    def fit_start(start: tuple[EncodingModel, float, float | None]) -> Candidate:
        encoding, perspective, rate = start
        params = _with_perspective(best.fit.params, perspective)
        if rate is not None or not encoding.curved:
            params = _with_curve(params, rate or 0.0)
        return _fit_fixed_perspective(observations, Rig(best.hypothesis, encoding, params), (EXACT, FINEST), 8, 2)

    return parallel_map(fit_start, starts)


def _curve_rates(best: Candidate) -> list[float | None]:
    """Curve rates to start from in `refine`."""
    return [None] if best.encoding.curved else [CURVE_RATES[1], CURVE_RATES[2]]


def _with_perspective(params: Array, perspective: float) -> Array:
    return np.concatenate([[perspective], params[1:]])


def _with_curve(params: Array, rate: float) -> Array:
    """The parameters with an exponential curve of this rate."""
    return np.concatenate([params[: CURVE.start], [rate, 0.0, 0.0], params[CURVE.stop :]])


def _with_extreme_points(observations: Observations, points: list[Array], candidate: Candidate) -> Observations:
    return with_extreme_points(
        observations, points, axes_of(candidate.hypothesis), candidate.encoding, candidate.fit.params
    )


def _std_error(observations: Observations, candidate: Candidate) -> float:
    problem = Problem(
        observations,
        axes_of(candidate.hypothesis),
        candidate.encoding,
        ALL,
        _free_params(observations, candidate.encoding),
        2,
        FINEST,
    )
    return problem.std_error(candidate.fit.params)


def _fit_fixed_perspective(
    observations: Observations, start: Rig, tolerances: tuple[Tolerance, ...], stride: int, rounds: int
) -> Candidate:
    """Fits with the perspective fixed, with one tolerance after the other."""
    hypothesis, encoding, params = start.hypothesis, start.encoding, start.params
    axes, free = axes_of(hypothesis), _free_params(observations, encoding) & (PARAMETERS > 0)
    for tolerance in tolerances:
        params = Problem(observations, axes, encoding, ALL, free, stride, tolerance).minimize(params, rounds).params
    final_cost = cost(observations, hypothesis, encoding, params, tolerances[-1])
    return Candidate(hypothesis, encoding, Fit(params, final_cost))


def _penalized_cost(candidate: Candidate) -> float:
    """Cost times a penalty, so that linear depth along the axis wins ties."""
    encoding = candidate.encoding
    return candidate.fit.cost * ENCODING_PENALTY ** (encoding.inverse + encoding.ray) * CURVE_PENALTY**encoding.curved
