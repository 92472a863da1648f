"""Error output of the commands."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from pipeline.clients import s3_errors
from pipeline.clients.reading import mapping, sequence, text
from steps.io.input_set import sanitize
from steps.runtime.errors import Record, StepError, StorageUnavailable, UnknownError


def printable(text: str) -> str:
    """Text with control characters escaped, except line breaks: no terminal escape sequences of others."""
    return "\n".join(map(sanitize, text.splitlines()))


def print_failure(record: Record) -> None:
    """Prints a failure record on stderr: code, step, message, faults, suggestion."""
    details = record["details"]
    place = f" (step {details['step']}, stage {details['pipeline_stage']})" if details.get("pipeline_stage") else ""
    click.secho(f"{record['code']}{place}", fg="red", bold=True, err=True)
    click.echo(printable(record["message"]), err=True)
    faults = [mapping(fault) for fault in sequence(details.get("faults"))]
    for fault in faults if len(faults) > 1 else []:
        place = text(fault.get("file")) or text(fault.get("field"))
        click.echo(printable(f"  - {place} {text(fault.get('message'))}"), err=True)
    click.echo(printable(f"What to do: {record['suggestion']}"), err=True)
    if details.get("log"):
        click.echo(f"log:    {details['log']}", err=True)


class ErrorReportingGroup(click.Group):
    """A click group whose commands end on an exception with its message, suggestion and exit code instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click reports these itself
        except BrokenPipeError:
            raise SystemExit(on_closed_pipe()) from None
        except StepError as error:
            raise SystemExit(report_error(error)) from None
        except ImportError as error:
            raise SystemExit(
                f"This needs {error.name}; install the extra: pip install 'sixview[cluster,gateway]'"
            ) from None
        except Exception as error:
            raise SystemExit(report_unexpected(error)) from None


def on_closed_pipe() -> int:
    """Exit code for a closed stdout, as after `| head`: that of SIGPIPE. Redirects stdout, so that the final flush cannot
    fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def report_error(error: StepError) -> int:
    print_failure(error.record())
    return error.exit_code


def report_unexpected(error: Exception) -> int:
    """Prints an unexpected exception: StorageUnavailable for S3 clients' errors, else UnknownError. Returns the exit code."""
    if type(error).__module__.startswith(("botocore", "boto3", "minio", "urllib3")):
        what, advice = s3_errors.explain(error)
        return report_error(StorageUnavailable(f"{what[0].upper()}{what[1:]}.".replace("..", "."), advice))
    if os.environ.get("SIXVIEW_TRACEBACK"):
        sys.excepthook(type(error), error, error.__traceback__)
    return report_error(
        UnknownError(f"{type(error).__name__}: {error}", "Set SIXVIEW_TRACEBACK=1 and report what is printed.")
    )
