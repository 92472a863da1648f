"""Real captures, whose cameras nobody knows: is the rig found, and what are the meshes worth?

`python -m tests.benchmarks captures` looks at the first COUNT seeds; whole runs are made of every WHOLE-th."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.sample.objects import OBJECTS

FOLDER = Path("out/benchmarks/captures")
COUNT, WHOLE = int(os.environ.get("SIXVIEW_CAPTURES", "300")), 30


@dataclass(frozen=True)
class Verdict:
    """right: the rig is the true one, or one that leads to the same mesh and the report says so; refused: RIG_AMBIGUOUS."""

    seed: int
    right: bool
    refused: bool
    off: float  # degrees of field of view
    coded: bool  # whether the depth's encoding was found, too
    seconds: float


def main() -> None:
    verdicts = [judged(seed) for seed in range(COUNT)]
    print_verdicts(verdicts)
    for seed in range(0, COUNT, WHOLE):
        summary = whole_run(seed)
        model = summary["models"]["reconviagen"]
        print(
            f"capture {seed} ({name_of(seed)}): PSNR {model['psnr']:.2f} dB, SSIM {model['ssim']:.3f}, {summary['seconds']:.0f} s"
        )


def print_verdicts(verdicts: list[Verdict]) -> None:
    found = [v for v in verdicts if not v.refused]
    wrong = [v.seed for v in found if not v.right]
    far = [v.seed for v in found if abs(v.off) > 3]
    right, refused = sum(v.right for v in found), len(verdicts) - len(found)
    print(f"{len(verdicts)} captures: {right} right, {refused} RIG_AMBIGUOUS, silently wrong: {wrong}")
    print(
        f"field of view off by {np.mean([abs(v.off) for v in found]):.2f} degrees in the mean, by more than 3 in: {far}"
    )
    print(f"depth encoding as it was in {sum(v.coded for v in found)} of {len(found)}")
    seconds = sorted(v.seconds for v in verdicts)
    print(f"the whole step validate: median {seconds[len(seconds) // 2]:.1f} s, slowest {seconds[-1]:.1f} s")


def name_of(seed: int) -> str:
    return list(OBJECTS)[seed % len(OBJECTS)]


def capture(seed: int, size: int = 512) -> Path:
    """The set of a seed; made once."""
    folder = FOLDER / f"{seed}_{size}"
    if not (folder / "sample.json").exists():
        words = ["--object", name_of(seed), "--capture", "real", "--seed", seed, "--size", size]
        subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "sample", str(folder), *map(str, words)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return folder


def judged(seed: int, size: int = 512) -> Verdict:
    """What validate makes of a capture."""
    folder = capture(seed, size)
    out = FOLDER / f"{seed}_{size}.scene"
    began = time.perf_counter()
    words = ["--input", folder, "--out", out, "--outputs", out.with_suffix(".outputs")]
    code = subprocess.run(
        [sys.executable, "-m", "steps.validate", *map(str, words)], stderr=subprocess.DEVNULL, check=False
    ).returncode
    seconds = time.perf_counter() - began
    if code == 11:
        return Verdict(seed, False, True, 0.0, False, seconds)
    assert code == 0, (out.with_suffix(".outputs") / "message").read_text()
    truth = json.loads((folder / "ground_truth" / "capture.json").read_text())
    return compared(seed, json.loads((out / "rig.json").read_text()), truth, seconds)


def compared(seed: int, found: dict[str, Any], truth: dict[str, Any], seconds: float) -> Verdict:
    """rig.json beside what was drawn."""
    right = reading_of(truth) in [found["reading"], *found["alike"]]
    coded = (found["encoding"], found["distance"]) == (truth["encoding"], truth["distance"])
    return Verdict(seed, right, False, found["field_of_view"] - truth["field_of_view"], coded, seconds)


def reading_of(truth: dict[str, Any]) -> dict[str, Any]:
    """The true reading as rig.json has it, where the view called front is the front: a back that is called front turns everything
    by 180 degrees about y, so that whose left is meant changes, and top and bottom are turned half round."""
    behind = truth["front_is"] == "object"
    left = "object" if (truth["left_is"] == "object") != behind else "viewer"
    top, bottom = (90 * ((turns + 2 * behind) % 4) for turns in truth["rolls"])
    return {"left_is": left, "top_turned": top, "bottom_turned": bottom}


def whole_run(seed: int) -> dict[str, Any]:
    from tests.benchmarks.common import job  # here: it brings Open3D, which the tests of the rig do without

    return job(capture(seed), FOLDER / f"{seed}.run")
