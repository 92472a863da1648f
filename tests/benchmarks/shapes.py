"""The smallest form of each benchmark: how it is run, and what is not as it should be in the record that it leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import records

ON_A_CLUSTER = ("cluster", "gateway", "faults")
WITHOUT = tuple(name for name in records.BENCHMARKS if name not in ON_A_CLUSTER)
# the numbers that a column may have, by the unit behind the last comma of its head
UNITS = {
    "dB": (10.0, 60.0),
    "%": (0.0, 5.0),
    "degrees": (0.0, 20.0),
    "s": (0.0, 600.0),
    "ms": (0.0, 60_000.0),
    "MiB": (1.0, 8_000.0),
    "KiB": (0.0, 100_000.0),
    "MB/s": (0.01, 10_000.0),
}
# and of columns without a unit, or with other limits than their unit's
COLUMNS = {
    "SSIM": (0.5, 1.0),
    "F at 0.5 %": (0.5, 1.0),
    "IoU at least": (0.8, 1.0),
    "worst ratio": (0.3, 5.0),
    "difference, dB": (-15.0, 15.0),
    "of the limit, %": (0.0, 100.0),
    "busy of held, %": (0.0, 100.0),
    "gain, dB": (-15.0, 30.0),
    "gain between, dB": (-15.0, 30.0),
    "times sixview's": (0.001, 1_000.0),
    "times sixview's again": (0.001, 1_000.0),
    "iterations a second": (0.01, 10_000.0),
    "the gateway's memory grew by, MiB": (-100.0, 1_000.0),
    "measured": (0.0, 60_000.0),
    "wall, s": (1.0, 600.0),
}
COUNTS = (0, 1_000_000)  # whole numbers of anything else
LONGEST = 900  # seconds: beside other tests, on a machine of two cores


@dataclass(frozen=True)
class Shape:
    """A table: its heads, its rows (0: some), and the only values that some of its columns may have. refusals: whether a row that
    did not end `completed` may lack its numbers."""

    heads: str
    rows: int
    exact: dict[str, object] = field(default_factory=dict)
    refusals: bool = False

    @property
    def header(self) -> list[str]:
        return self.heads.split(" | ")


QUALITY = (
    "object | PSNR, dB | SSIM | object PSNR, dB | between, dB | between on the object, dB | Chamfer-L1, % | F at 0.5 % | "
    "closed"
)
CURVES = "curve | captures | right | refused | field of view off, degrees | Chamfer-L1, % | with linear depth, % | worst ratio"
CASES = "case | PSNR, dB | object, dB | clean object, dB | Chamfer-L1, % | clean Chamfer-L1, % | closed | warnings | ended | is"
POSES = (
    "meshes | right | turned at most, degrees | displaced at most, % | IoU at least | median, s | slowest, s",
    "meshes | refused | taken",
    "object | laid back and baked, dB | fusion's own, dB | difference, dB",
)
OPEN3D = "object | method | surface, s | depth to textured mesh, s | PSNR, dB | between, dB | Chamfer-L1, % | F at 0.5 % | closed"
OPTIMISED = (
    "object | PSNR before, dB | between before, dB | Chamfer-L1 before, % | PSNR, dB | between, dB | Chamfer-L1, % | "
    "gain, dB | gain between, dB | time, s"
)
BESIDE = (
    "cores | px | sixview, ms | direct_projective with 4 spp, ms | times sixview's | prb with 1 spp, ms | "
    "times sixview's again"
)
SPEED = (
    "input | whole run, s | model, s | quality, s | preview, s | beyond the arithmetic, s | most memory in a step, MiB",
    "very first run, s | second run, s | the first spent compiling, s",
    "step | seconds, s | of that start, s | of that compiling, s | most memory, MiB | stages",
    "part of fusion | computed on | 64 px, 16-bit, s",
)
GPU = (
    "what | version",
    "scene | side | results | kernels | largest difference | of the limit, % | elements apart | verdict",
    "object | PSNR on the CPU, dB | PSNR, dB | difference, dB | device | whole run on the CPU, s | whole run, s | verdict",
    "px | step | on the CPU, s | on the GPU, s | of that start, s | of that compiling, s | GPU held, s | GPU busy, s | "
    "busy of held, %",
    "px | step | stage | on the CPU, s | on the GPU, s",
    "px | batch | iterations a second | most memory, MiB | predicted, MiB",
    "largest difference, % | verdict",
    "batch | px | exit code | ended | stage",
)
ON_A_GPU = ["GPU held, s", "GPU busy, s", "busy of held, %", "most memory, MiB"]
RIGHT: dict[str, object] = {"verdict": "right"}
CLUSTER = (
    "steps | wall, s | their pods, s | a step, s | between two pods, s",
    "step | pod, s | step, s | start, s | most memory, MiB | from S3, KiB | to S3, KiB",
)
GATEWAY = (
    "accepted | refused | lost | together, s | speed, MB/s | the gateway's memory grew by, MiB",
    "questions | median, ms | p95, ms | slowest, ms",
)
SHAPES = {
    "quality": [Shape(QUALITY, 2, {"closed": "yes"}), Shape(QUALITY, 2, {"closed": "yes"})],
    "captures": [
        Shape(CURVES, 1, {"captures": 1, "right": 1}),
        Shape("capture | ended | PSNR, dB | SSIM | object, dB | Chamfer-L1, % | between, dB | whole run, s", 2),
    ],
    "inputs": [Shape(CASES, 2, {"is": "right"}, refusals=True)],
    "registration": [
        Shape(POSES[0], 1, {"meshes": 1, "right": 1}),
        Shape(POSES[1], 1, {"meshes": 1, "refused": 1, "taken": "none"}),
        Shape(POSES[2], 2),
    ],
    "foreign": [Shape("object | our rasterizer, dB | Mitsuba 3, dB | difference, dB", 3)],
    "open3d": [Shape(OPEN3D, 4 if importlib.util.find_spec("open3d") else 2)],
    "nvdiffrec": [Shape(OPTIMISED, 2), Shape(OPTIMISED, 2)],
    "rasterizer": [
        Shape(BESIDE, 1),
        Shape("faces | time per iteration, ms", 2),
        Shape("px | time per iteration, ms", 2),
    ],
    "gpu": [
        Shape(GPU[0], 10),
        Shape(GPU[1], 13, RIGHT),
        Shape(GPU[2], 1, RIGHT),
        Shape(GPU[3], 5),
        Shape(GPU[4], 7),
        Shape(GPU[5], 1),
        Shape(GPU[6], 1, RIGHT),
        Shape(GPU[7], 2),
    ],
    "speed": [Shape(SPEED[0], 1), Shape(SPEED[1], 1), Shape(SPEED[2], 5), Shape(SPEED[3], 11)],
    "damage": [
        Shape("damaged sets | kinds | not as promised | slowest, s | most memory, MiB", 1, {"not as promised": 0}),
        Shape("code | sets", 2),
    ],
    "kill": [
        Shape(
            "signal | runs | the same digest, run again | with a half-written file",
            2,
            {"the same digest, run again": 1, "with a half-written file": 0},
        )
    ],
    "cluster": [Shape(CLUSTER[0], 1, {"steps": 2}), Shape(CLUSTER[1], 5)],
    "gateway": [Shape(GATEWAY[0], 1, {"accepted": 12, "refused": 0, "lost": 0}), Shape(GATEWAY[1], 1)],
    "faults": [Shape("what | measured | unit | may be", 13)],
}
# the columns whose numbers a record may lack, where one of its sentences says why
LACKING = {
    "rasterizer": ("No LLVM library", BESIDE.split(" | ")[3:]),
    "gpu": ("Rehearsal, without a GPU", ON_A_GPU),
}
SUMMARIES = ("mean", "largest")  # rows that have no number in some columns


def environment() -> dict[str, str]:
    """Ours, without what changes a benchmark's size."""
    own = {name: value for name, value in os.environ.items() if name not in records.VARIABLES}
    return own | {"PYTHONPATH": str(records.ROOT)}


def run(name: str, folder: Path, seconds: float = LONGEST) -> dict[str, Any]:
    """The record of a smallest form that ran in a folder; those that run there one after the other share their samples."""
    command = [sys.executable, "-m", "tests.benchmarks", "--smallest", name]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / records.OTHERS / f"{name}.json").read_text())
    return found


def complaints(record: dict[str, Any]) -> Iterator[str]:
    """All that is not as it should be in the record of a smallest form."""
    name = record["benchmark"]
    if not record["smallest"] or record["source_digest"] != records.source_digest(name):
        yield "it is not the smallest form of today's code"
    if datetime.fromisoformat(record["date"]).utcoffset() is None or not 0 < record["seconds"] < LONGEST:
        yield f"it took {record['seconds']} s from {record['date']} on"
    if len(record["tables"]) != len(SHAPES[name]):
        yield f"it has {len(record['tables'])} tables instead of {len(SHAPES[name])}"
    why, columns = LACKING.get(name, ("", []))
    lacking = columns if any(why in note for note in record["notes"]) else []
    for table, shape in zip(record["tables"], SHAPES[name], strict=False):
        yield from of_table(table, shape, lacking)


def of_table(table: dict[str, Any], shape: Shape, lacking: list[str]) -> Iterator[str]:
    """The same of a table. lacking: the columns whose numbers may be missing."""
    if table["header"] != shape.header:
        yield f"its heads are {' | '.join(table['header'])}"
        return
    if not table["rows"] or shape.rows not in (0, len(table["rows"])):
        yield f"{len(table['rows'])} rows instead of {shape.rows}"
    for row in table["rows"]:
        if len(row) != len(shape.header):
            yield f"a row of {len(row)} cells"
            continue
        refused = shape.refusals and row[shape.header.index("ended")] != "completed"
        for head, cell in zip(shape.header, row, strict=True):
            if cell == "" and row[0] in SUMMARIES:
                continue
            if head in shape.exact and cell != shape.exact[head]:
                yield f"{head}: {cell} instead of {shape.exact[head]}"
            elif cell is None:
                if not refused and head not in lacking:
                    yield f"{head}: nothing"
            elif is_number(cell):
                if not limits(head)[0] <= cell <= limits(head)[1]:
                    yield f"{head}: {cell}, which is not within {limits(head)}"
            elif head in COLUMNS or unit(head) in UNITS:
                yield f"{head}: {cell}, which is no number"


def is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def unit(head: str) -> str:
    return head.rpartition(", ")[2] if ", " in head else ""


def limits(head: str) -> tuple[float, float]:
    """The numbers that a column may have."""
    return COLUMNS.get(head) or UNITS.get(unit(head)) or COUNTS
