"""Assignment of the pictures to the depth renders: which other order is told, and in which words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES
from steps.validate.consistency import causes, exchanged


@pytest.mark.parametrize(("iou_elsewhere", "is_told"), [(0.99, True), (0.9, False)])
def test_an_order_that_fits_the_outlines_worse_is_not_told_whatever_the_colours_say(
    iou_elsewhere: float, is_told: bool
) -> None:
    """A light of each view's own may let the colours of another order match better."""
    colours = np.full((6, 6, 6, 6), 0.1)
    for a, b in itertools.permutations(range(6), 2):
        colours[a, b, a, b] = 0.5
    outlines = np.where(np.eye(6) > 0, 0.99, iou_elsewhere)
    scores = exchanged.AssignmentScores(outlines, colours, colours.copy(), 1 - np.eye(6))
    order = scores.best()
    assert scores.cost(order) < scores.cost(tuple(range(6))) - 0.2
    costs = (scores.cost(order), scores.outline_cost(order), scores.unlit_cost(order))
    assert causes._gains(scores, *costs, n_moved=6) is is_told


def test_pictures_in_another_order_are_told_by_whose_stands_where() -> None:
    assert causes.exchange_words((0, 1, 3, 2, 4, 5), list(VIEW_NAMES)) == "left and right are exchanged"
    words = causes.exchange_words((1, 2, 0, 3, 4, 5), list(VIEW_NAMES))
    assert "front has that of left" in words and "left has that of back" in words
