"""Values of known types out of what anybody may have written: workflows, annotations, labels, outputs, objects in S3.

Nothing here raises on content, but for `decoded`, which has one error for what is no JSON at all. What cannot be read is left
out, and told in a short sentence in `workflows.Workflow.unread`: so a bad object spoils its own view and nothing beside it.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from steps.runtime.errors import Record, UnknownError

DEEPEST = 50  # levels of nesting that are read; Argo's own objects have about 20
MOST_TEXT = 4096  # characters of a message, an address, a label
MOST_OUTPUT = 65536  # of an output parameter: a failure record names a hundred files at most
MOST_RECORD = 32768  # of the failure record that a step leaves
EPOCH = "1970-01-01T00:00:00Z"  # stands for a time that cannot be read
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


# -- JSON ---------------------------------------------------------------------------------------------------------------


def decoded(data: bytes | str) -> Any:
    """JSON as Python values; null stands where it is nested deeper than DEEPEST. Raises ValueError where it is no JSON."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        return json.loads(_cut(text), parse_constant=_no_number, parse_float=_finite)


def _no_number(name: str) -> None:
    """NaN and Infinity are no JSON, and nobody to whom they are handed on could read them."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _cut(text: str) -> str:
    """The same JSON, with null for every value that is nested deeper than DEEPEST."""
    kept, depth, start = [], 0, 0
    for found in _TOKEN.finditer(text):
        mark = found.group()
        if mark in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += [text[start : found.start()], "null"]
        elif mark in "]}":
            if depth == DEEPEST + 1:
                start = found.end()
            depth -= 1
    return "".join([*kept, text[start:]])


def depth_of(value: Any, most: int = DEEPEST) -> int:
    """Levels of lists and objects within a value, counted to `most` + 1."""
    layer, depth = [value], 0
    while layer and depth <= most:
        layer = [v for inner in layer for v in _inner(inner)]
        depth += 1
    return depth - 1


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def json_of(data: Any) -> Any:
    """The same, and None for what is no JSON."""
    try:
        return decoded(data) if isinstance(data, str | bytes) else None
    except ValueError:
        return None


# -- plain values -------------------------------------------------------------------------------------------------------


def mapping(value: Any) -> dict[str, Any]:
    """An object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """A list; empty where it is none."""
    return value if isinstance(value, list) else []


def text(value: Any, most: int = MOST_TEXT) -> str:
    """Text that may be shown and encoded; of a number its digits, of anything else nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and abs(value) >= 10**40:  # Python refuses to spell very long ones
        return ""
    shown = value if isinstance(value, str) else str(value)
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return _UNPRINTABLE.sub("\ufffd", shown)


def integer(value: Any, default: int = 0, most: int = 10**15) -> int:
    """A whole number that is not negative; the default for anything else."""
    shown = text(value, 40)
    return min(int(shown), most) if shown.isascii() and shown.isdigit() else default


def moment(value: Any) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found and (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def texts(value: Any, most: int) -> list[str]:
    """The first `most` texts of a list."""
    return [text(item) for item in sequence(value)[:most] if isinstance(item, str)]


def time_text(value: Any) -> str:
    """A time as it was given; empty where it cannot be read."""
    return text(value) if moment(value) else ""


# -- records ------------------------------------------------------------------------------------------------------------


def failure(value: Any, most: int = MOST_OUTPUT) -> Record | None:
    """A failure record, of which every part has its type; None where it is none: no code, nested too deep, longer than `most`
    in JSON."""
    if isinstance(value, str):
        value = json_of(value)
    given = mapping(value)
    code = text(given.get("code"), 64)
    if not code or depth_of(given) > DEEPEST:
        return None
    shown: Record = {name: text(given.get(name)) for name in ("message", "suggestion")}
    details = {text(k): v for k, v in mapping(_plain(given.get("details"))).items()}
    details |= {name: text(details[name]) for name in TEXTS_OF_DETAILS if name in details}
    details |= {name: sequence(details[name]) for name in LISTS_OF_DETAILS if name in details}
    record = {"code": code, **shown, "details": details}
    return record if len(json.dumps(record)) <= most else None


# details that programs read; whatever else stands there is handed on as it is
TEXTS_OF_DETAILS = ("step", "model", "engine", "pipeline_stage", "oom_type", "node", "argo_message", "log")
LISTS_OF_DETAILS = ("faults", "missing")


def _plain(value: Any) -> Any:
    """The same value, whose texts may be shown and whose numbers may be encoded."""
    if isinstance(value, dict):
        return {text(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return text(value, MOST_OUTPUT)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**40) else None


def unreadable(what: str) -> Record:
    """The record of a failure whose own record cannot be read."""
    details = {"step": "", "model": "", "engine": "", "pipeline_stage": "", "oom_type": "none"}
    return UnknownError(
        f"{what} cannot be read.", "Read the workflow in the Argo UI, and the steps' logs.", **details
    ).record()
