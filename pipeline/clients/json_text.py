"""Strict parser for JSON that users send: requests, _READY.json, annotations."""

from __future__ import annotations

import json
import re
from typing import Any

from steps.runtime.errors import ValidationFailed

MAX_DEPTH = 50  # levels of lists and objects
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse_object(data: bytes | str, subject: str, suggestion: str, **details: Any) -> dict[str, Any]:
    """The JSON object in `data`. subject: begins the error message; details: of the error.

    Raises ValidationFailed for text that is not UTF-8 or not JSON, for NaN and Infinity, for numbers of more digits than Python
    reads, for nesting beyond MAX_DEPTH, and for JSON that is not an object."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        if depth(text) > MAX_DEPTH:
            raise ValidationFailed(f"{subject} is nested more than {MAX_DEPTH} levels deep.", suggestion, **details)
        value = json.loads(text, parse_constant=_refuse_constant)
        # lone surrogates and 1e999 parse, but cannot be encoded again
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValidationFailed(f"{subject} is not a JSON object.", suggestion, **details)
    return value


def depth(text: str) -> int:
    """Nesting depth of a JSON text, counted without parsing it: the parser itself recurses."""
    level = maximum = 0
    for token in _TOKEN.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        maximum = max(maximum, level)
    return maximum


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
