"""Why views contradict each other: hypotheses, each scored by the same measure of agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np

from steps.compute.arrays import Array
from steps.geometry.cameras import Camera
from steps.geometry.frame import Frame
from steps.validate.consistency import conventions, exchanged
from steps.validate.consistency.agreement import (
    TOLERANCE,
    DepthView,
    ViewPoints,
    Window,
    compare,
    denied_share,
    diagonal,
    sample_points,
)
from steps.validate.consistency.exchanged import Fits, PictureSample

SIX = tuple(range(6))
MAX_REMAINING = 0.3  # of the contradictions, after a hypothesis that is reported
FEW = 200  # points of each view in the table of all orders
# absolute and relative decrease of `Fits.cost` from which another order of the pictures is reported
LEAST_GAIN, LEAST_RELATIVE_GAIN = 0.03, 0.3
# the same of contrast, for each picture that stands elsewhere, and relative: a lamp at the camera shades each surface differently
# in each view, which alone fits other orders better by up to half; white cartons, each view under a light of its own and the rig
# found by it, fit with four pictures elsewhere better by up to 0.15
LEAST_CONTRAST_GAIN, LEAST_RELATIVE_CONTRAST_GAIN = 0.05, 0.6
OUTLINE_GAIN = 0.008  # of `Fits.outline_cost`, where it also becomes less than half of what it was
RARER = 0.015  # penalty in `Fits.cost` of a rotation of all pictures against an exchange of some


@dataclass(frozen=True)
class Evidence:
    """views: the six depth maps with their cameras; pictures: the six pictures; users: the cameras as they were given, in the
    user's frame, None where that is the views'; unit: user units per unit of the views."""

    views: list[DepthView]
    pictures: list[PictureSample]
    users: list[Camera] | None = None
    unit: float = 1.0

    def subsampled(self) -> Evidence:
        """The same from fewer pixels."""
        return replace(self, views=[view.subsampled() for view in self.views])

    @property
    def names(self) -> list[str]:
        return [view.camera.name for view in self.views]

    @property
    def cameras(self) -> list[Camera]:
        return [view.camera for view in self.views]

    def hypotheses(self) -> Iterator[conventions.Hypothesis]:
        """The cameras by other conventions, in the views' unit around their own middle: what an inverse is depends on the user's
        origin, what views say of each other does not."""
        for words, cameras in conventions.hypotheses(self.users or self.cameras):
            x, y, z = np.mean([camera.position for camera in cameras], axis=0)
            frame = Frame(self.unit, (float(x), float(y), float(z)))
            yield words, [frame.camera_in(camera) for camera in cameras]


@dataclass(frozen=True)
class Cause:
    """sentence: what is most likely wrong and what mends it; left: the contradictions that remain then, as a share."""

    sentence: str
    left: float


@dataclass(frozen=True)
class Trial:
    """One hypothesis: the sentence that says it, and the evidence as it would be."""

    sentence: str
    evidence: Evidence


def fits_of(evidence: Evidence) -> Fits:
    """How the pictures fit the depth renders, each with each."""
    samples = [sample_points(view) for view in evidence.views]
    return exchanged.fits(evidence.pictures, samples, TOLERANCE * diagonal(samples))


# -- depth against depth ------------------------------------------------------------------------------------------------


def of_depth(evidence: Evidence, share: float, more: Callable[[], Iterator[Trial]] | None = None) -> Cause | None:
    """The likeliest cause of depth renders that contradict each other under their cameras; None where no hypothesis mends it.
    share: what is denied now; more: further hypotheses, tried where none of these fits."""
    same = conventions.duplicate_cameras(evidence.cameras)
    if same:
        pairs = ", ".join(f"{a} and {b}" for a, b in same[:3]) + (", …" if len(same) > 3 else "")
        return Cause(f"Two views have one and the same camera: {pairs}. Give each its own.", 0.0)
    evidence = evidence.subsampled()
    given = share + fits_of(evidence).cost(SIX)
    return _best(trials(evidence), share, given) or (_best(more(), share, given) if more else None)


def of_order(evidence: Evidence, share: float) -> Cause | None:
    """The same where little is denied: only that depth renders or cameras are exchanged."""
    evidence = evidence.subsampled()
    return _best(_orders(evidence), share, share + fits_of(evidence).cost(SIX))


def _best(tried: Iterator[Trial], share: float, given: float) -> Cause | None:
    """Of the hypotheses that mend it, the one under which depth and colours agree best; of equals the first. given: how badly
    they agree now."""
    found: list[tuple[float, Cause]] = []
    for trial in tried:
        views = trial.evidence.views
        if denied_share(views, FEW) > 0.5 * share or (left := compare(views).denied_share) > MAX_REMAINING * share:
            continue
        cost = left + fits_of(trial.evidence).cost(SIX)
        if given - cost > LEAST_GAIN:
            found.append((round(cost, 2), Cause(trial.sentence, left)))
    return min(found, key=lambda item: item[0])[1] if found else None


def trials(evidence: Evidence) -> Iterator[Trial]:
    """Every hypothesis about cameras and depth renders."""
    yield from _orders(evidence)
    for words, turn in _TURNS.items():
        views = [view.turned(turn) for view in evidence.views]
        yield Trial(f"The depth renders stand {words}: turning them mends it.", replace(evidence, views=views))
    for words, cameras in evidence.hypotheses():
        yield Trial(f"The cameras look like {words}.", with_cameras(evidence, cameras))

    def denied(cameras: list[Camera]) -> float:
        return denied_share(with_cameras(evidence, cameras).views, FEW)

    pointclouds = [_own_axes(view) for view in evidence.views]
    for words, cameras in (
        *conventions.rescaled(evidence.cameras, pointclouds, denied),
        *conventions.lenses(evidence.cameras, denied),
    ):
        yield Trial(f"The cameras look like {words}.", with_cameras(evidence, cameras))


_TURNS: dict[str, Callable[[Array], Array]] = {
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "on their heads": lambda a: a[::-1, ::-1],
}


def with_cameras(evidence: Evidence, cameras: list[Camera]) -> Evidence:
    return replace(evidence, views=[v.with_camera(c) for v, c in zip(evidence.views, cameras, strict=True)])


def _own_axes(view: DepthView) -> Array:
    """What a view sees, from its own position."""
    points = sample_points(view, FEW, normals=False).points
    return points - view.camera.position if len(points) else np.zeros((1, 3))


def _orders(evidence: Evidence) -> Iterator[Trial]:
    """The order of the depth renders that fits the cameras best, with the pictures as they stand or exchanged with them."""
    order = _best_order(evidence.views)
    if order == SIX:
        return
    views = [evidence.views[d].with_camera(evidence.views[a].camera) for a, d in enumerate(order)]
    exchanged_views = Evidence(views, [evidence.pictures[p] for p in order])
    what = exchange_words(order, evidence.names)
    alone = replace(evidence, views=views)
    if fits_of(exchanged_views).cost(SIX) < fits_of(alone).cost(SIX):
        yield Trial(f"The cameras of {what}, or view and depth render of each are.", exchanged_views)
    else:
        yield Trial(f"The depth renders of {what}: exchanging them mends it.", alone)


def exchange_words(order: tuple[int, ...], names: list[str]) -> str:
    """`left and right are exchanged`, or where more than two have moved which one stands for which."""
    exchanged_names = [(names[a], names[p]) for a, p in enumerate(order) if a != p]
    if len(exchanged_names) == 2:
        return f"{exchanged_names[0][0]} and {exchanged_names[1][0]} are exchanged"
    each = ", ".join(f"{name} has that of {_owner(name, order, names)}" for name, _ in exchanged_names)
    return f"{', '.join(name for name, _ in exchanged_names)} are mixed up ({each})"


def _owner(name: str, order: tuple[int, ...], names: list[str]) -> str:
    """Whose picture stands under this name: the place to which the best order takes it."""
    return names[order.index(names.index(name))]


def _best_order(views: list[DepthView]) -> tuple[int, ...]:
    """The assignment of depth renders to cameras with the fewest denied points; the given one among equals."""
    tolerance = TOLERANCE * diagonal([sample_points(view, FEW, normals=False) for view in views])
    samples = [
        [sample_points(view.with_camera(own.camera), FEW, normals=False) for view in views] for own in views
    ]  # [camera][depth render]
    table = np.zeros((6, 6, 6, 6))  # [a, b, d, e]: of render d under camera a, what render e under camera b denies
    for b in SIX:
        for e in SIX:
            window = Window.of(samples[b][e].view, tolerance)
            for a in SIX:
                if a != b:
                    table[a, b, :, e] = [_denied_share(window, samples[a][d]) if d != e else 0 for d in SIX]
    i, j = (index.ravel() for index in np.nonzero(~np.eye(6, dtype=bool)))

    def cost(order: tuple[int, ...]) -> float:
        p = np.array(order)
        return round(float(table[i, j, p[i], p[j]].mean()), 3)

    return min([SIX, *permutations(SIX)], key=cost)


def _denied_share(window: Window, one: ViewPoints) -> float:
    return float(window.denies(one.points).mean()) if len(one.points) else 0.0


# -- pictures against depth ---------------------------------------------------------------------------------------------


def of_pictures(evidence: Evidence, fits: Fits, suspected: bool = True) -> Cause | None:
    """Pictures that are exchanged or duplicated among the depth renders; None where all fit as given. suspected: whether their
    outlines differ from their depth renders'."""
    duplicate = _duplicated_picture(evidence, fits)
    if duplicate:
        return Cause(duplicate, 0.0)
    order = fits.best()
    words = exchange_words(order, evidence.names)
    candidates = [
        (
            fits.cost(order),
            fits.outline_cost(order),
            fits.unlit_cost(order),
            sum(a != p for a, p in enumerate(order)),
            f"The pictures of {words}: exchanging them mends it.",
        )
    ]
    if order == SIX and not suspected:
        return None
    for words, turn in _TURNS.items():
        pictures = [
            PictureSample(turn(v.colour), None if v.object is None else turn(v.object)) for v in evidence.pictures
        ]
        turned = fits_of(replace(evidence, pictures=pictures))
        sentence = f"The pictures stand {words} against their depth renders: turning one or the other mends it."
        candidates.append((turned.cost(SIX) + RARER, turned.outline_cost(SIX), turned.unlit_cost(SIX), 6, sentence))
    cost, outline, unlit, moved, sentence = min(candidates)
    return Cause(sentence, 0.0) if _gains(fits, cost, outline, unlit, moved) else None


def _gains(fits: Fits, cost: float, outline: float, unlit: float, moved: int) -> bool:
    """Whether another order fits significantly better, also in what light does not change: different lighting in each view must
    not count. moved: pictures that stand elsewhere."""
    given, now, unlit_now = fits.outline_cost(SIX), fits.cost(SIX), fits.unlit_cost(SIX)
    least, relative = 0.0, LEAST_RELATIVE_GAIN
    if fits.is_grey:
        least, relative = moved * LEAST_CONTRAST_GAIN, LEAST_RELATIVE_CONTRAST_GAIN
    in_unlit = unlit_now - unlit > max(least, relative * unlit_now)
    # among grey pictures without outlines the cost is of contrast, too
    in_cost = now - cost > LEAST_RELATIVE_GAIN * now and not (fits.is_grey and fits.colours is fits.unlit)
    if now - cost > LEAST_GAIN and (in_cost or in_unlit):
        return True
    return given - outline > OUTLINE_GAIN and outline < given / 2


def _duplicated_picture(evidence: Evidence, fits: Fits) -> str:
    """A sentence about one picture under two names of places that differ; empty where there is none. Two sides of a symmetric
    object may have one picture: that is no error as long as it fits both places equally."""
    costs = [_picture_cost(fits, k) for k in SIX]
    for a, b in combinations(SIX, 2):
        if not exchanged.is_copy(evidence.pictures[a], evidence.pictures[b]):
            continue
        if exchanged.is_thin(evidence.pictures[a].object):
            continue
        known = [costs[k] for k in SIX if k not in (a, b) and np.isfinite(costs[k])]
        usual = float(np.median(known)) if known else np.inf  # of a picture that nothing tells of
        own = {k: usual if np.isnan(costs[k]) else costs[k] for k in (a, b)}
        worse = max((a, b), key=lambda k: (own[k], k))
        other = a if worse == b else b
        if own[worse] - own[other] > LEAST_GAIN:
            name = evidence.names[worse]
            return f"The picture of {name} is that of {evidence.names[other]} once more: put the view of {name} in its place."
    return ""


def _picture_cost(fits: Fits, k: int) -> float:
    """How badly picture k fits depth render k and the pictures of overlapping views, NaN where neither tells."""
    outline = 1 - fits.outlines[k, k]
    weights = fits.weights[k] + fits.weights[:, k]
    total = float(weights.sum())
    pairs = sum(
        fits.weights[k, b] * fits.colours[k, b, k, b] + fits.weights[b, k] * fits.colours[b, k, b, k] for b in SIX
    )
    if not total:
        return float(outline)
    return float(np.nan_to_num(outline)) + float(pairs) / total
