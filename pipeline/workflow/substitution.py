"""Expressions that insert users' parameters into Argo templates without template injection.

Argo substitutes tags in a template's JSON in several passes, and each pass evaluates the output of the one before: a value with
`{{=...}}` would be evaluated, and in the last pass, where the template is a string inside the pod's JSON, a quote would end that
string. So every value passes through an expression whose result contains neither braces nor quotes: a constant, a number, or JSON
with escaped braces. Only `==` and `matches` are used on values: a parameter may have any type, a map if its name has a dot.

Expressions are text rather than `hera.expr`, which has no `?.`, `??`, `int`, `max` or `replace` and never adds parentheses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steps.runtime.options import JOB_OPTIONS, MAX_OPTIONS, MOST_CHARACTERS

INVALID = "invalid"  # replaces values that are not allowed in a command; every option rejects it


def parameter(name: str) -> str:
    """A workflow parameter, inside an expression."""
    return f"workflow.parameters['{name}']"


def tag(expression: str) -> str:
    return f"{{{{={expression}}}}}"


def conditional(name: str, values: Mapping[str, str], default: str = INVALID) -> str:
    """Expression that maps a workflow parameter to a constant. values: parameter's value -> constant; default: otherwise."""
    branches = "".join(f"{parameter(name)} == '{value}' ? '{result}' : " for value, result in values.items())
    return f"{branches}'{default}'"


def option(name: str, default: str = INVALID) -> str:
    """Tag for a job's option on a command line."""
    choices = JOB_OPTIONS[name].choices
    if choices:
        return tag(conditional(name, {choice: choice for choice in choices}, default))
    return tag(numeric(parameter(name), default))


def numeric(value: str, default: str = INVALID) -> str:
    """Expression: the value if it consists of characters of a number, else the default. value: an expression."""
    return f"{value} matches '^[0-9.eE+-]{{1,{MOST_CHARACTERS}}}$' ? {value} : '{default}'"


def integer(name: str) -> str:
    """Tag for an integer input parameter of a template."""
    return tag(f"int(inputs.parameters.{name})")


def safe_text(name: str) -> str:
    """Expression for a text input parameter of a template: letters, digits, underscores, commas, spaces."""
    value = f"inputs.parameters.{name}"
    return f"({value} matches '^[A-Za-z0-9_, ]*$' ? {value} : '{INVALID}')"


def any_of(name: str, values: Iterable[str]) -> str:
    """Expression: whether a workflow parameter is one of these values."""
    return " || ".join(f"{parameter(name)} == '{value}'" for value in values)


def all_options() -> str:
    """Tag for all workflow parameters as JSON, with escaped braces; "" above MAX_OPTIONS characters."""
    parameters = "toJson(sprig.omit(workflow.parameters, 'json'))"  # Argo adds `json`, a copy of all
    body = f"{parameters}[1:-1]"
    for brace, code in (("{", "007b"), ("}", "007d")):
        body = f"replace({body}, '{brace}', '\\\\u{code}')"
    return tag(f"len({parameters}) > {MAX_OPTIONS} ? '' : '{{' + {body} + '}}'")


def url_part(number: int) -> str:
    """Tag for bucket (1) or key (2) of the parameter `input`. Values with braces are invalid. // becomes /, since stores differ
    in how they read it."""
    value = parameter("input")
    single = f"sprig.regexReplaceAll('/+', {value}, '/')"
    part = f"sprig.regexReplaceAll('^s3:/([^/]+)/(.*?)/?$', {single}, '${{{number}}}')"
    return tag(f"{value} matches '[{{}}]' ? '{INVALID}' : {part}")
