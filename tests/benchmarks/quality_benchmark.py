"""How good the meshes are: all sample objects at 512 px, 16- and 8-bit depth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.benchmarks.common import (
    COARSE,
    FEW_POINTS,
    NAMES,
    POINTS,
    between,
    inputs,
    job,
    job_folder,
    load,
    made,
    sample,
    surface_error,
)
from tests.benchmarks.records import Run

HEADER = (
    "object",
    "PSNR, dB",
    "SSIM",
    "object PSNR, dB",
    "between, dB",
    "between on the object, dB",
    "Chamfer-L1, %",
    "F at 0.5 %",
    "closed",
)


def main(run: Run) -> None:
    names, size = run.size(NAMES, NAMES[:1]), run.size(512, 64)
    flags, points = run.size((), COARSE), run.size(POINTS, FEW_POINTS)
    for bits in (16, 8):
        rows = [measured(sample(name, size, bits), name, flags, points) for name in names]
        numbers = np.array([row[1:8] for row in rows], float).mean(axis=0).tolist()
        run.table(f"{bits}-bit depth", HEADER, [*rows, ["mean", *numbers, ""]])


def measured(source: Path, name: str, flags: tuple[str, ...], points: int) -> list[object]:
    out = job_folder(source)
    job(source, out, *flags)
    made(out)
    report = json.loads((out / "reconviagen" / "quality.json").read_text())
    seen, mesh = inputs(out / ".sixview" / "scene"), load(out)
    full, inner = between(mesh, source, seen)
    chamfer, f_score = surface_error(mesh.vertices, mesh.faces, source, seen, points)
    scores = [report["psnr"], report["ssim"], report["object"]["psnr"], full, inner, chamfer, f_score]
    return [name, *scores, "yes" if report["mesh"]["watertight"] else "no"]
