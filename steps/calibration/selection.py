"""From what fits to what is believed: shapes first, then colours, then whether it matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.calibration import search
from steps.calibration.photometric import (
    Disagreement,
    Edges,
    Unlikeness,
    disagreement,
    edges,
    unlike_pairs,
    unlikenesses,
)
from steps.calibration.search import Candidate, Reading
from steps.calibration.solver import EXACT, Fit, Sights
from steps.compute.kernels import parallel_map

Array = NDArray[Any]
# a reading whose cost is at most so many times the best one's, and this more, fits as well
SHAPE_TIE, SHAPE_NOISE = 1.15, 0.06
OWN_TIE = 1.5  # the same where each view has a range of its own, and the cost is that of finer errors
COLOUR_TIE, COLOUR_NOISE = 1.4, 0.0003  # the same for the disagreement of colours
EDGE_TIE, EDGE_NOISE = 1.1, 0.0002  # the same for colours on both sides of edges
# a correlation of colours along edges that says something, and how much less another's must be
ALONG, LESS_ALONG = 0.4, 0.4
ALIKE = 0.012  # mean squared difference of colour up to which two ways to dress a shape are nearly the same: 19 dB, on the object
ALIKE_EVERYWHERE = 0.014  # the same in the place where it is largest, up to which they are the same
HOPELESS = 2.5  # a cost above which nothing fits


@dataclass(frozen=True)
class Judged:
    """A candidate that fits the shape, and how much the views' colours disagree: where they see the same, and around edges."""

    candidate: Candidate
    colours: Disagreement
    edges: Edges

    @property
    def colour(self) -> float:
        """Over all views, nan where they share too little."""
        return self.colours.mean(np.ones((6, 6), bool))

    def excludes(self, other: Judged) -> bool:
        """Whether the pairs of views by which the two differ say clearly that it is not the other one. Edges are asked only where
        nothing is seen twice."""
        pairs = unlike_pairs(search.axes_of(self.candidate.reading), search.axes_of(other.candidate.reading))
        own, others = self.colours.mean(pairs), other.colours.mean(pairs)
        if not np.isnan(own + others):
            return others > COLOUR_TIE * own + COLOUR_NOISE
        along = self.edges.correlation(pairs)
        return (
            along > ALONG
            and other.edges.correlation(pairs) < along - LESS_ALONG
            and other.edges.mean(pairs) > EDGE_TIE * self.edges.mean(pairs) + EDGE_NOISE
        )


@dataclass(frozen=True)
class Choice:
    """chosen: with exact numbers; alike: readings that lead to the same mesh up to its symmetry; nearly: those that would change
    a detail of it; open: those that would change more, so that nothing may be decided; runner_up: the cost of the best reading
    that does not tie; fits: whether anything does."""

    chosen: Candidate
    judged: list[Judged]
    alike: list[Reading]
    nearly: list[Reading]
    open: list[Candidate]
    runner_up: float
    fits: bool

    @property
    def clear(self) -> bool:
        return self.fits and not self.open


def choose(sights: Sights, candidates: list[Candidate], maps: list[Array], exact: bool = True) -> Choice:
    """maps: the views' colours where the depth renders have their pixels, see rig_photo.colour_map; exact: sharpen the choice."""
    least = candidates[0].fit.cost
    limit = (OWN_TIE if sights.own else SHAPE_TIE) * least + SHAPE_NOISE
    runner_up = min((c.fit.cost for c in candidates if c.fit.cost > limit), default=np.inf)
    tied = [c for c in candidates if c.fit.cost <= limit]
    judged = parallel_map(lambda c: _judged(sights, c, maps), tied)
    best = _best(judged)
    judged.sort(key=lambda j: j is not best)
    others = list(zip(judged[1:], _unlikenesses(sights, best, judged[1:], maps), strict=True))
    alike = [j.candidate.reading for j, much in others if _same(much)]
    rivals = [(j.candidate, much) for j, much in others if not _same(much) and not best.excludes(j)]
    nearly = [c.reading for c, much in rivals if much.overall <= ALIKE]
    different = [c for c, much in rivals if much.overall > ALIKE]
    chosen = search.sharpened(sights, best.candidate) if exact else best.candidate
    return Choice(chosen, judged, alike, nearly, different, runner_up, least < HOPELESS)


def _best(judged: list[Judged]) -> Judged:
    """The best shape among those that no other's colours exclude."""
    left = [j for j in judged if not any(other.excludes(j) for other in judged)]
    return min(left or judged, key=lambda j: j.candidate.fit.cost)


def at_nominal(sights: Sights, nominal: Candidate) -> list[Candidate]:
    """All readings with the nominal numbers, best first."""
    theta, coding = nominal.fit.theta, nominal.coding
    found = [Candidate(r, coding, Fit(theta, search.cost(sights, r, coding, theta, EXACT))) for r in search.readings()]
    return sorted(found, key=lambda c: c.fit.cost)


def _judged(sights: Sights, candidate: Candidate, maps: list[Array]) -> Judged:
    rest = sights, maps, search.axes_of(candidate.reading), candidate.coding, candidate.fit.theta
    return Judged(candidate, disagreement(*rest), edges(*rest))


def _unlikenesses(sights: Sights, best: Judged, others: list[Judged], maps: list[Array]) -> list[Unlikeness]:
    masks = [(v >= 0).astype(np.float64) for v in sights.values]
    normals, axes = search.normals(sights, best.candidate), search.axes_of(best.candidate.reading)
    return unlikenesses(maps, masks, normals, axes, [search.axes_of(j.candidate.reading) for j in others])


def _same(much: Unlikeness) -> bool:
    return much.overall <= ALIKE and much.local <= ALIKE_EVERYWHERE
