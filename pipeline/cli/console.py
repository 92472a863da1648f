"""Failures on a terminal."""

from __future__ import annotations

import click

from pipeline.clients.reading import mapping, sequence, text
from steps.io.input_set import shown
from steps.runtime.errors import Record


def printable(text: str) -> str:
    """Text of others, line by line, without what a terminal would obey."""
    return "\n".join(map(shown, text.splitlines()))


def explained(record: Record) -> None:
    """A failure record for a person: what, where, what to do."""
    details = record["details"]
    where = f" (step {details['step']}, stage {details['pipeline_stage']})" if details.get("pipeline_stage") else ""
    click.secho(f"{record['code']}{where}", fg="red", bold=True, err=True)
    click.echo(printable(record["message"]), err=True)
    faults = [mapping(fault) for fault in sequence(details.get("faults"))]
    for fault in faults if len(faults) > 1 else []:
        where = text(fault.get("file")) or text(fault.get("field"))
        click.echo(printable(f"  - {where} {text(fault.get('message'))}"), err=True)
    click.echo(printable(f"What to do: {record['suggestion']}"), err=True)
    if details.get("log"):
        click.echo(f"log:    {details['log']}", err=True)
