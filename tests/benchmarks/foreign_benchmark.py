"""The same result through a second set of eyes: Mitsuba 3 renders the exported GLB, and its PSNR stands beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steps.geometry.image_ops import psnr
from tests.benchmarks.common import NAMES, WORK, job, over_white, sample, table
from tests.foreign import mitsuba_pictures


def main() -> None:
    rows = [measured(name) for name in NAMES]
    worst = max(abs(float(row[3])) for row in rows)
    table(["object", "our rasterizer, dB", "Mitsuba 3, dB", "difference, dB"], [*rows, ["largest", "", "", worst]])


def measured(name: str) -> list[Any]:
    source, out = sample(name), WORK / f"quality_{name}_16"
    if not (out / "result.zip").exists():
        job(source, out)
    ours = json.loads((out / "reconviagen" / "quality.json").read_text())["psnr"]
    theirs = foreign_psnr(out, source)
    return [name, ours, theirs, theirs - ours]


def foreign_psnr(out: Path, source: Path) -> float:
    """Mean full-frame PSNR of Mitsuba's pictures of the GLB at the input views."""
    pictures = mitsuba_pictures(out / "reconviagen" / "mesh.glb", source / "cameras.json")
    return float(np.mean([psnr(over_white(source / "multi_views" / f"{view}.png"), p) for view, p in pictures.items()]))
