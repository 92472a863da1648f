"""Selects the model of stored depth for six views under known cameras: the simplest that fits.

The silhouettes give the depth of each view's nearest point. A scan over the depth of the farthest value and the curve's
exponent gives starts; each model is fitted from the best of these. Per-view models are tried only where no shared one fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steps.calibration.depth_fit import LEAST_WIDTH, SILHOUETTE_STD, WIDTHS, Fit, Problem, Scale, cost, problem, solve
from steps.calibration.depth_models import Model, Offset
from steps.calibration.depth_views import Frame
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map

N_DEPTHS = 10  # depths of the farthest value in the scan
EXPONENTS = (0.45, 1.0, 2.2)  # of the curve in the scan
SCAN_PIXELS, COMPARISON_PIXELS = 250, 350  # pixels of each view in the scan, and in the comparison of models
N_REFINED, REFINED_COST = 3, 1.6  # so many models, and up to so many times the best cost, are refined
N_VALUES = 9  # at which a model is fitted to the depths of a start
KNOTS = 9  # of an unnamed curve
SCAN_SCALE = Scale(SILHOUETTE_STD, SILHOUETTE_STD, WIDTHS[0], WIDTHS[0])
LATE_WIDTHS = WIDTHS[2:3]  # widths where the start is near
EXPLAINED_COST, EXPLAINED_NOISE = 0.8, 0.12  # cost and surface noise (pixels) at noise level
ROUNDING_NOISE = 0.35  # of a quantization level, the noise of rounding (0.29), with a margin
TIE = 1.15  # times the best one's cost, up to which a model fits as well
COMPLEXITY_PENALTY = 1.01  # factor on the cost per step of complexity, between models with as many parameters
PLAUSIBLE_COST = 9.0  # cost up to which a shared model may be right but for an unnamed curve
# fmt: skip
SHARED_MODELS = (
    Model("inverse"),
    Model("logarithmic"),
    Model(ray=True),
    Model("inverse", ray=True),
    Model(curve="srgb"),
    Model(curve={"gamma": 2.2}),
    Model("inverse", curve="srgb"),
    Model(free_exponent=True),
    Model("inverse", free_exponent=True),
)
PER_VIEW_MODELS = (Model(per_view=True), Model("inverse", per_view=True), Model(curve="srgb", per_view=True))


@dataclass(frozen=True)
class Start:
    """Depths (6, N_VALUES) at stored values (6, N_VALUES) of each view."""

    values: Array
    depths: Array
    exponent: float
    cost: float = np.inf

    def params_of(self, model: Model) -> Array:
        """The model's parameters closest to these depths."""
        if model.per_view:
            pairs = zip(self.values, self.depths, strict=True)
            return np.concatenate([model.fit_line(v, z, self.exponent) for v, z in pairs])
        return model.fit_line(self.values.ravel(), self.depths.ravel(), self.exponent)


def find_model(p: Problem, frame: Frame) -> Fit:
    """The best model. Its cost says whether it is right: about 1 if so."""
    start = shared_starts(p, frame)[0]
    rough = problem(p.views, COMPARISON_PIXELS)
    linear = solve(rough, Model(), start.params_of(Model()))
    if explains_everything(linear):
        return solve(p, Model(), linear.params, ())
    shared = _by_cost([linear, *_fit(rough, SHARED_MODELS, start, LATE_WIDTHS)])
    if shared[0].cost < PLAUSIBLE_COST:
        best = simplest(p, _refine(p, shared))
        return best if explains_everything(best) or _is_rounding(p, best) else simplest(p, [best, _fit_offset(p, best)])
    per_view = _by_cost(_fit(rough, PER_VIEW_MODELS, per_view_starts(p, frame)[0], WIDTHS[1:3]))
    if per_view[0].cost < PLAUSIBLE_COST:
        return simplest(p, _refine(p, per_view))
    best = min(_fit_offset(rough, shared[0]), per_view[0], key=lambda f: f.cost)
    return solve(p, best.model, best.params, ()) if best.cost < PLAUSIBLE_COST else best


def explains_everything(fit: Fit) -> bool:
    """Whether the residuals are at noise level, so that no other model can improve on it."""
    return fit.cost <= EXPLAINED_COST and fit.noise <= EXPLAINED_NOISE


def _is_rounding(p: Problem, fit: Fit) -> bool:
    """Whether the remaining noise is that of quantization: a spline would follow its stairs."""
    values = np.concatenate([s.value for s in p.samples])
    half_level = max(v.level for v in p.views) / 2
    above, below = (
        fit.model.depth(values + side, fit.model.view_params(fit.params, 0))[0] for side in (half_level, -half_level)
    )
    level_depth = float(np.median(np.abs(above - below))) / p.pixel
    return fit.cost <= EXPLAINED_COST and fit.noise <= ROUNDING_NOISE * level_depth


def _by_cost(fits: list[Fit]) -> list[Fit]:
    return sorted(fits, key=lambda f: f.cost)


def _fit(p: Problem, models: tuple[Model, ...], start: Start, widths: tuple[float, ...]) -> list[Fit]:
    return parallel_map(lambda m: solve(p, m, start.params_of(m), widths), models)


def _refine(p: Problem, rough: list[Fit]) -> list[Fit]:
    """The best and the simplest of those nearly as good, fitted with all points; sorted by cost."""
    close = [f for f in rough if f.cost <= REFINED_COST * rough[0].cost and f is not rough[0]]
    chosen = [rough[0], *sorted(close, key=lambda f: f.model.complexity)[: N_REFINED - 1]]
    return _by_cost(parallel_map(lambda f: solve(p, f.model, f.params, ()), chosen))


def simplest(p: Problem, fits: list[Fit]) -> Fit:
    """The fit with the fewest parameters among those that tie with the best, by their own surface noise."""
    noise = min(f.noise for f in fits if f.cost <= 2 * min(g.cost for g in fits))
    least = LEAST_WIDTH * p.pixel
    scale = Scale(noise, SILHOUETTE_STD, least, least)
    costs = [cost(f.rows, scale) for f in fits if f.rows is not None]
    tied = [(f, c) for f, c in zip(fits, costs, strict=True) if c <= TIE * min(costs)]
    fewest = min(len(f.params) for f, _ in tied)
    return min(
        (c * COMPLEXITY_PENALTY**f.model.complexity, i, f) for i, (f, c) in enumerate(tied) if len(f.params) == fewest
    )[2]


def _fit_offset(p: Problem, base: Fit) -> Fit:
    """Fits an unnamed curve: a spline added to a model's depth, with knots between equal numbers of pixels and equal steps of
    value."""
    if not p.span[1] > p.span[0]:  # one value has no curve
        return base
    values = np.concatenate([s.value for s in p.samples])
    knots = (np.quantile(values, np.linspace(0, 1, KNOTS)) + np.linspace(*p.span, KNOTS)) / 2
    knots[0], knots[-1] = p.span
    model = Offset(ray=base.model.ray, base=base.model, base_params=tuple(base.params), knots=tuple(knots))
    return solve(p, model, np.zeros(KNOTS), LATE_WIDTHS)


# -- where to begin -----------------------------------------------------------------------------------------------------


def shared_starts(p: Problem, frame: Frame) -> list[Start]:
    """Starts for one curve that all views share, sorted by cost."""
    low, high = p.span
    values = np.tile(np.linspace(low, high, N_VALUES), (6, 1))
    normalized_values = (values - low) / max(high - low, 1e-12)
    starts = []
    for farther in (True, False):
        ends = [s[0] if farther else -s[1] for s in p.spans]
        near = float(frame.nearest[int(np.argmin(ends))])
        far = float(np.max(frame.furthest)) - near
        for exponent in EXPONENTS:
            shape = (normalized_values if farther else 1 - normalized_values) ** exponent
            starts += [Start(values, near + t * far * shape, exponent if farther else 1.0) for t in DEPTH_FRACTIONS]
    return _score(p, starts, Model(free_exponent=True))


DEPTH_FRACTIONS = (np.arange(N_DEPTHS) + 1) / N_DEPTHS


def per_view_starts(p: Problem, frame: Frame) -> list[Start]:
    """Starts for a curve per view: each begins at the nearest depth that the visual hull has for the view."""
    values = np.stack([np.linspace(*s, N_VALUES) for s in p.spans])
    normalized_values = np.tile(np.linspace(0, 1, N_VALUES), (6, 1))
    extent = (frame.furthest - frame.nearest)[:, None]
    starts = []
    for farther in (True, False):
        shape = normalized_values if farther else 1 - normalized_values
        starts += [Start(values, frame.nearest[:, None] + t * extent * shape, 1.0) for t in DEPTH_FRACTIONS]
    best = _score(p, starts, Model(per_view=True))[:2]
    return sorted((_scan_each_view(p, s, frame) for s in best), key=lambda s: s.cost)


def _scan_each_view(p: Problem, start: Start, frame: Frame) -> Start:
    """Coordinate descent: one view after another at the best depth of its farthest value."""
    near = frame.nearest[:, None]
    extent = frame.furthest - frame.nearest
    for view in range(6):
        shape = (start.depths[view] - near[view]) / max(float(np.ptp(start.depths[view])), 1e-12)
        starts = [start]
        for t in DEPTH_FRACTIONS:
            depths = start.depths.copy()
            depths[view] = near[view] + t * extent[view] * shape
            starts.append(replace(start, depths=depths))
        start = _score(p, starts, Model(per_view=True))[0]
    return start


def _score(p: Problem, starts: list[Start], model: Model) -> list[Start]:
    scan = problem(p.views, SCAN_PIXELS)

    def with_cost(start: Start) -> Start:
        return replace(start, cost=cost(scan.rows(model, start.params_of(model), False), SCAN_SCALE))

    return sorted(parallel_map(with_cost, starts), key=lambda s: s.cost)
