"""Click options generated from the declarations in `steps.runtime.options` and `contract`, and the commands that check them.

Click only splits the command line; values stay text until `steps.runtime.options.parse`, which also reads those of HTTP and of
drops: all interfaces refuse a value with the same message, code and exit code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from steps.runtime.contract import Step, option_name
from steps.runtime.errors import StepError, ValidationFailed
from steps.runtime.options import JOB_OPTIONS, Option, parse

Decorator = Callable[[Any], Any]
METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT"}


class OptionType(click.ParamType[Any]):
    """Click type of a flag with a declared option. Does not convert the text: `CheckedCommand` does."""

    def __init__(self, option: Option) -> None:
        self.option, self.name = option, METAVARS[option.kind].lower()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in self.option.choices if choice.startswith(incomplete)]


class CheckedCommand(click.Command):
    """A click command that converts all generated flags at once, so that one ValidationFailed names every invalid one. With
    --json its errors are JSON on stdout."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with json_errors("--json" in args):
            try:
                return super().parse_args(ctx, args)
            except click.NoSuchOption as error:
                name = error.option_name.lstrip("-")
                if name in JOB_OPTIONS:  # this command takes it in another way
                    raise
                similar = f"Did you mean {', '.join(error.possibilities)}? " if error.possibilities else ""
                advice = f"{similar}See {ctx.command_path} --help."
                raise ValidationFailed(f"There is no option {name!r}.", advice, field=name) from None

    def invoke(self, ctx: click.Context) -> Any:
        with json_errors(bool(ctx.params.get("as_json"))):
            ctx.params |= self.checked(ctx.params)
            return super().invoke(ctx)

    def checked(self, params: dict[str, Any]) -> dict[str, Any]:
        """The values of generated flags, by parameter. Raises ValidationFailed."""
        declared = {p.name: p.type.option for p in self.params if isinstance(p.type, OptionType)}
        given = {name: params[name] for name in declared if params[name] is not None}
        values = parse(
            {option_name(name): value for name, value in given.items()},
            {option_name(name): option for name, option in declared.items()},
        )
        return {name: values[option_name(name)] for name in given}


@contextlib.contextmanager
def json_errors(is_json: bool) -> Iterator[None]:
    """Context that prints a StepError as JSON on stdout and exits with its code. is_json: False lets the group print text."""
    try:
        yield
    except StepError as error:
        if not is_json:
            raise
        summary = {"status": "failed", "exit_code": error.exit_code, "error": error.record()}
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        raise SystemExit(error.exit_code) from None


def job_option(name: str, text: str = "", **more: Any) -> Decorator:
    """Click option for an option of the job. text: help, default: the workflow parameter's description; more: of click.option."""
    return _flag(name, JOB_OPTIONS[name], text or JOB_OPTIONS[name].text, **more)


def all_job_options(without: tuple[str, ...], **texts: str) -> Decorator:
    """Click options for all options of the job but `without`, in order. texts: help of some, instead of their descriptions."""

    def decorate(command: Any) -> Any:
        for name in reversed([name for name in JOB_OPTIONS if name not in without]):
            command = job_option(name, texts.get(name.replace("-", "_"), ""))(command)
        return command

    return decorate


def pop_job_options(values: dict[str, Any]) -> dict[str, Any]:
    """Removes the options of the job from a command's values and returns them, by option name."""
    names = {name.replace("-", "_"): name for name in JOB_OPTIONS}
    return {names[key]: values.pop(key) for key in list(values) if key in names}


def step_option(step: type[Step], field: str, text: str, name: str = "") -> Decorator:
    """Click option for a field of a step's dataclass. name: of the flag, default: the field's."""
    declared = next(item for item in dataclasses.fields(step) if item.name == field)
    return _flag(name or option_name(field), declared.metadata["option"], text)


def _flag(name: str, option: Option, text: str, **more: Any) -> Decorator:
    more = {"default": option.default, "show_default": True, **more}
    if option.choices:
        more["metavar"] = f"[{'|'.join(option.choices)}]"
    else:
        text = f"{text} {option.allowed().capitalize()}."
    return click.option(f"--{name}", type=OptionType(option), help=text, **more)
