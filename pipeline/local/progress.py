"""Progress output of `sixview run`: live lines on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from steps.runtime.errors import Record


class StepLine:
    """Progress of one running step. Without a terminal it prints a line per stage."""

    def __init__(self, console: Console | None, name: str, bar: Progress | None = None) -> None:
        self.console, self.name, self.bar = console, name, bar
        self.stage, self.began = "", time.monotonic()
        self.task = bar.add_task(name, total=None, stage="") if bar else None

    def update(self, stage: str, progress: str, seconds_left: str) -> None:
        done, total = parts(progress)
        if self.bar is not None and self.task is not None:
            description = f"{stage}, about {seconds_left} s left" if seconds_left not in ("", "0") else stage
            self.bar.update(self.task, stage=description, completed=done, total=total)
        elif self.console and stage and stage != self.stage:
            self.console.print(f"{self.name}: {stage}", highlight=False)
        self.stage = stage

    def finish(self, failure: Record | None, seconds: float) -> Record | None:
        """Prints the step's result; returns the failure record."""
        duration = seconds or time.monotonic() - self.began
        if self.console:
            mark = f"[red]✗[/red] {self.name} {failure['code']}" if failure else f"[green]✓[/green] {self.name}"
            self.console.print(f"{mark} [dim]{duration:.1f} s[/dim]", highlight=False)
        return failure


def parts(progress: str) -> tuple[int, int | None]:
    """(done, total) of "3/8"; (0, None) for other text."""
    done, _, total = progress.partition("/")
    return (int(done), int(total)) if done.isdecimal() and total.isdecimal() else (0, None)


class Display:
    """Progress output on stderr; stdout has the result only."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = None if quiet else Console(stderr=True)

    def reused(self, name: str) -> None:
        """Prints that a step was skipped: its cached results are valid."""
        if self.console:
            self.console.print(f"[green]✓[/green] {name} [dim]kept from an earlier run[/dim]", highlight=False)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[StepLine]:
        """Context of a running step's line."""
        if self.console is None or not self.console.is_terminal:
            yield StepLine(self.console, name)
            return
        columns: list[Any] = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("[dim]{task.fields[stage]}[/dim]"),
            BarColumn(30),
            TimeElapsedColumn(),
        ]
        with Progress(*columns, console=self.console, transient=True) as bar:
            yield StepLine(self.console, name, bar)
