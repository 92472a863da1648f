"""Failures on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from pipeline.clients import s3_errors
from pipeline.clients.reading import mapping, sequence, text
from steps.io.input_set import shown
from steps.runtime.errors import Record, StepError, StorageUnavailable, UnknownError


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


class Remote(click.Group):
    """Failures of these commands are told in plain words, and as JSON with --json."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click tells these itself
        except BrokenPipeError:
            raise SystemExit(closed_pipe()) from None
        except StepError as error:
            raise SystemExit(refused(error)) from None
        except ImportError as error:
            raise SystemExit(
                f"This needs {error.name}; install the extra: pip install 'sixview[cluster,gateway]'"
            ) from None
        except Exception as error:
            raise SystemExit(store_trouble(error)) from None


def closed_pipe() -> int:
    """Whoever read our output has had enough, as `head` has: the exit code of a program that SIGPIPE ended. Nothing may be
    written on the way out either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def refused(error: StepError) -> int:
    explained(error.record())
    return error.exit_code


def store_trouble(error: Exception) -> int:
    """boto3's errors in our words; anything else is a fault of this program."""
    if type(error).__module__.startswith(("botocore", "boto3", "minio", "urllib3")):
        what, advice = s3_errors.explain(error)
        return refused(StorageUnavailable(f"{what[0].upper()}{what[1:]}.".replace("..", "."), advice))
    if os.environ.get("SIXVIEW_TRACEBACK"):
        sys.excepthook(type(error), error, error.__traceback__)
    return refused(
        UnknownError(f"{type(error).__name__}: {error}", "Set SIXVIEW_TRACEBACK=1 and report what is printed.")
    )
