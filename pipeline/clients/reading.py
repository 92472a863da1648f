"""Typed values from untrusted JSON: workflows, annotations, labels, output parameters, objects in S3.

No function raises on content, except `decoded` (ValueError for text that is not JSON). Values of a wrong type become empty ones;
`workflows.Workflow.parse_errors` names them. So one malformed object affects its own job only.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from steps.runtime.errors import Record, UnknownError

MAX_DEPTH = 50  # nesting levels that are decoded; Argo's own objects have about 20
MAX_TEXT = 4096  # characters of a message, a URL, a label
MAX_OUTPUT = 65536  # characters of an output parameter: a failure record names a hundred files at most
MAX_RECORD = 32768  # characters of a step's failure record
EPOCH = "1970-01-01T00:00:00Z"  # replaces a timestamp that cannot be parsed
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


# -- JSON -------------------------------------------------------------------------------------------------------------


def decoded(data: bytes | str) -> Any:
    """Decoded JSON, with null for NaN, Infinity and, in a document too deep for Python's parser, for values below MAX_DEPTH.
    Raises ValueError for text that is not JSON."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return json.loads(text, parse_constant=_null_constant, parse_float=_finite_or_null)
    except RecursionError:
        return json.loads(_cut_nesting(text), parse_constant=_null_constant, parse_float=_finite_or_null)


def _null_constant(name: str) -> None:
    """None for NaN and Infinity: they are not JSON, and clients of the API could not parse them."""


def _finite_or_null(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _cut_nesting(text: str) -> str:
    """A JSON text with null in place of every value that is nested deeper than MAX_DEPTH."""
    pieces, depth, start = [], 0, 0
    for match in _TOKEN.finditer(text):
        bracket = match.group()
        if bracket in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                pieces += [text[start : match.start()], "null"]
        elif bracket in "]}":
            if depth == MAX_DEPTH + 1:
                start = match.end()
            depth -= 1
    return "".join([*pieces, text[start:]])


def depth_of(value: Any, limit: int = MAX_DEPTH) -> int:
    """Nesting depth of lists and dicts in a value, at most `limit` + 1."""
    level, depth = [value], 0
    while level and depth <= limit:
        level = [v for inner in level for v in _inner(inner)]
        depth += 1
    return depth - 1


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def json_of(data: Any) -> Any:
    """As `decoded`, but None for text that is not JSON and for values that are not text."""
    try:
        return decoded(data) if isinstance(data, str | bytes) else None
    except ValueError:
        return None


# -- plain values -----------------------------------------------------------------------------------------------------


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a dict, else {}."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """The value if it is a list, else []."""
    return value if isinstance(value, list) else []


def text(value: Any, limit: int = MAX_TEXT) -> str:
    """A string that can be printed and encoded, cut to `limit` characters; numbers as digits, "" for other types.

    Control characters and lone surrogates become U+FFFD."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and abs(value) >= 10**40:  # str() raises ValueError above 4300 digits
        return ""
    string = value if isinstance(value, str) else str(value)
    string = string if len(string) <= limit else string[: limit - 1] + "…"
    return _UNPRINTABLE.sub("\ufffd", string)


def integer(value: Any, default: int = 0, limit: int = 10**15) -> int:
    """A non-negative integer, at most `limit`; the default for anything else."""
    digits = text(value, 40)
    return min(int(digits), limit) if digits.isascii() and digits.isdigit() else default


def seconds(value: Any) -> float:
    """A duration, rounded to milliseconds; 0 for what is none, or longer than thirty years."""
    try:
        number = float(text(value, 40))
    except ValueError:
        return 0.0
    return round(number, 3) if 0 < number < 1e9 else 0.0


def parse_time(value: Any) -> datetime | None:
    """An ISO 8601 timestamp in UTC, which is also assumed where it has no zone; None where it cannot be parsed."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return time and (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def texts(value: Any, limit: int) -> list[str]:
    """The first `limit` items of a list, those of them that are strings."""
    return [text(item) for item in sequence(value)[:limit] if isinstance(item, str)]


def time_text(value: Any) -> str:
    """The timestamp unchanged; "" where it cannot be parsed."""
    return text(value) if parse_time(value) else ""


# -- records ----------------------------------------------------------------------------------------------------------


def failure(value: Any, limit: int = MAX_OUTPUT) -> Record | None:
    """A failure record whose every field has its type. value: a dict or its JSON. None where it has no code, is nested deeper
    than MAX_DEPTH, or is longer than `limit` characters of JSON."""
    if isinstance(value, str):
        value = json_of(value)
    fields = mapping(value)
    code = text(fields.get("code"), 64)
    if not code or depth_of(fields) > MAX_DEPTH:
        return None
    sentences: Record = {name: text(fields.get(name)) for name in ("message", "suggestion")}
    details = {text(k): v for k, v in mapping(_sanitized(fields.get("details"))).items()}
    details |= {name: text(details[name]) for name in TEXTS_OF_DETAILS if name in details}
    details |= {name: sequence(details[name]) for name in LISTS_OF_DETAILS if name in details}
    record = {"code": code, **sentences, "details": details}
    return record if len(json.dumps(record)) <= limit else None


# details with a fixed type; other details are passed through
TEXTS_OF_DETAILS = ("step", "model", "engine", "pipeline_stage", "oom_type", "node", "argo_message", "log")
LISTS_OF_DETAILS = ("faults", "missing")


def _sanitized(value: Any) -> Any:
    """The value with every string passed through `text`, and null for numbers that JSON cannot encode."""
    if isinstance(value, dict):
        return {text(k): _sanitized(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_sanitized(v) for v in value]
    if isinstance(value, str):
        return text(value, MAX_OUTPUT)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**40) else None


def unreadable(what: str) -> Record:
    """An UNKNOWN_ERROR record in place of one that cannot be parsed. what: begins its message."""
    details = {"step": "", "model": "", "engine": "", "pipeline_stage": "", "oom_type": "none"}
    return UnknownError(
        f"{what} cannot be read.", "Read the workflow in the Argo UI, and the steps' logs.", **details
    ).record()
