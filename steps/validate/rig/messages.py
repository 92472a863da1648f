"""Report texts and metadata of an estimated rig, and the error that lists the remaining hypotheses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steps.calibration import selection
from steps.calibration.hypotheses import Hypothesis
from steps.calibration.rig_model import PER_VIEW, SHARED
from steps.calibration.search import Candidate
from steps.calibration.selection import Choice
from steps.geometry.cameras import VIEW_NAMES
from steps.io import cameras_json
from steps.io.depth_encoding import DepthEncoding
from steps.io.input_checks import Pictures
from steps.runtime.errors import RigAmbiguous
from steps.runtime.files import write_json
from steps.validate.depth.messages import describe_encoding
from steps.validate.rig import picture

UNSURE = 1.5  # degrees of a field of view's standard error, from which it is asked for


def words(hypothesis: Hypothesis) -> str:
    if hypothesis.preset:
        return f"the rig of {hypothesis.preset}"
    turns = [
        f"{name} turned by {90 * n} degrees"
        for name, n in (("top", hypothesis.top), ("bottom", hypothesis.bottom))
        if n
    ]
    return ", ".join([f"left means the {hypothesis.left_is}'s left", *turns])


def field_of_view(candidate: Candidate) -> float:
    """Degrees across the depth render's longer side; 0 for orthographic."""
    k = float(candidate.fit.params[0])
    return 0.0 if k < 0.02 else float(2 * np.degrees(np.arctan(k)))


def std_error_of(candidate: Candidate) -> float:
    """Standard error of the field of view in degrees; 0 where it was given."""
    return float(2 * np.degrees(candidate.fit.std_error / (1 + candidate.fit.params[0] ** 2)))


def note_of(choice: Choice, depth: DepthEncoding, per_view: bool) -> str:
    """Sentences for the report. depth: the encoding that was found; per_view: whether each view has a range of its own."""
    chosen = choice.chosen
    angle = field_of_view(chosen)
    std_error = std_error_of(chosen)
    uncertainty = f" ± {std_error:.1f} degrees" if std_error else " degrees, as given"
    lens = f"field of view {angle:.0f}{uncertainty}" if angle else "orthographic cameras"
    tie = (
        f" {len(choice.equivalent)} other readings lead to the same mesh, up to its symmetry."
        if choice.equivalent
        else ""
    )
    if choice.near_equivalent:
        questions = "; ".join(_questions([hypothesis_json(r) for r in (chosen.hypothesis, *choice.near_equivalent)]))
        tie += (
            f" WARNING: the pictures do not tell {questions}; another answer changes a detail of the mesh. To settle it, put a "
            f"cameras.json with one line into the set: {line_of(chosen.hypothesis)} is what was taken."
        )
    if std_error > UNSURE and not chosen.hypothesis.preset:  # whose line has no place for a field of view
        line = line_of(replace(chosen.hypothesis, field_of_view=round(angle)))
        tie += (
            " The lens, where it is known, settles the field of view: put a cameras.json with one line into the set, with its "
            f"degrees in place of {angle:.0f}: {line}."
        )
    encoding = describe_encoding(depth, per_view)
    return f"The rig was found from the pictures: {words(chosen.hypothesis)}; {lens}; depth {encoding}{tie}"


def metadata_of(choice: Choice, views: list[cameras_json.View], per_view: bool) -> dict[str, Any]:
    """scene/rig.json. per_view: whether each view is normalized by its own range."""
    chosen, params = choice.chosen, choice.chosen.fit.params
    per_view_params = params[SHARED:].reshape(6, PER_VIEW)
    return {
        "decision": _decision(choice),
        "reading": hypothesis_json(chosen.hypothesis),
        "field_of_view": round(field_of_view(chosen), 2),
        "field_of_view_error": round(std_error_of(chosen), 2),
        "larger_is": "nearer" if params[2] > params[1] else "farther",
        "encoding": "inverse" if chosen.encoding.inverse else "linear",
        "distance": "ray" if chosen.encoding.ray else "z",
        "curve": views[0].depth.curve if views[0].depth else None,
        "range": "of each view's own" if per_view else "shared",
        "cost": round(chosen.fit.cost, 4),
        "cost_sharpened": round(chosen.fit.final_cost, 4),
        "runner_up": round(choice.runner_up, 4) if np.isfinite(choice.runner_up) else None,
        "tied": [_tied(j) for j in choice.scored],
        "alike": [hypothesis_json(r) for r in choice.equivalent],
        "nearly_alike": [hypothesis_json(r) for r in choice.near_equivalent],
        "views": [
            {
                "name": name,
                "scale": round(float(np.exp(v[0])), 4),
                "shift": [round(float(x), 4) for x in v[1:3]],
                "depth_gain": round(1 + float(v[3]), 4),
                "depth_offset": round(float(v[4]), 4),
            }
            for name, v in zip(VIEW_NAMES, per_view_params, strict=True)
        ],
        "cameras": cameras_json.document(views),
    }  # fmt: skip


def _decision(choice: Choice) -> str:
    if choice.near_equivalent:
        return "found, but for a detail"
    return "found, alike others" if choice.equivalent else "found"


def hypothesis_json(hypothesis: Hypothesis) -> dict[str, Any]:
    """As cameras.json has it under `rig`."""
    if hypothesis.preset:
        return {"preset": hypothesis.preset}
    return {"left_is": hypothesis.left_is, "top_turned": 90 * hypothesis.top, "bottom_turned": 90 * hypothesis.bottom}


def _tied(scored: selection.Scored) -> dict[str, Any]:
    candidate = scored.candidate
    return {
        **hypothesis_json(candidate.hypothesis),
        "cost": round(candidate.fit.cost, 4),
        "colour": _number(scored.colour),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def ambiguous(
    choice: Choice, views: Callable[[Candidate], list[cameras_json.View]], pictures: Pictures, outputs: Path
) -> RigAmbiguous:
    """The error with the remaining hypotheses: a picture, the line of cameras.json that would decide for it, and the whole
    file, of each."""
    remaining = [choice.chosen, *choice.undecided]
    folder = outputs / "rig"
    folder.mkdir(parents=True, exist_ok=True)
    hypotheses = []
    for candidate in remaining:
        hypothesis, cameras = candidate.hypothesis, views(candidate)
        name = hypothesis.preset or f"{hypothesis.left_is}-{90 * hypothesis.top}-{90 * hypothesis.bottom}"
        write_json(folder / f"{name}.json", cameras_json.document(cameras))
        picture.rig_picture(picture.boards_of_set(pictures, cameras)).save(folder / f"{name}.png")
        summary = {"in_words": words(hypothesis), "cost": round(candidate.fit.cost, 4), "line": line_of(hypothesis)}
        hypotheses.append(
            {**hypothesis_json(hypothesis), **summary, "cameras": f"rig/{name}.json", "picture": f"rig/{name}.png"}
        )
    return RigAmbiguous(*_message_of(choice, hypotheses), hypotheses=hypotheses)


def line_of(hypothesis: Hypothesis) -> str:
    """The cameras.json that leaves only this hypothesis."""
    known = {} if hypothesis.field_of_view is None else {"field_of_view": hypothesis.field_of_view}
    return json.dumps(
        {"format": "sixview-cameras/1", "rig": hypothesis.preset or {**hypothesis_json(hypothesis), **known}}
    )


def _message_of(choice: Choice, hypotheses: list[dict[str, Any]]) -> tuple[str, str]:
    """Message and suggestion."""
    if not choice.fits:
        lowest = min(j.candidate.fit.cost for j in choice.scored)
        text = f"No arrangement of the six cameras explains the depth renders: the best misses by {lowest:.1f}, below 1 is usual."
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
    """What the hypotheses differ in, with the remaining answers."""
    questions = {
        "left_is": "whose left is meant ({})",
        "top_turned": "by how many degrees top is turned ({})",
        "bottom_turned": "by how many degrees bottom is turned ({})",
    }
    answers = {key: sorted({h[key] for h in hypotheses if key in h}) for key in questions}
    return [
        questions[key].format(", ".join(map(str, remaining)))
        for key, remaining in answers.items()
        if len(remaining) > 1
    ]
