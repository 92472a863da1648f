"""Inputs as other tools write them, each with the expected outcome. The tests take
a few of each kind, `python -m tests.benchmarks inputs` prints the whole table."""

from __future__ import annotations

import importlib
from collections import Counter

from tests.cases.kit import Case

TOPICS = ("units", "files", "pictures", "depths", "cameras", "holes", "thin")


def by_topic() -> dict[str, list[Case]]:
    """The cases of each topic."""
    cases_by_topic = {topic: importlib.import_module(f"tests.cases.{topic}").CASES for topic in TOPICS}
    names = Counter(case.name for cases in cases_by_topic.values() for case in cases)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"Several cases are called {', '.join(twice)}.")
    return cases_by_topic
