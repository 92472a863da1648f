"""Assignment of the pictures to the depth renders: which other order is told, and in which words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from steps.geometry.cameras import VIEW_NAMES
from steps.io import cameras_json, png
from steps.io.png import Picture
from steps.validate.consistency import causes, exchanged, judgement
from steps.validate.foreground import masks


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


def test_the_outline_before_a_screen_of_each_view_s_own_colour_is_seen_where_that_is_even() -> None:
    """Else the screens would be compared as colours of the object, and a white carton be told to be exchanged."""
    white = np.full((64, 64), False)
    white[16:48, 16:48] = True
    screens = [np.array(shade, np.float32) for shade in ((0.1, 0.5, 0.3), (0.7, 0.2, 0.2), (0.2, 0.3, 0.8))]
    falling = np.linspace(0.6, 1, 64)[:, None, None] * screens[2]
    behind = [*screens[:2], falling] * 2
    pictures = [Picture(png.to_bytes(np.where(white[..., None], 0.95, b)), 255) for b in behind]
    inside = white.astype(np.float32)
    segmented = masks.segment(pictures, [inside] * 6)
    assert [uniform is None for uniform in segmented.uniform] == [False, False, True] * 2
    assert all(u is None or u == pytest.approx(b, abs=0.01) for u, b in zip(segmented.uniform, behind, strict=True))
    cameras = [view.camera for view in cameras_json.canonical_views(64, 64)]
    evidence = judgement.evidence_of(cameras, [3 * inside] * 6, pictures, [inside] * 6, segmented.uniform)
    assert [sampled.object is None for sampled in evidence.pictures] == [False, False, True] * 2
    for sampled, view in zip(evidence.pictures, evidence.views, strict=True):
        assert exchanged.outline_mismatch(sampled.object, exchanged.outline(view)) == 0
        assert sampled.object is None or sampled.object.mean() == pytest.approx(white.mean(), abs=0.01)


def test_pictures_in_another_order_are_told_by_whose_stands_where() -> None:
    assert causes.exchange_words((0, 1, 3, 2, 4, 5), list(VIEW_NAMES)) == "left and right are exchanged"
    words = causes.exchange_words((1, 2, 0, 3, 4, 5), list(VIEW_NAMES))
    assert "front has that of left" in words and "left has that of back" in words
