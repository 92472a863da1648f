"""Depth with holes, speckles and noise; things that are thin."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
