"""The smallest forms of the benchmarks that need a cluster or its programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import shapes


@pytest.mark.parametrize("name", shapes.ON_A_CLUSTER)
def test_its_smallest_form_leaves_a_record_as_documented(name: str, cluster: None, tmp_path: Path) -> None:
    assert list(shapes.complaints(shapes.run(name, tmp_path, 900))) == []
