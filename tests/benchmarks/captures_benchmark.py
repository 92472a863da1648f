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
import trimesh
from scipy.spatial import cKDTree

from steps.sample.objects import OBJECTS

Array = np.ndarray[Any, Any]
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


def described(seed: int, summary: dict[str, Any]) -> str:
    """The scores of a whole run."""
    if summary["error"]:
        return str(summary["error"]["code"])
    model = summary["models"]["reconviagen"]
    quality = json.loads((FOLDER / f"{seed}.run" / "reconviagen" / "quality.json").read_text())
    distance = shape_error(FOLDER / f"{seed}.run" / "reconviagen" / "mesh.ply", capture(seed) / "ground_truth")
    scores = f"PSNR {model['psnr']:.2f} dB, SSIM {model['ssim']:.3f}, object {quality['object']['psnr']:.2f} dB"
    return f"{scores}, Chamfer-L1 {100 * distance:.2f} % of the diagonal"


def shape_error(mesh: Path, truth: Path) -> float:
    """Chamfer-L1 as a share of the diagonal, after the similarity transform that fits best (Umeyama 1991, in ICP): the rig knows
    no scale, and front may be the back."""
    found, true = (trimesh.load(path, process=False) for path in (mesh, truth / "mesh.ply"))
    a, b = (np.asarray(trimesh.sample.sample_surface(m, 30_000, seed=0)[0]) for m in (found, true))
    if json.loads((truth / "capture.json").read_text())["front_is"] == "object":
        a = a * [-1, 1, -1]
    a = (a - a.mean(axis=0)) * np.linalg.norm(np.ptp(b, axis=0)) / np.linalg.norm(np.ptp(a, axis=0)) + b.mean(axis=0)
    tree = cKDTree(b)
    for _ in range(40):
        a = fitted(a, b[tree.query(a, workers=-1)[1]])
    both = tree.query(a, workers=-1)[0].mean() + cKDTree(a).query(b, workers=-1)[0].mean()
    return float(both / 2 / np.linalg.norm(np.ptp(b, axis=0)))


def fitted(a: Array, b: Array) -> Array:
    """Points a (n, 3) after the similarity transform that takes them closest to b (n, 3)."""
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    u, s, vt = np.linalg.svd(y.T @ x)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = float((s * np.diag(sign)).sum() / (x**2).sum())
    return np.asarray(scale * x @ (u @ sign @ vt).T + b.mean(axis=0))


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
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "run",
        capture(seed),
        "--out",
        FOLDER / f"{seed}.run",
        "--restart",
        "--json",
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary
