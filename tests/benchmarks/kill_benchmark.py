"""A run killed at 30 random moments, and run again: the same content digest as the undisturbed run, nothing half-written."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from tests import kill
from tests.benchmarks.common import WORK, job, sample
from tests.benchmarks.records import Run

SEED = 2026


@dataclass(frozen=True)
class Ended:
    """A run that a signal ended. torn: the files that were half-written; same: whether it had the right digest in the end."""

    signal: Signals
    torn: list[str]
    same: bool


def main(run: Run) -> None:
    source = sample("duck", 128)
    undisturbed = job(source, WORK / "kill_reference")
    every = [ended(source, undisturbed, number) for number in range(run.size(30, 2))]
    rows = []
    for signal in kill.SIGNALS:
        found = [one for one in every if one.signal is signal]
        rows.append([signal.name, len(found), sum(one.same for one in found), sum(bool(one.torn) for one in found)])
    run.table("", ("signal", "runs", "the same digest, run again", "with a half-written file"), rows)


def ended(source: Path, undisturbed: dict[str, Any], number: int) -> Ended:
    """The number-th run, killed and run again."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        after, signal = kill.moment(number, SEED, undisturbed["seconds"])
        where = kill.killed(source, out, after, signal)
        torn = kill.half_written(out)
        digest, kept = kill.finished(source, out)
    one = Ended(signal, torn, digest == undisturbed["content_digest"])
    said = "same" if one.same and not torn else "DIFFERENT"
    print(f"{signal.name} after {after:4.1f} s in {where}: kept {len(kept)} steps, {said}", flush=True)
    return one
