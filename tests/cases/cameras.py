"""Cameras in another convention, and views that are mixed up."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
