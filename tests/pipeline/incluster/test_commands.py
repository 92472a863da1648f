"""The commands of the control plane's pods take what the manifests pass them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pipeline.incluster import checkpoint_sidecar, exit_handler, intake

MANIFESTS = Path(__file__).parents[3] / "manifests" / "sixview.yaml"
COMMANDS = {"checkpoint_sidecar": checkpoint_sidecar.main, "exit_handler": exit_handler.main}


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in the manifests that has a command."""
    if isinstance(value, dict) and isinstance(value.get("command"), list):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from containers(inner)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pod_s_arguments_are_those_of_its_command(name: str) -> None:
    command = ["python", "-m", f"pipeline.incluster.{name}"]
    documents = list(yaml.safe_load_all(MANIFESTS.read_text()))
    matching = [c for c in containers(documents) if c["command"] == command]
    assert matching
    for container in matching:
        COMMANDS[name].make_context(name, list(container["args"]))


def test_the_intake_takes_any_key_or_none() -> None:
    for key in ([], [""], ["drops%2Fmug.zip"], ["-odd"]):
        context = intake.main.make_context("intake", ["here", "sixview", *key])
        assert context.params == {"namespace": "here", "template": "sixview", "key": "".join(key)}
    with pytest.raises(click.UsageError):
        intake.main.make_context("intake", ["here", "sixview", "one", "two"])
