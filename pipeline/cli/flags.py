"""Click options generated from the declarations in `steps.runtime.options` and `contract`, and the commands that check them.

Click only takes the texts apart. The values are read by `steps.runtime.options.parse`, as those of HTTP and of drops are, so that
every way in refuses a value with the same words, code and exit code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from steps.runtime.contract import Step, spelled
from steps.runtime.errors import StepError, ValidationFailed
from steps.runtime.options import JOB_OPTIONS, Option, parse

Decorator = Callable[[Any], Any]
METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT"}


class OptionType(click.ParamType[Any]):
    """Click type of a flag with a declared option. Leaves the text as it is: `CheckedCommand` reads it."""

    def __init__(self, option: Option) -> None:
        self.option, self.name = option, METAVARS[option.kind].lower()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in self.option.choices if choice.startswith(incomplete)]


class CheckedCommand(click.Command):
    """A command that reads its generated flags together: a ValidationFailed names each that is wrong. With --json an error of the
    command is JSON on stdout."""

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
            {spelled(name): value for name, value in given.items()},
            {spelled(name): option for name, option in declared.items()},
        )
        return {name: values[spelled(name)] for name in given}


@contextlib.contextmanager
def json_errors(is_json: bool) -> Iterator[None]:
    """Ends the command with its error as JSON on stdout. is_json: False leaves that to the group, which prints a text."""
    try:
        yield
    except StepError as error:
        if not is_json:
            raise
        summary = {"status": "failed", "exit_code": error.exit_code, "error": error.record()}
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        raise SystemExit(error.exit_code) from None


def of_job(name: str, text: str = "", **more: Any) -> Decorator:
    """Click option of a job's option. text: help, default: the workflow parameter's description; more: of click.option."""
    return _flag(name, JOB_OPTIONS[name], text or JOB_OPTIONS[name].text, **more)


def of_whole_job(without: tuple[str, ...], **texts: str) -> Decorator:
    """Click options of all options of a job, in order. texts: help of some of them, instead of their descriptions."""

    def decorate(command: Any) -> Any:
        for name in reversed([name for name in JOB_OPTIONS if name not in without]):
            command = of_job(name, texts.get(name.replace("-", "_"), ""))(command)
        return command

    return decorate


def job_options(values: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of the job, by name, out of a command's values."""
    names = {name.replace("-", "_"): name for name in JOB_OPTIONS}
    return {names[key]: values.pop(key) for key in list(values) if key in names}


def of_step(step: type[Step], field: str, text: str, name: str = "") -> Decorator:
    """Click option of a field of a step's dataclass. name: of the flag, default: the field's."""
    declared = next(item for item in dataclasses.fields(step) if item.name == field)
    return _flag(name or spelled(field), declared.metadata["option"], text)


def _flag(name: str, option: Option, text: str, **more: Any) -> Decorator:
    more = {"default": option.default, "show_default": True, **more}
    if option.choices:
        more["metavar"] = f"[{'|'.join(option.choices)}]"
    else:
        text = f"{text} {option.allowed().capitalize()}."
    return click.option(f"--{name}", type=OptionType(option), help=text, **more)
