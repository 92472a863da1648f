"""How good the meshes are: all sample objects at 512 px, 16- and 8-bit depth."""

from __future__ import annotations

import json

import numpy as np

from tests.benchmarks.common import NAMES, WORK, between, inputs, job, load, sample, surface_error, table

HEADER = [
    "object",
    "PSNR",
    "SSIM",
    "object PSNR",
    "between",
    "between, object",
    "Chamfer %",
    "F 0.5 %",
    "closed",
    "seconds",
]


def main() -> None:
    for bits in (16, 8):
        rows = [measured(name, bits) for name in NAMES]
        numbers = np.array([[row[i] for i in (1, 2, 3, 4, 5, 6, 7, 9)] for row in rows], float).mean(axis=0).tolist()
        print(f"\n{bits}-bit depth")
        table(HEADER, [*rows, ["mean", *numbers[:7], "", numbers[7]]])


def measured(name: str, bits: int) -> list[object]:
    source, out = sample(name, bits=bits), WORK / f"quality_{name}_{bits}"
    summary = job(source, out)
    report = json.loads((out / "reconviagen" / "quality.json").read_text())
    seen, mesh = inputs(out / ".sixview" / "scene"), load(out)
    full, inner = between(mesh, source, seen)
    chamfer, f_score = surface_error(mesh.vertices, mesh.faces, source, seen)
    scores = [report["psnr"], report["ssim"], report["object"]["psnr"], full, inner, chamfer, f_score]
    return [name, *scores, "yes" if report["mesh"]["watertight"] else "no", summary["seconds"]]
