"""Selects one of the fitted rigs: by shape residuals, then by colour, then by whether the remaining ones differ in the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steps.calibration import search
from steps.calibration.hypotheses import Hypothesis, axes_of, hypotheses
from steps.calibration.observations import Observations
from steps.calibration.photometric import (
    AppearanceDifference,
    ColourDifference,
    EdgeDifference,
    appearance_differences,
    colour_difference,
    differing_pairs,
    edge_difference,
)
from steps.calibration.search import Candidate
from steps.calibration.solver import EXACT, Fit
from steps.compute.arrays import Array
from steps.compute.kernels import parallel_map

# a hypothesis whose cost is at most so many times the best one's, plus this, fits as well
SHAPE_TIE, SHAPE_NOISE = 1.15, 0.06
PER_VIEW_TIE = 1.5  # the same where each view has a range of its own, and the cost is that of finer errors
NAMED = (
    1.5  # times the limit of a tie up to which a hypothesis is named that would give the same mesh: it decides nothing
)
COLOUR_TIE, COLOUR_NOISE = 1.4, 0.0003  # the same for the disagreement of colours
EDGE_TIE, EDGE_NOISE = 1.1, 0.0002  # the same for colours on both sides of edges
# least correlation along edges that is evidence, and by how much another hypothesis must be below it
EDGE_CORRELATION, CORRELATION_DROP = 0.4, 0.4
EQUIVALENT_MEAN = 0.012  # mean squared colour difference up to which two textures of a shape are nearly the same: 19 dB
EQUIVALENT_LOCAL = 0.014  # the same at the place where it is largest
MAX_COST = 2.5  # a cost above which nothing fits


@dataclass(frozen=True)
class Scored:
    """A candidate that fits the shape, with its photometric inconsistency: on shared surface, and across edges."""

    candidate: Candidate
    colour_difference: ColourDifference
    edge_difference: EdgeDifference

    @property
    def colour(self) -> float:
        """Mean over all pairs of views, nan where they share too few points."""
        return self.colour_difference.mean(np.ones((6, 6), bool))

    def excludes(self, other: Scored) -> bool:
        """Whether colour rules out the other candidate, by the pairs of views in which the two differ. Edges count only where
        no surface is seen twice."""
        pairs = differing_pairs(axes_of(self.candidate.hypothesis), axes_of(other.candidate.hypothesis))
        mine, others = self.colour_difference.mean(pairs), other.colour_difference.mean(pairs)
        if not np.isnan(mine + others):
            return others > COLOUR_TIE * mine + COLOUR_NOISE
        correlation = self.edge_difference.correlation(pairs)
        return (
            correlation > EDGE_CORRELATION
            and other.edge_difference.correlation(pairs) < correlation - CORRELATION_DROP
            and other.edge_difference.mean(pairs) > EDGE_TIE * self.edge_difference.mean(pairs) + EDGE_NOISE
        )


@dataclass(frozen=True)
class Choice:
    """chosen: with refined parameters; scored: all that tie by shape; equivalent: hypotheses that give the same mesh up to its
    symmetry, also of those that fit the shape a little worse; near_equivalent: those that change a detail; undecided: those that
    change more, so that nothing may be decided; runner_up: the lowest cost that does not tie; fits: whether any does."""

    chosen: Candidate
    scored: list[Scored]
    equivalent: list[Hypothesis]
    near_equivalent: list[Hypothesis]
    undecided: list[Candidate]
    runner_up: float
    fits: bool

    @property
    def clear(self) -> bool:
        return self.fits and not self.undecided


def choose(observations: Observations, candidates: list[Candidate], maps: list[Array], exact: bool = True) -> Choice:
    """Decides between fitted candidates, sorted by cost. maps: the views' colours, see `photometric.colour_map`; exact: refine
    it."""
    lowest_cost = candidates[0].fit.cost
    limit = (PER_VIEW_TIE if observations.per_view_range else SHAPE_TIE) * lowest_cost + SHAPE_NOISE
    runner_up = min((c.fit.cost for c in candidates if c.fit.cost > limit), default=np.inf)
    tied = [c for c in candidates if c.fit.cost <= limit]
    scored = parallel_map(lambda c: _score(observations, c, maps), tied)
    best = _best(scored)
    scored.sort(key=lambda j: j is not best)
    worse = [c for c in candidates if limit < c.fit.cost <= NAMED * limit]
    every = [*(j.candidate for j in scored[1:]), *worse]
    differences = _appearance_differences(observations, best, every, maps)
    equivalent = [c.hypothesis for c, difference in zip(every, differences, strict=True) if _is_equivalent(difference)]
    others = list(zip(scored[1:], differences, strict=False))  # those that tie
    rivals = [
        (j.candidate, difference) for j, difference in others if not _is_equivalent(difference) and not best.excludes(j)
    ]
    near_equivalent = [c.hypothesis for c, difference in rivals if difference.overall <= EQUIVALENT_MEAN]
    undecided = [c for c, difference in rivals if difference.overall > EQUIVALENT_MEAN]
    chosen = search.refine(observations, best.candidate) if exact else best.candidate
    return Choice(chosen, scored, equivalent, near_equivalent, undecided, runner_up, lowest_cost < MAX_COST)


def _best(scored: list[Scored]) -> Scored:
    """The lowest cost among those that no other's colours exclude."""
    remaining = [j for j in scored if not any(other.excludes(j) for other in scored)]
    return min(remaining or scored, key=lambda j: j.candidate.fit.cost)


def at_nominal(observations: Observations, nominal: Candidate) -> list[Candidate]:
    """All hypotheses with the nominal parameters, sorted by cost."""
    params, encoding = nominal.fit.params, nominal.encoding
    candidates = [
        Candidate(r, encoding, Fit(params, search.cost(observations, r, encoding, params, EXACT))) for r in hypotheses()
    ]
    return sorted(candidates, key=lambda c: c.fit.cost)


def _score(observations: Observations, candidate: Candidate, maps: list[Array]) -> Scored:
    arguments = observations, maps, axes_of(candidate.hypothesis), candidate.encoding, candidate.fit.params
    return Scored(candidate, colour_difference(*arguments), edge_difference(*arguments))


def _appearance_differences(
    observations: Observations, best: Scored, others: list[Candidate], maps: list[Array]
) -> list[AppearanceDifference]:
    masks = [(v >= 0).astype(np.float64) for v in observations.values]
    normals, axes = search.normals(observations, best.candidate), axes_of(best.candidate.hypothesis)
    return appearance_differences(maps, masks, normals, axes, [axes_of(c.hypothesis) for c in others])


def _is_equivalent(difference: AppearanceDifference) -> bool:
    return difference.overall <= EQUIVALENT_MEAN and difference.local <= EQUIVALENT_LOCAL
