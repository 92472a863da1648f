"""Inputs as people's tools really write them, each with the right value. The tests take
a few of each kind, `python -m tests.benchmarks inputs` prints the whole table."""

from __future__ import annotations

import importlib

from tests.cases.kit import Case

TOPICS = ("units", "files", "pictures", "depths", "cameras", "holes")


def by_topic() -> dict[str, list[Case]]:
    """The cases of each topic."""
    found = {topic: importlib.import_module(f"tests.cases.{topic}").CASES for topic in TOPICS}
    names = [case.name for cases in found.values() for case in cases]
    assert len(set(names)) == len(names), "two cases of one name"
    return found
