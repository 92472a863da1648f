"""Names, archives and camera files as other tools write them."""

from __future__ import annotations

from tests.cases.kit import Case

CASES: list[Case] = []
