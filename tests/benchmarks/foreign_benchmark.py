"""The same result through a second set of eyes: Mitsuba 3 renders the exported GLB, and its PSNR stands beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steps.geometry.image_ops import psnr
from tests.benchmarks.common import COARSE, NAMES, job_of, over_white, sample
from tests.benchmarks.records import Run
from tests.foreign import mitsuba_pictures

HEADER = ("object", "our rasterizer, dB", "Mitsuba 3, dB", "difference, dB")


def main(run: Run) -> None:
    names, size = run.size(NAMES, NAMES[:1]), run.size(512, 64)
    flags = run.size((), COARSE)
    rows = [measured(name, sample(name, size), flags) for name in names]
    means = np.array([row[1:] for row in rows], float).mean(axis=0).tolist()
    largest = max((float(row[3]) for row in rows), key=abs)
    run.table("", HEADER, [*rows, ["mean", *means], ["largest", "", "", largest]])


def measured(name: str, source: Path, flags: tuple[str, ...]) -> list[Any]:
    out = job_of(source, flags)
    ours = json.loads((out / "reconviagen" / "quality.json").read_text())["psnr"]
    theirs = foreign_psnr(out, source)
    return [name, ours, theirs, theirs - ours]


def foreign_psnr(out: Path, source: Path) -> float:
    """Mean full-frame PSNR of Mitsuba's pictures of the GLB at the input views."""
    pictures = mitsuba_pictures(out / "reconviagen" / "mesh.glb", source / "cameras.json")
    return float(np.mean([psnr(over_white(source / "multi_views" / f"{view}.png"), p) for view, p in pictures.items()]))
