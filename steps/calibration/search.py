"""Which rig took six pictures: what the names mean, how top and bottom are turned, and the numbers that go with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.calibration.observations import points_of, shown, with_furthest
from steps.calibration.presets import PRESETS
from steps.calibration.solver import (
    BENDS,
    DIRECTIONS,
    EXACT,
    FINE,
    FINEST,
    PER_VIEW,
    ROUGH,
    SHARED,
    Coding,
    Fit,
    Problem,
    Sights,
    Tolerance,
    lifted,
    numbers,
)
from steps.compute.kernels import parallel_map
from steps.geometry.cameras import CANONICAL_AXES, VIEW_NAMES

Array = NDArray[Any]
RING = np.array([True, True, True, True, False, False])
ALL = np.ones(6, bool)


@dataclass(frozen=True)
class Reading:
    """What the names mean. left_is: whose left; top, bottom: quarter turns of that picture, counter-clockwise. Or preset: a rig
    with a name, whose views come in an order of its own. field_of_view: degrees, None where it has to be found."""

    left_is: str = "viewer"
    top: int = 0
    bottom: int = 0
    preset: str = ""
    field_of_view: float | None = None


def axes_of(reading: Reading) -> Array:
    """(6, 3, 3): right, up and back of each camera in the world."""
    if reading.preset:
        return PRESETS[reading.preset].axes
    found = []
    for name in VIEW_NAMES:
        back, up = (np.array(v, float) for v in CANONICAL_AXES[name])
        if reading.left_is == "object" and name in ("left", "right"):
            back = -back
        for _ in range({"top": reading.top, "bottom": reading.bottom}.get(name, 0)):
            up = np.cross(up, back)
        found.append(np.stack([np.cross(up, back), up, back]))
    return np.stack(found)


def readings() -> list[Reading]:
    return [Reading(left, top, bottom) for left, top, bottom in product(("viewer", "object"), range(4), range(4))]


# -- the search ---------------------------------------------------------------------------------------------------------

PARAMETERS = np.arange(SHARED + 6 * PER_VIEW)
SIMPLER = 1.005  # how much better inverse depth, or depth along rays, must fit than linear depth along the axis
LADDER = (0, 12, 22, 32, 42, 52, 62, 72)  # degrees: fields of view to begin from
RUNGS = 3  # of them are tried with other codings
HOPEFUL = 4  # of all these beginnings are followed
PARALLEL = 2.0  # standard errors of perspective, below which it is taken for none: such cameras are common, very long lenses not
FAR_OFF = 6.0, 1.0  # a cost so many times the best one's, and this more, from which no other numbers help a reading
CODINGS = tuple(Coding(inverse, ray) for inverse, ray in product((0, 1), (0, 1)))
CURVED = (Coding(bends=1), Coding(ray=1, bends=1))
FOLLOWED = 12  # readings whose views have ranges of their own
OWN_LADDER = (0.1, 0.29, 0.49)  # perspectives to begin from, of such
RATES = (-3.5, -1.5, 1.5, 3.5)  # of curves to begin from
BENT = 1.03  # how much better a curve must fit than none


@dataclass(frozen=True)
class Candidate:
    """A reading with the numbers that suit it best; fit.cost tells how well (about 0.5 where it is right)."""

    reading: Reading
    coding: Coding
    fit: Fit


def normals(sights: Sights, candidate: Candidate) -> Array:
    """(6, s, s, 3): the unit normals, in the world, of what each view shows; zero where it shows nothing."""
    axes, fit = axes_of(candidate.reading), candidate.fit
    found = np.zeros((*sights.values.shape, 3))
    for i, values in enumerate(sights.values):
        r, c = np.nonzero(values >= 0)
        found[i, r, c] = lifted(points_of(values, r, c), axes[i], candidate.coding, fit.theta, i)[:, 3:]
    return found


def search(sights: Sights, allowed: list[Reading]) -> list[Candidate]:
    """Every allowed reading with its best numbers, best first."""
    rough = _unturned(sights, allowed)
    if sights.own:
        return _searched_own(sights, rough)
    several = parallel_map(lambda c: _fitted(sights, c.reading, c.coding, c.fit.theta, 8, 8), rough[:6])
    best = min(several, key=lambda c: c.fit.cost)
    codings = parallel_map(lambda c: _coded(sights, best, c), CODINGS)
    codings += parallel_map(lambda c: _coded(sights, *c), product([best], CURVED[:1], RATES))
    coded = min(codings, key=_simplest)
    found = parallel_map(lambda c: _compared(sights, c.reading, coded), rough)
    return sorted(found, key=lambda c: c.fit.cost)


def _perspective(reading: Reading) -> float | None:
    """The tangent of half the field of view, where the reading has one of its own."""
    angle = PRESETS[reading.preset].field_of_view if reading.preset else reading.field_of_view
    return None if angle is None else float(np.tan(np.radians(angle / 2)))


def _fitted(
    sights: Sights, reading: Reading, coding: Coding, theta: Array, stride: int, rounds: int, used: Array = ALL,
    tolerance: Tolerance = ROUGH, shared_only: bool = False,
) -> Candidate:  # fmt: skip
    free = _free(sights, coding, shared_only)
    free[0] = _perspective(reading) is None
    problem = Problem(sights, axes_of(reading), coding, used, free, stride, tolerance)
    return Candidate(reading, coding, problem.fitted(theta, rounds))


def _free(sights: Sights, coding: Coding, shared_only: bool = False) -> Array:
    """Which numbers are looked for: bool, as PARAMETERS."""
    free = (PARAMETERS < SHARED) | (not shared_only)
    free[BENDS] = coding.bends
    for own in range(SHARED, len(PARAMETERS), PER_VIEW):  # what a view's range is of
        free[own + 3 : own + PER_VIEW] |= sights.own
    return free


def _starts(sights: Sights, reading: Reading) -> list[Array]:
    """Perspectives and heights to begin from, with large values near and with large values far."""
    own = _perspective(reading)
    perspectives = (0.15, 0.45) if own is None else (own,)
    if sights.own:
        return [_own_start(sights, reading, *s) for s in product(perspectives, (True, False))]
    radius = float(np.mean(sights.reach + np.roll(sights.reach, DIRECTIONS // 2, axis=1))) / 2
    found = []
    for k, near, far in product(perspectives, (0.8, 1.1), (0.0, -0.5, -1.0)):
        for low, high in ((near, far), (far, near)):
            found.append(numbers(k, low * radius, high * radius))
    return found


def _own_start(sights: Sights, reading: Reading, k: float, larger_is_farther: bool) -> Array:
    """Every view's values between the point that the outlines have nearest to its camera and the object's middle from there."""
    axes = axes_of(reading)
    near = np.array([_extent(sights, axes, a) for a in axes[:, 2]])
    far = (near - [_extent(sights, axes, -a) for a in axes[:, 2]]) / 2
    ends = np.stack([near, far] if larger_is_farther else [far, near], axis=1)
    low, high = ends.mean(axis=0)
    theta = numbers(k, low, high)
    gains = (ends[:, 1] - ends[:, 0]) / (high - low)
    theta[SHARED + 3 :: PER_VIEW], theta[SHARED + 4 :: PER_VIEW] = gains - 1, ends[:, 0] - low * gains
    return theta


def _extent(sights: Sights, axes: Array, way: Array) -> float:
    """How far the object reaches from its middle in a direction of the world, by the outlines of the views that see it from the
    side."""
    local = axes @ way  # (6, 3)
    aside = np.abs(local[:, 2]) < np.sqrt(0.5)
    steps = np.rint(np.arctan2(local[:, 1], local[:, 0]) * DIRECTIONS / (2 * np.pi)).astype(int) % DIRECTIONS
    reach = sights.reach[np.arange(len(axes)), steps]
    return float(np.median(reach[aside] if aside.any() else sights.reach))


def _unturned(sights: Sights, allowed: list[Reading]) -> list[Candidate]:
    """All readings, roughly fitted. The views whose cameras stand the same in many readings, the upright ones, settle perspective
    and depth for all of these; then the others are tried on."""
    jobs = []
    for first in {(r.left_is, r.preset): r for r in allowed}.values():
        upright = ALL if first.preset else RING
        similar = [r for r in allowed if (r.left_is, r.preset) == (first.left_is, first.preset)]
        if sights.own:  # of a range of their own, upright views alone say too little
            jobs += [(r, theta) for r in similar for theta in _starts(sights, r)]
            continue
        for theta in _upright(sights, first, upright):
            jobs += [(r, theta) for r in similar]
    fits = parallel_map(lambda j: _fitted(sights, j[0], Coding(), j[1], 12, 6, shared_only=True), jobs)
    best: dict[Reading, Candidate] = {}
    for candidate in sorted(fits, key=lambda c: c.fit.cost):
        best.setdefault(candidate.reading, candidate)
    return list(best.values())


def _upright(sights: Sights, reading: Reading, used: Array) -> list[Array]:
    """The best numbers by the views in use: two sets with large values far, two with large values near."""
    found = parallel_map(
        lambda t: _fitted(sights, reading, Coding(), t, 8, 8, used, shared_only=True),
        _starts(sights, reading),
    )
    best = []
    for larger_is_farther in (True, False):
        fits = [c.fit for c in found if (c.fit.theta[1] > c.fit.theta[2]) == larger_is_farther]
        best += [fit.theta for fit in sorted(fits, key=lambda f: f.cost)[:2]]
    return best


def _coded(sights: Sights, best: Candidate, coding: Coding, rate: float = 0.0) -> Candidate:
    theta = best.fit.theta.copy()
    theta[BENDS.start] = rate
    rough = _fitted(sights, best.reading, coding, theta, 8, 12)
    return _fitted(sights, best.reading, coding, rough.fit.theta, 4, 8, ALL, EXACT)


def _searched_own(sights: Sights, rough: list[Candidate]) -> list[Candidate]:
    """Every reading, best first, where each view has a range of its own. From rough numbers other readings of a symmetric shape
    would not fit as well as they do."""
    best = _coded_own(sights, rough[:FOLLOWED])
    found = parallel_map(lambda c: _compared(sights, c.reading, best, FINE), rough)
    best = sharpened(sights, min(found, key=lambda c: c.fit.cost))
    found = parallel_map(lambda c: _held(sights, c.reading, best.coding, best.fit.theta, (FINE,), 8, 6), rough)
    return sorted(found, key=lambda c: c.fit.cost)


def _coded_own(sights: Sights, rough: list[Candidate]) -> Candidate:
    """The best numbers where each view has a range of its own: these stand in for perspective but for the finest errors, so that
    it is held at a few."""

    def held(start: tuple[Candidate, Coding, float]) -> Candidate:
        found, coding, k = start
        theta = found.fit.theta if _perspective(found.reading) is not None else _with_perspective(found.fit.theta, k)
        return _held(sights, found.reading, coding, theta, (ROUGH, EXACT, FINE), 8, 4)

    best = min(parallel_map(held, product(rough, CODINGS[:1], OWN_LADDER)), key=_simplest)
    k = float(best.fit.theta[0])
    codings = parallel_map(held, product([best], [*CODINGS[1:], CURVED[0]], [k]))
    found = min([best, *codings], key=_simplest)
    return _fitted(sights, found.reading, found.coding, found.fit.theta, 4, 8, ALL, FINE)


def _compared(sights: Sights, reading: Reading, best: Candidate, tolerance: Tolerance = EXACT) -> Candidate:
    """Another reading from the best one's numbers: where the shape is symmetric they fit it, too. Judged with all points; what is
    far off has its numbers left as they are."""
    theta = best.fit.theta
    before = cost(sights, reading, best.coding, theta, tolerance)
    if before > FAR_OFF[0] * best.fit.cost + FAR_OFF[1]:
        return Candidate(reading, best.coding, Fit(theta, before))
    fit = _fitted(sights, reading, best.coding, theta, 8, 6, ALL, tolerance).fit
    return Candidate(reading, best.coding, Fit(fit.theta, cost(sights, reading, best.coding, fit.theta, tolerance)))


def cost(sights: Sights, reading: Reading, coding: Coding, theta: Array, tolerance: Tolerance) -> float:
    """How badly a rig explains the depth renders, by all points."""
    return Problem(sights, axes_of(reading), coding, ALL, PARAMETERS >= 0, 1, tolerance).state(theta).cost


def sharpened(sights: Sights, best: Candidate) -> Candidate:
    """The fit with all points, and with ever less patience for errors: what is left of them would pull on the perspective. It
    begins from every perspective and, at the better ones, every coding, since these and the views' scales can stand in for each
    other. The cost stays that of the comparison."""
    points, own = shown(sights), _perspective(best.reading)
    asked = _reaching(sights, points, best)
    ladder = list(np.tan(np.radians(LADDER) / 2)) if own is None else [own]
    rungs = _rungs(asked, best, product([best.coding], ladder, [None]))
    ladder = [float(c.fit.theta[0]) for c in sorted(rungs, key=_simplest)[:RUNGS]]
    rungs += _rungs(asked, best, product([c for c in CODINGS if c != best.coding], ladder, [None]))
    rungs += _rungs(asked, best, product([c for c in CURVED if c != best.coding], ladder, _rates(best)))
    better = [(c.coding, c.fit.theta) for c in sorted(rungs, key=_simplest)[:HOPEFUL]]
    held = parallel_map(lambda s: _held(asked, best.reading, *s, (FINEST,), 4, 5), better)
    found = min(held, key=_simplest)
    for stride in (4, 2):
        asked = _reaching(sights, points, found)
        found = _fitted(asked, best.reading, found.coding, found.fit.theta, stride, 12, ALL, FINEST)
    doubt = _doubt(asked, found) if own is None else 0.0
    if found.fit.theta[0] < PARALLEL * doubt:
        coding = Coding(bends=found.coding.bends)
        found = _held(asked, best.reading, coding, _with_perspective(found.fit.theta, 0.0), (FINEST,), 2, 12)
    left = cost(sights, found.reading, found.coding, found.fit.theta, FINEST)
    return replace(found, fit=Fit(found.fit.theta, best.fit.cost, doubt, left))


def _rungs(sights: Sights, best: Candidate, starts: Iterable[tuple[Coding, float, float | None]]) -> list[Candidate]:
    """The best numbers for codings, perspectives and rates of curves (None: as they are), roughly."""

    def rung(start: tuple[Coding, float, float | None]) -> Candidate:
        coding, perspective, rate = start
        theta = _with_perspective(best.fit.theta, perspective)
        if rate is not None or not coding.bends:
            theta[BENDS] = rate or 0.0, 0.0, 0.0
        return _held(sights, best.reading, coding, theta, (EXACT, FINEST), 8, 2)

    return parallel_map(rung, starts)


def _rates(best: Candidate) -> list[float | None]:
    """Of curves to begin from, in `sharpened`."""
    return [None] if best.coding.bends else [RATES[1], RATES[2]]


def _with_perspective(theta: Array, perspective: float) -> Array:
    return np.concatenate([[perspective], theta[1:]])


def _reaching(sights: Sights, points: list[Array], found: Candidate) -> Sights:
    return with_furthest(sights, points, axes_of(found.reading), found.coding, found.fit.theta)


def _doubt(sights: Sights, found: Candidate) -> float:
    problem = Problem(sights, axes_of(found.reading), found.coding, ALL, _free(sights, found.coding), 2, FINEST)
    return problem.doubt(found.fit.theta)


def _held(
    sights: Sights, reading: Reading, coding: Coding, theta: Array, tolerances: tuple[Tolerance, ...], stride: int, rounds: int
) -> Candidate:  # fmt: skip
    """The best numbers with the perspective held."""
    for tolerance in tolerances:
        theta = (
            Problem(sights, axes_of(reading), coding, ALL, _free(sights, coding) & (PARAMETERS > 0), stride, tolerance)
            .fitted(theta, rounds)
            .theta
        )
    return Candidate(reading, coding, Fit(theta, cost(sights, reading, coding, theta, tolerances[-1])))


def _simplest(candidate: Candidate) -> float:
    """The cost, with which linear depth along the axis wins where the others are no better."""
    coding = candidate.coding
    return candidate.fit.cost * SIMPLER ** (coding.inverse + coding.ray) * BENT**coding.bends
