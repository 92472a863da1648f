"""Draws docs/images/result.png from finished jobs: `python -m docs.tools.result_picture JOB ...`, with the folders that
`sixview run` left."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 300


def row(job: Path) -> Image.Image:
    """Input, the mesh from a new angle, its triangles, and the difference to the input."""
    previews = job / "reconviagen" / "previews"
    compare = np.asarray(Image.open(previews / "compare_00.png"))
    side = compare.shape[1] // 3
    turntable = Image.open(previews / "turntable.webp")
    turntable.seek(5)
    wires = Image.open(previews / "wireframe_00.png")
    cells = [
        Image.fromarray(compare[:, :side]),
        turntable.convert("RGB"),
        wires,
        Image.fromarray(compare[:, 2 * side :]),
    ]
    strip = Image.new("RGB", (SIDE * len(cells), SIDE), "white")
    for i, cell in enumerate(cells):
        strip.paste(cell.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * SIDE, 0))
    return strip


def main(jobs: list[str]) -> None:
    rows = [row(Path(job)) for job in jobs]
    picture = Image.new("RGB", (rows[0].width, SIDE * len(rows)), "white")
    for i, strip in enumerate(rows):
        picture.paste(strip, (0, i * SIDE))
    picture.save(Path(__file__).parent.parent / "images" / "result.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
