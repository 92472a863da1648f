"""How good the meshes are: all sample objects at 512 px, 16- and 8-bit depth."""

from __future__ import annotations

import json

import numpy as np

from tests.benchmarks.common import NAMES, between, inputs, job, job_folder, load, made, sample, surface_error
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
    names, size = run.size(NAMES, NAMES[:1]), run.size(512, 128)
    for bits in (16, 8):
        rows = [measured(name, size, bits) for name in names]
        numbers = np.array([row[1:8] for row in rows], float).mean(axis=0).tolist()
        run.table(f"{bits}-bit depth", HEADER, [*rows, ["mean", *numbers, ""]])


def measured(name: str, size: int, bits: int) -> list[object]:
    source = sample(name, size, bits)
    out = job_folder(source)
    job(source, out)
    made(out)
    report = json.loads((out / "reconviagen" / "quality.json").read_text())
    seen, mesh = inputs(out / ".sixview" / "scene"), load(out)
    full, inner = between(mesh, source, seen)
    chamfer, f_score = surface_error(mesh.vertices, mesh.faces, source, seen)
    scores = [report["psnr"], report["ssim"], report["object"]["psnr"], full, inner, chamfer, f_score]
    return [name, *scores, "yes" if report["mesh"]["watertight"] else "no"]
