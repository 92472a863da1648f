"""Depth renders whose values follow another curve, or have another kind of file."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
