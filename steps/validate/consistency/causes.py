"""The most likely cause of contradictions between views: hypotheses about cameras, depth renders and pictures, each scored by
the same measure of agreement."""

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
from steps.validate.consistency.exchanged import AssignmentScores, PictureSample

SIX = tuple(range(6))
MAX_REMAINING = 0.3  # of the contradictions, after a hypothesis that is reported
FEW = 200  # points of each view in the table of all orders
# absolute and relative decrease of `AssignmentScores.cost` from which another order of the pictures is reported
LEAST_GAIN, LEAST_RELATIVE_GAIN = 0.03, 0.3
# the same of contrast, for each picture that stands elsewhere, and relative: a lamp at the camera shades each surface differently
# in each view, which alone fits other orders better by up to half; white cartons, each view under a light of its own and the rig
# found by it, fit with four pictures elsewhere better by up to 0.15
LEAST_CONTRAST_GAIN, LEAST_RELATIVE_CONTRAST_GAIN = 0.05, 0.6
# decrease of `AssignmentScores.outline_cost` from which another order is reported, where it also halves; increase from which it
# is not, whatever the colours say
OUTLINE_GAIN = 0.008
RARER = 0.015  # penalty in `AssignmentScores.cost` of a rotation of all pictures against an exchange of some


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
    """sentence: what is most likely wrong, and the correction; left: share of points still denied after it."""

    sentence: str
    left: float


@dataclass(frozen=True)
class Trial:
    """One hypothesis: its sentence for the user, and the evidence corrected by it."""

    sentence: str
    evidence: Evidence


def score_assignments(evidence: Evidence) -> AssignmentScores:
    """Scores of every assignment of the pictures to the depth renders."""
    samples = [sample_points(view) for view in evidence.views]
    return exchanged.assignment_scores(evidence.pictures, samples, TOLERANCE * diagonal(samples))


# -- depth against depth ------------------------------------------------------------------------------------------------


def depth_cause(evidence: Evidence, share: float, more: Callable[[], Iterator[Trial]] | None = None) -> Cause | None:
    """The most likely cause of depth renders that contradict each other under their cameras; None where no hypothesis removes
    the contradictions. share: denied points as given; more: further hypotheses, tried where none of these fits."""
    same = conventions.duplicate_cameras(evidence.cameras)
    if same:
        pairs = ", ".join(f"{a} and {b}" for a, b in same[:3]) + (", …" if len(same) > 3 else "")
        return Cause(f"Two views have one and the same camera: {pairs}. Give each its own.", 0.0)
    evidence = evidence.subsampled()
    cost_as_given = share + score_assignments(evidence).cost(SIX)
    return _best(trials(evidence), share, cost_as_given) or (_best(more(), share, cost_as_given) if more else None)


def order_cause(evidence: Evidence, share: float) -> Cause | None:
    """As `depth_cause`, with one hypothesis only, exchanged depth renders or cameras: for sets with few denied points."""
    evidence = evidence.subsampled()
    return _best(_orders(evidence), share, share + score_assignments(evidence).cost(SIX))


def _best(tried: Iterator[Trial], share: float, cost_as_given: float) -> Cause | None:
    """The hypothesis of lowest cost (denied share plus assignment cost) among those that remove most contradictions, the first
    among equals; None without any. cost_as_given: the cost of the set as given."""
    candidates: list[tuple[float, Cause]] = []
    for trial in tried:
        views = trial.evidence.views
        if denied_share(views, FEW) > 0.5 * share or (left := compare(views).denied_share) > MAX_REMAINING * share:
            continue
        cost = left + score_assignments(trial.evidence).cost(SIX)
        if cost_as_given - cost > LEAST_GAIN:
            candidates.append((round(cost, 2), Cause(trial.sentence, left)))
    return min(candidates, key=lambda item: item[0])[1] if candidates else None


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
    """Sampled points (n, 3) of a view relative to its camera's position, in world axes."""
    points = sample_points(view, FEW, normals=False).points
    return points - view.camera.position if len(points) else np.zeros((1, 3))


def _orders(evidence: Evidence) -> Iterator[Trial]:
    """A trial of the depth renders' best permutation, with the pictures fixed or permuted alike; none for the identity."""
    order = _best_order(evidence.views)
    if order == SIX:
        return
    views = [evidence.views[d].with_camera(evidence.views[a].camera) for a, d in enumerate(order)]
    exchanged_views = Evidence(views, [evidence.pictures[p] for p in order])
    what = exchange_words(order, evidence.names)
    alone = replace(evidence, views=views)
    if score_assignments(exchanged_views).cost(SIX) < score_assignments(alone).cost(SIX):
        yield Trial(f"The cameras of {what}, or view and depth render of each are.", exchanged_views)
    else:
        yield Trial(f"The depth renders of {what}: exchanging them mends it.", alone)


def exchange_words(order: tuple[int, ...], names: list[str]) -> str:
    """A permutation in words: `left and right are exchanged`, or for more than two views which one has which picture."""
    exchanged_names = [(names[a], names[p]) for a, p in enumerate(order) if a != p]
    if len(exchanged_names) == 2:
        return f"{exchanged_names[0][0]} and {exchanged_names[1][0]} are exchanged"
    each = ", ".join(f"{name} has that of {_owner(name, order, names)}" for name, _ in exchanged_names)
    return f"{', '.join(name for name, _ in exchanged_names)} are mixed up ({each})"


def _owner(name: str, order: tuple[int, ...], names: list[str]) -> str:
    """Name of the view to which the best permutation assigns the picture given under `name`."""
    return names[order.index(names.index(name))]


def _best_order(views: list[DepthView]) -> tuple[int, ...]:
    """The permutation of depth renders over cameras with the fewest denied points; among equals the identity."""
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


def picture_cause(evidence: Evidence, scores: AssignmentScores, suspected: bool = True) -> Cause | None:
    """The cause where pictures are exchanged, duplicated or turned against their depth renders; None where all fit as given.
    suspected: whether their outlines differ from their depth renders'."""
    duplicate = _duplicated_picture(evidence, scores)
    if duplicate:
        return Cause(duplicate, 0.0)
    order = scores.best()
    words = exchange_words(order, evidence.names)
    candidates = [
        (
            scores.cost(order),
            scores.outline_cost(order),
            scores.unlit_cost(order),
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
        turned_scores = score_assignments(replace(evidence, pictures=pictures))
        sentence = f"The pictures stand {words} against their depth renders: turning one or the other mends it."
        candidates.append(
            (
                turned_scores.cost(SIX) + RARER,
                turned_scores.outline_cost(SIX),
                turned_scores.unlit_cost(SIX),
                6,
                sentence,
            )
        )
    cost, outline, unlit, n_moved, sentence = min(candidates)
    return Cause(sentence, 0.0) if _gains(scores, cost, outline, unlit, n_moved) else None


def _gains(scores: AssignmentScores, cost: float, outline: float, unlit: float, n_moved: int) -> bool:
    """Whether another assignment costs significantly less, also by lighting-invariant colour: different lighting in each view
    must not count. n_moved: number of pictures at another depth render."""
    given, now, unlit_now = scores.outline_cost(SIX), scores.cost(SIX), scores.unlit_cost(SIX)
    if outline - given > OUTLINE_GAIN:
        return False  # pictures fit the outlines best at their own depth renders, whatever the light makes of their colours
    least, relative = 0.0, LEAST_RELATIVE_GAIN
    if scores.is_grey:
        least, relative = n_moved * LEAST_CONTRAST_GAIN, LEAST_RELATIVE_CONTRAST_GAIN
    in_unlit = unlit_now - unlit > max(least, relative * unlit_now)
    # among grey pictures without outlines the cost is of contrast, too
    in_cost = now - cost > LEAST_RELATIVE_GAIN * now and not (scores.is_grey and scores.colours is scores.unlit)
    if now - cost > LEAST_GAIN and (in_cost or in_unlit):
        return True
    return given - outline > OUTLINE_GAIN and outline < given / 2


def _duplicated_picture(evidence: Evidence, scores: AssignmentScores) -> str:
    """A sentence about one picture given for two views, empty where there is none. Two sides of a symmetric object may look the
    same: that is no error where the picture costs equally little at both depth renders."""
    costs = [_picture_cost(scores, k) for k in SIX]
    for a, b in combinations(SIX, 2):
        if not exchanged.is_copy(evidence.pictures[a], evidence.pictures[b]):
            continue
        if exchanged.is_thin(evidence.pictures[a].object):
            continue
        known = [costs[k] for k in SIX if k not in (a, b) and np.isfinite(costs[k])]
        usual = float(np.median(known)) if known else np.inf  # cost of a picture that has none of its own
        own = {k: usual if np.isnan(costs[k]) else costs[k] for k in (a, b)}
        worse = max((a, b), key=lambda k: (own[k], k))
        other = a if worse == b else b
        if own[worse] - own[other] > LEAST_GAIN:
            name = evidence.names[worse]
            return f"The picture of {name} is that of {evidence.names[other]} once more: put the view of {name} in its place."
    return ""


def _picture_cost(scores: AssignmentScores, k: int) -> float:
    """Outline mismatch plus mean colour difference to overlapping views of picture k at depth render k, NaN without either."""
    outline = 1 - scores.outlines[k, k]
    weights = scores.weights[k] + scores.weights[:, k]
    total = float(weights.sum())
    pairs = sum(
        scores.weights[k, b] * scores.colours[k, b, k, b] + scores.weights[b, k] * scores.colours[b, k, b, k]
        for b in SIX
    )
    if not total:
        return float(outline)
    return float(np.nan_to_num(outline)) + float(pairs) / total
