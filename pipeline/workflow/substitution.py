"""How values that others choose get into an Argo template: never as they are.

Argo substitutes tags in a template's JSON several times, and what one pass has put there the next one reads: a value that holds
`{{=...}}` would be evaluated, and in the last pass the template lies as text inside the pod's JSON, where a quote is no longer
escaped. So each value goes through an expression whose result can hold no brace and no quote: one of a few constants, a number,
or JSON with its braces escaped. `==` and `matches` alone: a parameter may be anything, even a map where its name has a dot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steps.runtime.options import JOB_OPTIONS, MOST_CHARACTERS

INVALID = "invalid"  # what a step gets for a value that has no place in a command; no option takes it
MOST_OPTIONS = 65536  # characters of all options together


def parameter(name: str) -> str:
    """A workflow's parameter, within an expression."""
    return f"workflow.parameters['{name}']"


def tag(expression: str) -> str:
    return f"{{{{={expression}}}}}"


def chosen(name: str, values: Mapping[str, str], otherwise: str = INVALID) -> str:
    """A constant that follows from a workflow's parameter. values: parameter -> constant."""
    cases = "".join(f"{parameter(name)} == '{value}' ? '{result}' : " for value, result in values.items())
    return f"{cases}'{otherwise}'"


def option(name: str, otherwise: str = INVALID) -> str:
    """A job's option for a command line."""
    choices = JOB_OPTIONS[name].choices
    if choices:
        return tag(chosen(name, {choice: choice for choice in choices}, otherwise))
    return tag(numeric(parameter(name), otherwise))


def numeric(value: str, otherwise: str = INVALID) -> str:
    """A text of digits. value: an expression."""
    return f"{value} matches '^[0-9.eE+-]{{1,{MOST_CHARACTERS}}}$' ? {value} : '{otherwise}'"


def whole(name: str) -> str:
    """A template's own number."""
    return tag(f"int(inputs.parameters.{name})")


def words(name: str) -> str:
    """A template's own text, within an expression: codes, numbers, commas."""
    value = f"inputs.parameters.{name}"
    return f"({value} matches '^[A-Za-z0-9_, ]*$' ? {value} : '{INVALID}')"


def any_of(name: str, values: Iterable[str]) -> str:
    """Whether a workflow's parameter is one of these."""
    return " || ".join(f"{parameter(name)} == '{value}'" for value in values)


def all_options() -> str:
    """Every parameter of the workflow as JSON, whatever is in it; empty where they are too long."""
    given = "toJson(sprig.omit(workflow.parameters, 'json'))"  # which Argo adds: all of them once more
    inner = f"{given}[1:-1]"
    for brace, code in (("{", "007b"), ("}", "007d")):
        inner = f"replace({inner}, '{brace}', '\\\\u{code}')"
    return tag(f"len({given}) > {MOST_OPTIONS} ? '' : '{{' + {inner} + '}}'")


def address_part(number: int) -> str:
    """Bucket (1) and key (2) of the workflow's input. A key with braces is none of ours to look for. Not every store tells //
    from /, so to all of them it is the latter."""
    value = parameter("input")
    single = f"sprig.regexReplaceAll('/+', {value}, '/')"
    part = f"sprig.regexReplaceAll('^s3:/([^/]+)/(.*?)/?$', {single}, '${{{number}}}')"
    return tag(f"{value} matches '[{{}}]' ? '{INVALID}' : {part}")
