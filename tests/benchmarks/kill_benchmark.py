"""A run killed at 30 random moments, and run again: the same content digest as the undisturbed run, nothing half-written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests import kill
from tests.benchmarks.common import WORK, job, sample

COUNT, SEED = 30, 2026


def main() -> None:
    source = sample("duck", 128)
    undisturbed = job(source, WORK / "kill_reference")
    same = 0
    for number in range(COUNT):
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "out"
            after, number_of_signal = kill.moment(number, SEED, undisturbed["seconds"])
            where = kill.killed(source, out, after, number_of_signal)
            torn = kill.half_written(out)
            digest, kept = kill.finished(source, out)
        good = digest == undisturbed["content_digest"] and not torn
        same += good
        print(
            f"{number_of_signal.name} after {after:4.1f} s in {where}: kept {len(kept)} steps, {'same' if good else 'DIFFERENT'}",
            flush=True,
        )
    print(f"{same} of {COUNT} ended with the digest of the undisturbed run")
