"""Click options generated from the declarations in `steps.runtime.options` and `contract`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from steps.runtime.contract import Step
from steps.runtime.options import JOB_OPTIONS, Option

Decorator = Callable[[Any], Any]


class OptionType(click.ParamType[Any]):
    """Click type with an option's own parser, which is stricter than click's: no spaces, underscores or non-ASCII digits."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = {int: "integer", float: "float", str: "text"}[option.kind]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.option.read(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is not {error}.", param, ctx)


def of_job(name: str, text: str = "", **more: Any) -> Decorator:
    """Click option of a job's option. text: help, default: the workflow parameter's description; more: of click.option."""
    return _flag(name, JOB_OPTIONS[name], text or JOB_OPTIONS[name].text, **more)


def of_step(step: type[Step], field: str, text: str, name: str = "") -> Decorator:
    """Click option of a field of a step's dataclass. name: of the flag, default: the field's."""
    declared = next(item for item in dataclasses.fields(step) if item.name == field)
    return _flag(name or field.replace("_", "-"), declared.metadata["option"], text)


def _flag(name: str, option: Option, text: str, **more: Any) -> Decorator:
    if option.choices:
        kind: click.ParamType[Any] = click.Choice(option.choices)
    else:
        kind, text = OptionType(option), f"{text} {option.allowed().capitalize()}."
    return click.option(f"--{name}", type=kind, help=text, **{"default": option.default, "show_default": True, **more})
