"""JSON that somebody else wrote."""

from __future__ import annotations

import json
import re
from typing import Any

from steps.runtime.errors import ValidationFailed

DEEPEST = 50  # levels of lists and objects
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parsed(data: bytes | str, what: str, suggestion: str, **details: Any) -> dict[str, Any]:
    """The object that a JSON text holds. what: begins the sentence of the refusal. Raises ValidationFailed for text that is not
    UTF-8 or no JSON, for NaN and Infinity, for numbers of more digits than Python reads, for nesting beyond DEEPEST, and for
    anything but an object."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        if depth(text) > DEEPEST:
            raise ValidationFailed(f"{what} is nested more than {DEEPEST} levels deep.", suggestion, **details)
        found = json.loads(text, parse_constant=_no_number)
        json.dumps(
            found, ensure_ascii=False, allow_nan=False
        ).encode()  # half a surrogate pair, 1e999: cannot be handed on
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValidationFailed(f"{what} is not a JSON object.", suggestion, **details)
    return found


def depth(text: str) -> int:
    """Levels of lists and objects, told without parsing."""
    level = deepest = 0
    for token in _TOKEN.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        deepest = max(deepest, level)
    return deepest


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
