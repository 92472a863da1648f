"""Inputs as people's tools really write them, each with the right value. `tests.cases.CASES` lists them all; the tests take a few
each, `python -m tests.benchmarks inputs` prints the whole table."""

from __future__ import annotations

import importlib

from tests.cases.kit import Case

TOPICS = ("units", "files", "pictures", "depths", "cameras", "holes")


def every() -> list[Case]:
    """The cases of all topics, by topic."""
    found = [case for topic in TOPICS for case in importlib.import_module(f"tests.cases.{topic}").CASES]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "two cases of one name"
    return found
