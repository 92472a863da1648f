"""Writes docs/reference/ from the code, and the tables of docs/figures.md from their records: `python -m docs.tools.reference`.
tests/test_docs.py compares them with what is committed.

Each page follows from one declaration: the commands of click, the OpenAPI description of the HTTP service, the chart's values
with their comments and schema, the steps' dataclasses, and the tree of errors.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from docs.tools import figures
from pipeline.cli.main import main as command_line
from pipeline.gateway import app, errors
from pipeline.gateway.dependencies import Options
from steps.runtime import contract
from steps.runtime.errors import OOM_TYPES, STAGES, StepError, by_code
from steps.runtime.options import JOB_OPTIONS, KINDS, Option

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "reference"
CHART = ROOT / "charts" / "sixview"


def pages() -> dict[str, str]:
    """File name in docs/reference -> its text."""
    found = {
        "cli.md": cli(),
        "http.md": http(),
        "chart.md": chart(),
        "steps.md": steps(),
        "errors.md": error_codes(),
    }
    return {name: f"<!-- Written by docs/tools/reference.py from the code. -->\n{text}" for name, text in found.items()}


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table; empty where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *lines, ""]) if lines else ""


def cell(text: object) -> str:
    """Text on one line that ends no cell and begins no HTML."""
    words = " ".join(str(text).split()).replace("|", r"\|")
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def code(text: object) -> str:
    """Text as code; nothing where it is empty."""
    words = " ".join(str(text).split()).replace("|", r"\|")
    return f"`{words}`" if words else ""


# -- commands -----------------------------------------------------------------------------------------------------------


def cli() -> str:
    """Every command of `sixview`, with its arguments and options."""
    parts = [
        "# Commands\n",
        "Every command of `sixview`, as `--help` shows it. `run`, `rig`, `sample`, `weights` and `completion` need no cluster.",
        "`render` and what talks to a cluster need the extra `sixview[cluster]`; `serve` needs `sixview[gateway]`, too.\n",
    ]
    for path, command in walked("sixview", command_line):
        parts += described_command(path, command)
    return "\n".join(parts)


def walked(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """The commands below a group, by name."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in sorted(command.commands):
        yield from walked(f"{path} {name}", command.commands[name])


def described_command(path: str, command: click.Command) -> list[str]:
    """Heading, sentence, usage and options of one command."""
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = (
        (
            code(", ".join(p.opts)),
            code("" if getattr(p, "is_flag", False) else kind_of(p, context)),
            cell(p.help or ""),
            default_of(p, context),
        )
        for p in command.params
        if isinstance(p, click.Option)
    )
    return [
        f"## {path}\n",
        f"{cell(command.help or '')}\n",
        f"```\n{usage}\n```\n",
        table(("option", "value", "meaning", "default"), rows),
    ]


def kind_of(parameter: click.Option, context: click.Context) -> str:
    """What stands behind the option on the command line."""
    if parameter.metavar:
        return parameter.metavar.strip("[]")
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    if isinstance(parameter.type, click.IntRange):
        return f"INTEGER, {parameter.type._describe_range()}"
    return parameter.type.name.upper()


def default_of(parameter: click.Option, context: click.Context) -> str:
    """The default, the variable of the environment that changes it, or that the option is required."""
    if parameter.required:
        return "required"
    value = parameter.get_default(context, call=False)
    shown = isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""
    variable = f"from `{parameter.envvar}`" if parameter.envvar else ""
    return ", ".join(filter(None, (code(value) if shown else "", variable)))


# -- HTTP ---------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Every route of the HTTP service, from its own OpenAPI description."""
    service = app.create(Options(), typing.cast(Any, None)).openapi()
    parts = [
        "# HTTP reference\n",
        "From the OpenAPI description that the service itself gives at `/openapi.json`. Every path is under `/api`, too.",
        "For examples see [HTTP](../http.md).\n",
    ]
    for path, operations in service["paths"].items():
        for method, operation in operations.items():
            parts += described_route(method.upper(), path, operation)
    parts.append("## Schemas\n")
    for name, schema in sorted(service["components"]["schemas"].items()):
        parts += [f"### {name}\n", f"{cell(schema.get('description', ''))}\n" if "description" in schema else ""]
        parts.append(fields_of(schema))
    return "\n".join(part for part in parts if part)


def described_route(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    """Heading, sentence, parameters, body and answers of one route."""
    parameters = (
        (
            code(p["name"]),
            p["in"],
            schema_text(p["schema"]),
            cell(p.get("description", "")) + (" Required." if p.get("required") else ""),
        )
        for p in operation.get("parameters", [])
    )
    bodies = operation.get("requestBody", {}).get("content", {})
    answers = ((status, cell(a["description"])) for status, a in sorted(operation["responses"].items()))
    found = [
        f"## {method} {path}\n",
        f"{operation['summary']}. {cell(operation.get('description', ''))}".strip() + "\n",
        table(("parameter", "in", "type", "meaning"), parameters),
    ]
    for kind, body in bodies.items():
        found += [f"Body, `{kind}`: {schema_text(body['schema'])}.\n", fields_of(body["schema"])]
    return [*found, table(("status", "answer"), answers)]


def fields_of(schema: dict[str, Any]) -> str:
    """The fields of an object; empty where the schema lists none."""
    needed = schema.get("required", [])
    rows = (
        (
            code(name),
            schema_text(field),
            cell(field.get("description", "")),
            "required" if name in needed else code(json.dumps(field["default"])) if "default" in field else "",
        )
        for name, field in schema.get("properties", {}).items()
    )
    return table(("field", "type", "meaning", "default"), rows)


def schema_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(schema_text(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(code(json.dumps(one).strip('"')) for one in schema["enum"])
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        count = f"{schema['minItems']} × " if schema.get("minItems", 0) > 1 else ""
        return f"list of {count}{schema_text(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {schema_text(schema['additionalProperties'])}"
    words = {"binary": "file"}.get(schema.get("format", ""), {"string": "text", "null": "null"}.get(kind, kind))
    return words + bounds(schema)


def bounds(schema: dict[str, Any]) -> str:
    """The bounds of a schema, as the end of a phrase."""
    names = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
        "minLength": "length at least",
        "maxLength": "length at most",
        "pattern": "matching",
    }
    told = [f"{word} {code(schema[name])}" for name, word in names.items() if name in schema]
    return f", {', '.join(told)}" if told else ""


# -- chart --------------------------------------------------------------------------------------------------------------


def chart() -> str:
    """Every value of the Helm chart: its default, its comment in values.yaml, its type in values.schema.json."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    rows = values_of(yaml.compose(text), text.splitlines(), schema, schema, "")
    return "\n".join(
        [
            "# Chart values\n",
            "Every value of `charts/sixview`, from `values.yaml` and `values.schema.json`. Helm refuses a name or a type that is",
            "not listed. Complete examples are in `charts/sixview/ci/`; [On a cluster](../cluster.md) says where to begin.\n",
            table(("value", "default", "type", "meaning"), rows),
        ]
    )


def values_of(
    node: Any, lines: list[str], schema: dict[str, Any], whole: dict[str, Any], prefix: str
) -> Iterator[tuple[str, ...]]:
    """A row for each value, and one in bold for each section that has a comment."""
    for key, value in node.value:
        name, known = f"{prefix}{key.value}", resolved(schema, key.value, whole)
        told = cell(comment(lines, key.start_mark.line))
        is_section = isinstance(value, yaml.MappingNode) and not value.flow_style
        if not is_section:
            yield code(name), code(json.dumps(yaml.SafeLoader("").construct_document(value))), schema_text(known), told
            continue
        if told:
            yield f"**`{name}`**", "", "section", told
        yield from values_of(value, lines, known, whole, f"{name}.")


def resolved(schema: dict[str, Any], key: str, whole: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key, references followed."""
    more = schema.get("additionalProperties")
    found = schema.get("properties", {}).get(key, more if isinstance(more, dict) else {})
    if "$ref" in found:
        found = whole["definitions"][found["$ref"].rpartition("/")[2]]
    return typing.cast(dict[str, Any], found)


def comment(lines: list[str], line: int) -> str:
    """The comment right above a line, without the `--` that helm-docs wants."""
    words: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].lstrip().removeprefix("#").strip())
        if words[0].startswith("--"):
            words[0] = words[0].removeprefix("--").strip()
            break
    return " ".join(words)


# -- steps --------------------------------------------------------------------------------------------------------------


def steps() -> str:
    """The options of a job, then every step's flags, stages and outputs."""
    parts = [
        "# Steps and options\n",
        "A step is `python -m steps.<name>`: it reads and writes files.",
        "[Architecture](../architecture.md) says how steps make a job.\n",
        "## Options of a job\n",
        "Declared once and the same in `sixview run`, `sixview submit -p`, `argo submit -p`, HTTP (`options`) and drops.",
        "`input` is the set itself, and no option.\n",
        table(
            ("option", "default", "allowed", "meaning"),
            ((code(n), code(o.default), cell(o.allowed()), cell(o.text)) for n, o in JOB_OPTIONS.items()),
        ),
        "## Flags that every step has\n",
        flags_of(contract.Step, set()),
    ]
    shared = {field.name for field in dataclasses.fields(contract.Step)}
    for name, step in contract.STEPS.items():
        parts += [
            f"## {name}\n",
            f"{cell(step.__doc__)} First stage: `{contract.FIRST_STAGE[name]}`. The folder `--out` always holds "
            f"`{contract.RESULT_FILE[name]}`.\n",
            flags_of(step, shared),
        ]
    parts += [
        "## Values that a step reports\n",
        "One small file each in `--outputs`; in Argo they are the node's output parameters. After a failure `failure.json` lies",
        "beside them, and always `stages.json` and `log.txt`.\n",
        table(("value", "where there is nothing to say"), ((code(n), code(v)) for n, v in contract.OUTPUTS.items())),
        "## Stages\n",
        "`stage` and a failure's `pipeline_stage` are one of " + ", ".join(map(code, STAGES)) + ".\n",
    ]
    return "\n".join(parts)


def flags_of(step: type[contract.Step], without: set[str]) -> str:
    """The table of a step's flags."""
    hints = typing.get_type_hints(step)
    rows = (
        (code(contract.flag(f.name)), *allowed_of(f, hints[f.name]), cell(f.metadata["help"]))
        for f in dataclasses.fields(step)
        if f.name not in without
    )
    return table(("flag", "default", "allowed", "meaning"), rows)


def allowed_of(field: dataclasses.Field[Any], hint: Any) -> tuple[str, str]:
    """A flag's default and what it takes."""
    known: Option | None = field.metadata["option"]
    if known is None:
        return "required", "a path"
    if hint is bool:
        return "off", "no value"
    return code("" if field.default is None else field.default), cell(
        known.allowed() if known.kind in KINDS else "a path"
    )


# -- errors -------------------------------------------------------------------------------------------------------------


def error_codes() -> str:
    """Every code, of steps and jobs and of the HTTP service."""
    own = {name: kind for name, kind in by_code().items() if kind.__module__ == "steps.runtime.errors"}
    alone = [errors.Unauthorized, errors.NotFound, errors.RequestTooLarge, errors.RateLimited]
    parts = [
        "# Error codes\n",
        'A failure is one record, `{"code", "message", "suggestion", "details"}`. [Failures](../failures.md) says of each code',
        "what happened and what to do.\n",
        "## Of steps and jobs\n",
        table(("code", "exit code", "HTTP status", "oom_type", "suggestion"), map(error_row, own.values())),
        "The HTTP status is that of an answer which is itself this error; a job that ended so is told with status 200, the",
        "record in `error`. Exit code 40: no step can report this, only whoever watches it from outside.\n",
        "## Of the HTTP service alone\n",
        table(
            ("code", "HTTP status", "suggestion"),
            ((code(k.code), str(errors.status_of(k(""))), cell(k.advice)) for k in alone),
        ),
    ]
    return "\n".join(parts)


def error_row(kind: type[StepError]) -> tuple[str, ...]:
    link = f"[`{kind.code}`](../failures.md#{kind.code.lower()})"
    status = errors.status_of(kind(""))
    return link, str(kind.exit_code), str(status), OOM_TYPES.get(kind.code, "none"), cell(kind.advice)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
    figures.main()


if __name__ == "__main__":
    main()
