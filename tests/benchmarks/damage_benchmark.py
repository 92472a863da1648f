"""200 damaged inputs, seeded: each must get the right code and a sentence, in under 5 s and 1 GB, without a traceback."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from tests import damage
from tests.benchmarks.common import sample

COUNT, SEED = 200, 2026


def main() -> None:
    source = sample("duck", 128)
    verdicts = []
    for number in range(COUNT):
        with tempfile.TemporaryDirectory() as work:
            verdicts.append(damage.tried(source, Path(work), number, SEED))
    codes = Counter(str(v.record.get("code")) for v in verdicts)
    wrong = [f"{v.kind}: {c}" for v in verdicts for c in v.complaints()]
    print(f"{COUNT} inputs of {len(damage.DAMAGES)} kinds, seed {SEED}: {dict(codes)}")
    print(f"slowest {max(v.seconds for v in verdicts):.1f} s, most memory {max(v.peak_mib for v in verdicts)} MiB")
    print(f"{len(wrong)} complaints", *wrong, sep="\n  ")
