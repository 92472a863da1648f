"""From what fits to what is believed: shapes first, then colours, then whether it matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.geometry import rig, rig_photo
from steps.geometry.rig import Candidate, Reading
from steps.geometry.rig_fit import EXACT, Fit, Sights

Array = NDArray[Any]
SHAPE_TIE = 1.15  # a reading whose cost is at most so many times the best one's fits the shape as well
COLOUR_TIE = 1.25  # the same for the disagreement of colours
SHARED_POINTS = 200  # that two views must see together before their colours decide anything
ALIKE = 0.02  # mean squared difference of colour up to which two ways to dress a shape are the same: 17 dB, on the object alone
HOPELESS = 2.5  # a cost above which nothing fits


@dataclass(frozen=True)
class Judged:
    """A candidate that fits the shape. colour: how much the views' colours disagree, nan where they share too little."""

    candidate: Candidate
    colour: float


@dataclass(frozen=True)
class Choice:
    """chosen: with exact numbers; alike: readings that lead to the same mesh up to its symmetry; open: those that would not, so
    that nothing may be decided; runner_up: the cost of the best reading that does not tie; fits: whether anything does."""

    chosen: Candidate
    judged: list[Judged]
    alike: list[Reading]
    open: list[Candidate]
    runner_up: float
    fits: bool

    @property
    def clear(self) -> bool:
        return self.fits and not self.open


def choose(sights: Sights, candidates: list[Candidate], maps: list[Array], exact: bool = True) -> Choice:
    """maps: the views' colours where the depth renders have their pixels, see rig_photo.colour_map; exact: sharpen the choice."""
    least = candidates[0].fit.cost
    tied = [c for c in candidates if c.fit.cost <= SHAPE_TIE * least]
    runner_up = min((c.fit.cost for c in candidates if c.fit.cost > SHAPE_TIE * least), default=np.inf)
    judged = [Judged(c, _colour(sights, c, maps)) for c in tied]
    if len(judged) > 1:
        judged.sort(key=lambda j: (np.isnan(j.colour), j.colour))
    best = judged[0]
    rivals = [j.candidate for j in judged[1:] if not j.colour > COLOUR_TIE * best.colour]
    masks = [(v >= 0).astype(np.float64) for v in sights.values]
    same = {c.reading: _likeness(best.candidate, c, maps, masks) <= ALIKE for c in rivals}
    alike = [c.reading for c in rivals if same[c.reading]]
    different = [c for c in rivals if not same[c.reading]]
    chosen = rig.sharpened(sights, best.candidate) if exact else best.candidate
    return Choice(chosen, judged, alike, different, runner_up, least < HOPELESS)


def at_nominal(sights: Sights, nominal: Candidate) -> list[Candidate]:
    """All readings with the nominal numbers, best first."""
    theta, coding = nominal.fit.theta, nominal.coding
    found = [Candidate(r, coding, Fit(theta, rig.cost(sights, r, coding, theta, EXACT))) for r in rig.readings()]
    return sorted(found, key=lambda c: c.fit.cost)


def _colour(sights: Sights, candidate: Candidate, maps: list[Array]) -> float:
    axes = rig.axes_of(candidate.reading)
    value, points = rig_photo.disagreement(sights, maps, axes, candidate.coding, candidate.fit.theta)
    return value if points >= SHARED_POINTS else float("nan")


def _likeness(best: Candidate, other: Candidate, maps: list[Array], masks: list[Array]) -> float:
    one, two = rig.axes_of(best.reading), rig.axes_of(other.reading)
    return rig_photo.likeness(maps, masks, one, two, best.fit.theta)
