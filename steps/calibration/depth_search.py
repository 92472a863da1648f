"""Which of the models of stored depth explains six views under known cameras: the simplest that does.

The outlines tell where the nearest point of each view lies. From there the search tries how far the furthest value lies and how
the curve bends; each model is fitted from the best of these, and one whose errors are no larger than the best one's is believed.
A curve for each view is asked for only where no common one explains the views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.calibration.depth_fit import LEAST, OUTLINE, WIDTHS, Fit, Problem, Scale, cost, problem, solved
from steps.calibration.depth_models import Model, Offset
from steps.calibration.depth_views import Frame
from steps.compute.kernels import parallel_map

Array = NDArray[Any]
SCAN = 10  # depths of the furthest value that are tried
SHAPES = (0.45, 1.0, 2.2)  # exponents that a curve may begin with
COARSE, ROUGH = 250, 350  # pixels of each view for the scan, and to compare models by
FOLLOWED, NEARLY = 3, 1.6  # so many of the models, and so many times the best cost, are fitted with more
PLACES = 9  # at which a curve is taken over from one model to the next
KNOTS = 9  # of a curve without a name
BEGINNING = Scale(OUTLINE, OUTLINE, WIDTHS[0], WIDTHS[0])
CLOSE = WIDTHS[2:3]  # widths to go on with, where the start is near
EXPLAINS, MEETS = 0.8, 0.12  # cost and noise (pixels) with which a model leaves nothing to explain
STAIRS = 0.35  # of a level of depth, the noise that rounding to levels leaves (0.29), with a margin
AS_GOOD = 1.15  # times the best one's cost, up to which a model explains as much
SIMPLER = 1.01  # times the cost of one that is simpler by one, where both have as many parameters
BELIEVED = 9.0  # cost of a model with one curve for all views that may be right, but for a curve without a name
SHARED = (
    Model("inverse"), Model("logarithmic"), Model(ray=True), Model("inverse", ray=True), Model(curve="srgb"),
    Model(curve={"gamma": 2.2}), Model("inverse", curve="srgb"), Model(bends=True), Model("inverse", bends=True),
)  # fmt: skip
OWN = (Model(per_view=True), Model("inverse", per_view=True), Model(curve="srgb", per_view=True))


@dataclass(frozen=True)
class Start:
    """Depths (6, PLACES) at values (6, PLACES), which each view has there."""

    values: Array
    depths: Array
    exponent: float
    cost: float = np.inf

    def of(self, model: Model) -> Array:
        """The model's parameters that are nearest to it."""
        if model.per_view:
            pairs = zip(self.values, self.depths, strict=True)
            return np.concatenate([model.through(v, z, self.exponent) for v, z in pairs])
        return model.through(self.values.ravel(), self.depths.ravel(), self.exponent)


def found(p: Problem, frame: Frame) -> Fit:
    """The best model. Its cost tells whether to believe it: about 1 where it is right."""
    start = shared_starts(p, frame)[0]
    rough = problem(p.views, ROUGH)
    plain = solved(rough, Model(), start.of(Model()))
    if explains(plain):
        return solved(p, Model(), plain.theta, ())
    common = _ranked([plain, *_fitted(rough, SHARED, start, CLOSE)])
    if common[0].cost < BELIEVED:
        best = simplest(p, _sharpened(p, common))
        return best if explains(best) or _is_rounding(p, best) else simplest(p, [best, _freed(p, best)])
    own = _ranked(_fitted(rough, OWN, own_starts(p, frame)[0], WIDTHS[1:3]))
    if own[0].cost < BELIEVED:
        return simplest(p, _sharpened(p, own))
    best = min(_freed(rough, common[0]), own[0], key=lambda f: f.cost)
    return solved(p, best.model, best.theta, ()) if best.cost < BELIEVED else best


def explains(fit: Fit) -> bool:
    """Whether nothing is left for another model to explain."""
    return fit.cost <= EXPLAINS and fit.noise <= MEETS


def _is_rounding(p: Problem, fit: Fit) -> bool:
    """Whether the noise that is left is that of stored values between which there are none: a curve without a name would follow
    the stairs."""
    values = np.concatenate([s.value for s in p.samples])
    half = max(v.level for v in p.views) / 2
    above, below = (fit.model.depth(values + side, fit.model.own(fit.theta, 0))[0] for side in (half, -half))
    stair = float(np.median(np.abs(above - below))) / p.pixel
    return fit.cost <= EXPLAINS and fit.noise <= STAIRS * stair


def _ranked(fits: list[Fit]) -> list[Fit]:
    return sorted(fits, key=lambda f: f.cost)


def _fitted(p: Problem, models: tuple[Model, ...], start: Start, widths: tuple[float, ...]) -> list[Fit]:
    return parallel_map(lambda m: solved(p, m, start.of(m), widths), models)


def _sharpened(p: Problem, rough: list[Fit]) -> list[Fit]:
    """The simplest of those that are nearly as good as the best one, and that, with all points; best first."""
    near = [f for f in rough if f.cost <= NEARLY * rough[0].cost and f is not rough[0]]
    chosen = [rough[0], *sorted(near, key=lambda f: f.model.complexity)[: FOLLOWED - 1]]
    return _ranked(parallel_map(lambda f: solved(p, f.model, f.theta, ()), chosen))


def simplest(p: Problem, fits: list[Fit]) -> Fit:
    """The one with the fewest parameters of those that explain as much as the best, by the noise of surfaces that it leaves."""
    noise = min(f.noise for f in fits if f.cost <= 2 * min(g.cost for g in fits))
    least = LEAST * p.pixel
    scale = Scale(noise, OUTLINE, least, least)
    costs = [cost(f.rows, scale) for f in fits if f.rows is not None]
    good = [(f, c) for f, c in zip(fits, costs, strict=True) if c <= AS_GOOD * min(costs)]
    fewest = min(len(f.theta) for f, _ in good)
    return min((c * SIMPLER**f.model.complexity, i, f) for i, (f, c) in enumerate(good) if len(f.theta) == fewest)[2]


def _freed(p: Problem, base: Fit) -> Fit:
    """A curve without a name: what has to be added to a model's depth, at knots with equally many pixels and levels between."""
    if not p.span[1] > p.span[0]:  # one value has no curve
        return base
    values = np.concatenate([s.value for s in p.samples])
    knots = (np.quantile(values, np.linspace(0, 1, KNOTS)) + np.linspace(*p.span, KNOTS)) / 2
    knots[0], knots[-1] = p.span
    model = Offset(ray=base.model.ray, base=base.model, fixed=tuple(base.theta), knots=tuple(knots))
    return solved(p, model, np.zeros(KNOTS), CLOSE)


# -- where to begin -----------------------------------------------------------------------------------------------------


def shared_starts(p: Problem, frame: Frame) -> list[Start]:
    """For one curve that all views share, best first."""
    low, high = p.span
    values = np.tile(np.linspace(low, high, PLACES), (6, 1))
    shares = (values - low) / max(high - low, 1e-12)
    tried = []
    for farther in (True, False):
        ends = [s[0] if farther else -s[1] for s in p.spans]
        near = float(frame.nearest[int(np.argmin(ends))])
        far = float(np.max(frame.furthest)) - near
        for exponent in SHAPES:
            bent = (shares if farther else 1 - shares) ** exponent
            tried += [Start(values, near + t * far * bent, exponent if farther else 1.0) for t in _SCANNED]
    return _scored(p, tried, Model(bends=True))


_SCANNED = (np.arange(SCAN) + 1) / SCAN


def own_starts(p: Problem, frame: Frame) -> list[Start]:
    """For a curve of each view's own: each ends at the nearest point that the outlines have for it."""
    values = np.stack([np.linspace(*s, PLACES) for s in p.spans])
    shares = np.tile(np.linspace(0, 1, PLACES), (6, 1))
    thick = (frame.furthest - frame.nearest)[:, None]
    tried = []
    for farther in (True, False):
        bent = shares if farther else 1 - shares
        tried += [Start(values, frame.nearest[:, None] + t * thick * bent, 1.0) for t in _SCANNED]
    best = _scored(p, tried, Model(per_view=True))[:2]
    return sorted((_each_view(p, s, frame) for s in best), key=lambda s: s.cost)


def _each_view(p: Problem, start: Start, frame: Frame) -> Start:
    """One view after another at the depth of its furthest value that suits it best."""
    near = frame.nearest[:, None]
    thick = frame.furthest - frame.nearest
    for view in range(6):
        bent = (start.depths[view] - near[view]) / max(float(np.ptp(start.depths[view])), 1e-12)
        tried = [start]
        for t in _SCANNED:
            depths = start.depths.copy()
            depths[view] = near[view] + t * thick[view] * bent
            tried.append(replace(start, depths=depths))
        start = _scored(p, tried, Model(per_view=True))[0]
    return start


def _scored(p: Problem, starts: list[Start], model: Model) -> list[Start]:
    coarse = problem(p.views, COARSE)

    def costed(start: Start) -> Start:
        return replace(start, cost=cost(coarse.rows(model, start.of(model), False), BEGINNING))

    return sorted(parallel_map(costed, starts), key=lambda s: s.cost)
