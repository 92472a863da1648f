"""Scenes in other units and in other places."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
