"""Views: alpha, background, orientation."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
