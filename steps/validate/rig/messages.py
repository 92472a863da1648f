"""What is said about a rig: in words, as facts, and where it stays open, what remains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steps.calibration import selection
from steps.calibration.search import Candidate, Reading
from steps.calibration.selection import Choice
from steps.calibration.solver import PER_VIEW, SHARED
from steps.geometry.cameras import VIEW_NAMES
from steps.io import cameras_json
from steps.io.depth_encoding import DepthEncoding
from steps.io.input_checks import Pictures
from steps.runtime.errors import RigAmbiguous
from steps.runtime.files import write_json
from steps.validate.depth.messages import described
from steps.validate.rig import picture

UNSURE = 1.5  # degrees of a field of view's standard error, from which it is asked for


def words(reading: Reading) -> str:
    if reading.preset:
        return f"the rig of {reading.preset}"
    turns = [
        f"{name} turned by {90 * n} degrees" for name, n in (("top", reading.top), ("bottom", reading.bottom)) if n
    ]
    return ", ".join([f"left means the {reading.left_is}'s left", *turns])


def field_of_view(found: Candidate) -> float:
    """Degrees across the depth render's longer side; 0 for orthographic."""
    k = float(found.fit.theta[0])
    return 0.0 if k < 0.02 else float(2 * np.degrees(np.arctan(k)))


def doubt_of(found: Candidate) -> float:
    """Standard error of the field of view in degrees; 0 where it was given."""
    return float(2 * np.degrees(found.fit.doubt / (1 + found.fit.theta[0] ** 2)))


def note_of(choice: Choice, depth: DepthEncoding, per_view: bool) -> str:
    """Sentences for the report. depth: the encoding that was found; per_view: whether each view has a range of its own."""
    found = choice.chosen
    angle = field_of_view(found)
    doubt = doubt_of(found)
    sure = f" ± {doubt:.1f} degrees" if doubt else " degrees, as given"
    lens = f"field of view {angle:.0f}{sure}" if angle else "orthographic cameras"
    tie = f" {len(choice.alike)} other readings lead to the same mesh, up to its symmetry." if choice.alike else ""
    if choice.nearly:
        questions = "; ".join(_questions([reading_json(r) for r in (found.reading, *choice.nearly)]))
        tie += (
            f" WARNING: the pictures do not tell {questions}; another answer changes a detail of the mesh. To settle it, put a "
            f"cameras.json with one line into the set: {line_of(found.reading)} is what was taken."
        )
    if doubt > UNSURE and not found.reading.preset:  # whose line has no place for a field of view
        line = line_of(replace(found.reading, field_of_view=round(angle)))
        tie += (
            " The lens, where it is known, settles the field of view: put a cameras.json with one line into the set, with its "
            f"degrees in place of {angle:.0f}: {line}."
        )
    return (
        f"The rig was found from the pictures: {words(found.reading)}; {lens}; depth {described(depth, per_view)}{tie}"
    )


def facts_of(choice: Choice, views: list[cameras_json.View], per_view: bool) -> dict[str, Any]:
    """scene/rig.json. per_view: whether each view's values are shares of its own range."""
    found, theta = choice.chosen, choice.chosen.fit.theta
    numbers = theta[SHARED:].reshape(6, PER_VIEW)
    return {
        "decision": "found, but for a detail" if choice.nearly else "found, alike others" if choice.alike else "found",
        "reading": reading_json(found.reading),
        "field_of_view": round(field_of_view(found), 2),
        "field_of_view_error": round(doubt_of(found), 2),
        "larger_is": "nearer" if theta[2] > theta[1] else "farther",
        "encoding": "inverse" if found.coding.inverse else "linear",
        "distance": "ray" if found.coding.ray else "z",
        "curve": views[0].depth.curve if views[0].depth else None,
        "range": "of each view's own" if per_view else "shared",
        "cost": round(found.fit.cost, 4),
        "cost_sharpened": round(found.fit.left, 4),
        "runner_up": round(choice.runner_up, 4) if np.isfinite(choice.runner_up) else None,
        "tied": [_tied(j) for j in choice.judged],
        "alike": [reading_json(r) for r in choice.alike],
        "nearly_alike": [reading_json(r) for r in choice.nearly],
        "views": [
            {
                "name": name,
                "scale": round(float(np.exp(v[0])), 4),
                "shift": [round(float(x), 4) for x in v[1:3]],
                "depth_gain": round(1 + float(v[3]), 4),
                "depth_offset": round(float(v[4]), 4),
            }
            for name, v in zip(VIEW_NAMES, numbers, strict=True)
        ],
        "cameras": cameras_json.document(views),
    }  # fmt: skip


def reading_json(reading: Reading) -> dict[str, Any]:
    """As cameras.json has it under `rig`."""
    if reading.preset:
        return {"preset": reading.preset}
    return {"left_is": reading.left_is, "top_turned": 90 * reading.top, "bottom_turned": 90 * reading.bottom}


def _tied(judged: selection.Judged) -> dict[str, Any]:
    found = judged.candidate
    return {**reading_json(found.reading), "cost": round(found.fit.cost, 4), "colour": _number(judged.colour)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def ambiguous(
    choice: Choice, views: Callable[[Candidate], list[cameras_json.View]], pictures: Pictures, outputs: Path
) -> RigAmbiguous:
    """What remains, each with its picture, with the line of a cameras.json that would settle it, and with a whole one."""
    remaining = [choice.chosen, *choice.open]
    folder = outputs / "rig"
    folder.mkdir(parents=True, exist_ok=True)
    hypotheses = []
    for candidate in remaining:
        reading, found = candidate.reading, views(candidate)
        name = reading.preset or f"{reading.left_is}-{90 * reading.top}-{90 * reading.bottom}"
        write_json(folder / f"{name}.json", cameras_json.document(found))
        picture.drawn(picture.boards(pictures, found)).save(folder / f"{name}.png")
        about = {"in_words": words(reading), "cost": round(candidate.fit.cost, 4), "line": line_of(reading)}
        hypotheses.append(
            {**reading_json(reading), **about, "cameras": f"rig/{name}.json", "picture": f"rig/{name}.png"}
        )
    return RigAmbiguous(*_told(choice, hypotheses), hypotheses=hypotheses)


def line_of(reading: Reading) -> str:
    """The cameras.json that leaves only this reading."""
    known = {} if reading.field_of_view is None else {"field_of_view": reading.field_of_view}
    return json.dumps({"format": "sixview-cameras/1", "rig": reading.preset or {**reading_json(reading), **known}})


def _told(choice: Choice, hypotheses: list[dict[str, Any]]) -> tuple[str, str]:
    """What happened, and what to do."""
    if not choice.fits:
        least = min(j.candidate.fit.cost for j in choice.judged)
        text = f"No arrangement of the six cameras explains the depth renders: the best misses by {least:.1f}, below 1 is usual."
        return text, (
            "Compare the pictures beside failure.json with the object, and give a cameras.json (docs/cameras.md); or render "
            "depth again, of all six views in one encoding."
        )
    questions = "; ".join(_questions(hypotheses))
    text = f"{len(hypotheses)} arrangements of the cameras explain the pictures equally well. Open: {questions}."
    return text, (
        f"Put one line into the set as cameras.json, {hypotheses[0]['line']} or another with the right values. The report shows "
        "a picture of each arrangement with its line; beside failure.json, in rig/, lies a whole cameras.json of each."
    )


def _questions(hypotheses: list[dict[str, Any]]) -> list[str]:
    """What the hypotheses differ in, and the answers that remain."""
    asked = {
        "left_is": "whose left is meant ({})",
        "top_turned": "by how many degrees top is turned ({})",
        "bottom_turned": "by how many degrees bottom is turned ({})",
    }
    answers = {key: sorted({h[key] for h in hypotheses if key in h}) for key in asked}
    return [asked[key].format(", ".join(map(str, found))) for key, found in answers.items() if len(found) > 1]
