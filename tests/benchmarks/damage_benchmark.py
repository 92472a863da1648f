"""200 damaged inputs, seeded: each must get the right code and a sentence, in under 5 s and 1 GB, without a traceback."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from tests import damage
from tests.benchmarks.common import sample
from tests.benchmarks.records import Run

SEED = 2026


def main(run: Run) -> None:
    source = sample("duck", 128)
    verdicts = []
    for number in range(run.size(200, 6)):
        with tempfile.TemporaryDirectory() as work:
            verdicts.append(damage.tried(source, Path(work), number, SEED))
    wrong = [f"{v.kind}: {c}" for v in verdicts for c in v.complaints()]
    slowest, largest = max(v.seconds for v in verdicts), max(v.peak_mib for v in verdicts)
    header = ("damaged sets", "kinds", "not as promised", "slowest, s", "most memory, MiB")
    run.table("", header, [[len(verdicts), len({v.kind for v in verdicts}), len(wrong), slowest, largest]])
    codes = Counter(str(v.record.get("code")) for v in verdicts)
    run.table("", ("code", "sets"), [[code, count] for code, count in codes.most_common()])
    for complaint in wrong:
        run.note(complaint)
