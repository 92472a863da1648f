"""What may be given to a job, and to each of its steps: types, choices, ranges. One declaration for every way in.

JOB_OPTIONS is what a whole job can be asked for. From it follow the parameters of the workflow, the flags of `sixview run`
and `sixview submit`, those that a step's pod gets, and the checks in the gateway, in drops and in the step validate. `parse` is
the one parser of them all, so that each way in refuses a value with the same words. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.runtime.errors import ValidationFailed

MODELS = ("reconviagen", "nvdiffrec")  # in the order in which they run
DEVICES = ("auto", "cpu", "cuda")
PRESETS = ("zero123plus-v1.1", "zero123plus-v1.2", "wonder3d")
RIGS = ("auto", "nominal", *PRESETS)
ENGINES = ("auto", "reconviagen", "fusion")
PRIORITIES = ("low", "normal", "high")

MOST_CHARACTERS = 32  # of a number
# ASCII alone, and no sign but a minus: int() and float() take Arabic digits, underscores, spaces, "+1", "nan" and "infinity", too
NUMBERS = {
    int: re.compile(r"-?[0-9]+"),
    float: re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"),
}
KINDS = {int: "a whole number", float: "a number", str: "text"}
MOST_SHOWN = 60  # characters of a wrong value in a message
MAX_OPTIONS = 65536  # characters of a workflow's parameters as JSON; above it the file that validate gets is empty


@dataclass(frozen=True)
class Option:
    """kind: int, float or str; text: what it means, a sentence; least, most: None where there is no bound (most: never alone)."""

    kind: type
    default: Any
    text: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def read(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError with what is allowed."""
        if self.choices and text not in self.choices:
            raise ValueError(self.allowed())
        if self.kind is str:
            return text
        if len(text) > MOST_CHARACTERS or not NUMBERS[self.kind].fullmatch(text):
            raise ValueError(self.allowed())
        value = self.kind(text)
        if not math.isfinite(value) or not self._within(value):
            raise ValueError(self.allowed())
        return value

    def allowed(self) -> str:
        """What may be given, as the end of a sentence."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.least is not None and self.most is not None:
            return f"{KINDS[self.kind]} from {self.least} to {self.most}"
        return KINDS[self.kind] if self.least is None else f"{KINDS[self.kind]}, at least {self.least}"

    def _within(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


JOB_OPTIONS = {
    "model": Option(str, MODELS[0], "What makes the mesh.", (*MODELS, "both")),
    "engine": Option(
        str, "auto", "Engine of reconviagen; auto: the published model where it can run, else fusion.", ENGINES
    ),
    "device": Option(str, "auto", "Where to compute. A pod that requests a GPU computes on cuda or fails.", DEVICES),
    "rig": Option(
        str,
        "auto",
        "Without cameras.json: found from the pictures, nominal, or that of a generator of six views.",
        RIGS,
    ),
    "priority": Option(str, "normal", "Which pods go first where there are not enough GPUs.", PRIORITIES),
    "resolution": Option(int, 0, "Longest side in pixels that the model works on; 0: as given.", least=0, most=4096),
    "psnr-threshold": Option(float, 20.0, "Mean PSNR in dB below which the job fails.", least=0, most=100),
    "ssim-threshold": Option(float, 0.75, "Mean SSIM below which the job fails.", least=-1, most=1),
    "object-psnr-threshold": Option(
        float,
        0.0,
        "Mean PSNR in dB over the object alone below which the job fails; 0: any will do.",
        least=0,
        most=100,
    ),
    "object-ssim-threshold": Option(
        float, -1.0, "Mean SSIM over the object alone below which the job fails; -1: any will do.", least=-1, most=1
    ),
    "seed": Option(int, 0, "Seed of everything random.", least=0, most=2**32 - 1),
    "grid": Option(int, 256, "Voxels along the object's longest side.", least=32, most=768),
    "faces": Option(int, 20000, "About how many triangles the mesh may have.", least=100, most=2_000_000),
    "texture-size": Option(int, 0, "Side of the texture in pixels; 0: by the views' size.", least=0, most=8192),
    "iterations": Option(int, 40, "nvdiffrec: iterations of each pass.", least=4, most=10_000),
}
SET = "input"  # the workflow's other parameter, which is no option but the set itself


def parse(given: Mapping[str, Any], declared: Mapping[str, Option] = JOB_OPTIONS) -> dict[str, Any]:
    """The given options as values of their types. given: texts, or numbers from JSON. Raises ValidationFailed, which names each
    option that is wrong, its value and what may be given."""
    wrong_options = wrong(given, declared)
    if wrong_options:
        raise refusal(given, wrong_options, declared)
    return {name: declared[name].read(as_text(value)) for name, value in given.items()}


def wrong(given: Mapping[str, Any], declared: Mapping[str, Option] = JOB_OPTIONS) -> dict[str, str | None]:
    """Of the given options those that cannot be taken -> what may be given instead; None where there is no such option."""
    wrong_options: dict[str, str | None] = {}
    for name, value in given.items():
        if name not in declared:
            wrong_options[name] = None
            continue
        try:
            declared[name].read(as_text(value))
        except ValueError as error:
            wrong_options[name] = str(error)
    return wrong_options


def as_text(value: Any) -> str:
    """A value from JSON as it would be typed. Raises ValueError for what is neither text nor a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text or a number")
    return str(value)  # a ValueError, too, for an int of thousands of digits


def refusal(
    given: Mapping[str, Any], allowed: Mapping[str, str | None], declared: Mapping[str, Option] = JOB_OPTIONS
) -> ValidationFailed:
    """The failure that names every value that is not taken. allowed: what would be, as `wrong` has it."""
    reasons, advice = [], []
    for name, text in allowed.items():
        reasons.append(f"There is no option {_shown(name)}" if text is None else f"{name} is {_shown(given[name])}")
        advice.append(f"Options are {', '.join(declared)}" if text is None else f"{name} may be {text}")
    options = [{"name": name, "value": _shown(given[name]), "allowed": text or ""} for name, text in allowed.items()]
    return ValidationFailed(
        f"{'; '.join(reasons)}.", f"{'; '.join(dict.fromkeys(advice))}.", field=next(iter(allowed)), options=options
    )


def _shown(value: Any) -> str:
    """A value as it would be typed, in quotes, in ASCII and short enough for a message."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        text = ascii(str(value) if is_number else value)
    except ValueError:
        return "an endless number"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def check_file(path: Path) -> None:
    """Checks the options of a job as somebody gave them, in a JSON object. Raises ValidationFailed."""
    try:
        text = path.read_text()
        given = {name: value for name, value in json.loads(text).items() if name != SET} if text else None
    except (ValueError, AttributeError, OSError, RecursionError):
        raise ValidationFailed(
            f"The job's options cannot be read: {path.name} is missing or holds no JSON object.",
            f"Give each option as one name and one value. Options are {', '.join(JOB_OPTIONS)}.",
        ) from None
    if given is None:
        raise ValidationFailed(
            f"The job's parameters are longer than {MAX_OPTIONS} characters in all.",
            f"Leave out what is no option, and shorten the input's address. Options are {', '.join(JOB_OPTIONS)}.",
        )
    parse(given)
