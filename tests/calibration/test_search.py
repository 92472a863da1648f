"""Search for the rig of simulated real captures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steps.calibration import observations, search
from steps.calibration.hypotheses import axes_of, hypotheses
from steps.calibration.observations import Observations
from steps.calibration.rig_residuals import DIFFERENCE_STEP
from steps.calibration.search import Candidate
from steps.calibration.solver import FINEST, Problem
from steps.sample import capture
from steps.sample.objects import OBJECTS
from steps.sample.render import build

SIDE = 192  # pixels


def observed_capture(seed: int, name: str, per_view_range: bool = False, **changes: Any) -> Observations:
    """Observations of a simulated real capture of a sample object."""
    settings = replace(capture.random_capture(seed), side=(SIDE, SIDE), background="0", **changes)
    truth = build(OBJECTS[name], 100)
    counts = capture.depth_counts(truth, capture.cameras(truth, settings), settings)
    return observations.observations_of([c.astype(float) for c in counts], [c > 0 for c in counts], per_view_range)


def captured(seed: int, **changes: Any) -> tuple[Observations, Candidate]:
    """Observations of a simulated real capture of a donut, and the best rig of the search."""
    observed = observed_capture(seed, "donut", **changes)
    return observed, search.search(observed, hypotheses())[0]


def test_a_curve_as_strong_as_filmic_s_is_found_with_the_field_of_view() -> None:
    """A straight start ends 45 degrees off, at a cost of 0.9."""
    settings = {"levels": 148, "lowest": 3, "curve": "filmic", "bits": 8, "encoding": "linear", "distance": "z"}
    observed = observed_capture(5, "house", **settings)
    candidate = search.refine(observed, search.search(observed, hypotheses())[0])
    true = capture.random_capture(5).field_of_view
    assert candidate.encoding.curved
    assert 2 * np.degrees(np.arctan(candidate.fit.params[0])) == pytest.approx(true, abs=3)
    assert candidate.fit.final_cost < 0.3


def test_all_hypotheses_fit_a_bowl_equally_with_per_view_ranges() -> None:
    """With too few points the true one fits a third worse than the best, or twice as badly in larger pictures."""
    observed = observed_capture(253, "bowl", per_view_range=True, curve="normalised", levels=96)
    costs = [c.fit.cost for c in search.search(observed, hypotheses())]
    assert len(costs) == 32 and max(costs) < 1.25 * min(costs)


def test_the_final_fit_converges_to_one_field_of_view_from_any_start() -> None:
    """Residuals have kinks at silhouettes: derivatives over long steps would stop the fit halfway."""
    observed, best = captured(11)
    params, axes = search.refine(observed, best).fit.params, axes_of(best.hypothesis)
    extended = observations.with_extreme_points(
        observed, observations.all_points(observed), axes, best.encoding, params
    )
    problem = Problem(extended, axes, best.encoding, search.ALL, search.PARAMETERS >= 0, 2, FINEST)
    ends = [
        problem.minimize(np.concatenate([[params[0] + d], params[1:]]), 30).params[0]
        for d in (-0.05, -0.02, 0.02, 0.05)
    ]
    assert np.ptp(2 * np.degrees(np.arctan(ends))) < 0.5


def test_a_perspective_below_its_standard_error_becomes_orthographic() -> None:
    observed, best = captured(11, field_of_view=0.0)
    candidate = search.refine(
        observed, replace(best, fit=replace(best.fit, params=best.fit.params + 0.01 * (search.PARAMETERS == 0)))
    )
    assert candidate.fit.params[0] == 0 and candidate.fit.std_error > 0


def test_the_jacobian_is_the_finite_difference_by_each_parameter_alone() -> None:
    """For a per-view parameter only the residuals of pairs with that view are recomputed."""
    observed, best = captured(11)
    problem = Problem(observed, axes_of(best.hypothesis), best.encoding, search.ALL, search.PARAMETERS >= 0, stride=8)
    before = problem.evaluate(best.fit.params)
    for index, changes in enumerate(problem.jacobian(best.fit.params, before)):
        perturbed = best.fit.params + DIFFERENCE_STEP * (index == search.PARAMETERS)
        expected = (problem.evaluate(perturbed).errors - before.errors) / DIFFERENCE_STEP
        assert changes == pytest.approx(expected, rel=1e-6, abs=1e-6)
