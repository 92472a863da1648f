"""nvdiffrec on the GPU: iterations per second, memory per level against the prediction, the losses of the CPU, and a real
out-of-memory with the level after it. What computes runs in processes of its own: nvdiffrec_process.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from steps.nvdiffrec import memory_levels
from steps.nvdiffrec.memory_levels import MemoryLevel
from steps.runtime.errors import ModelVramOom
from steps.runtime.files import read_json
from tests.gpu import jobs
from tests.gpu.jobs import Job
from tests.gpu.kit import Kit

OBJECT, SIDES, BATCHES = "mug", (512, 1024), (6, 3, 1)
LOSSES_SIDE = 256
TOLERANCE = 2.0  # percent between the losses of CPU and GPU: sums come in another order
ATTEMPTS, LEAST = 6, 20.0  # at the step out of memory, and seconds that are left for another
NEEDED = {"speed": 30.0, "losses": 30.0, "out of memory": 60.0}  # seconds that a part is given at least
SPEED = ("px", "batch", "iterations a second", "most memory, MiB", "predicted, MiB")
LOSSES = ("largest difference, %", "verdict")
OUT_OF_MEMORY = ("batch", "px", "exit code", "ended", "stage")


def section(kit: Kit) -> None:
    sides, iterations = ((jobs.REHEARSED_SIDE,), 2) if kit.rehearsal else (SIDES, 20)
    speeds = [row for side in sides for row in speed(kit, side, iterations)]
    kit.table("nvdiffrec", SPEED, speeds)
    losses(kit, sides[0], iterations)
    out_of_memory(kit, sides[0], {row[1]: row[3] for row in speeds if row[0] == sides[0]})


def speed(kit: Kit, side: int, iterations: int) -> list[list[Any]]:
    """A row for each batch; measured without the first iteration, which compiles."""
    found = process(kit, "speed", side, side, iterations, kit.device, *(BATCHES[:1] if kit.rehearsal else BATCHES))
    rows = []
    for one in found:
        predicted = memory_levels.estimate(MemoryLevel(one["batch"], side, 64), one["texture_size"]) >> 20
        rows.append([side, one["batch"], one["iterations_per_second"], one["peak_mib"], predicted])
    return rows


def losses(kit: Kit, side: int, iterations: int) -> None:
    found = process(kit, "losses", side, min(side, LOSSES_SIDE), iterations, "cpu", kit.device)
    if len(found) == 2:
        worst = 100 * largest_difference(*found)
        verdict = "right" if worst <= TOLERANCE else "WRONG"
        kit.table("Losses of nvdiffrec on the GPU against the CPU's", LOSSES, [[worst, verdict]])
        if verdict != "right":
            kit.wrong.append(f"The losses of nvdiffrec differ by {worst:.2f} %.")


def largest_difference(expected: list[float], found: list[float]) -> float:
    """Between the losses of two runs, relative; infinite where one is no number."""
    differences = [abs(a - b) / a for a, b in zip(expected, found, strict=True)]
    return max(difference if difference == difference else float("inf") for difference in differences)


def process(kit: Kit, what: str, job_side: int, *words: object) -> list[Any]:
    """What a part prints, a JSON value a line; nothing where it does not fit into the time. A part that fails is wrong."""
    if (job := job_for(kit, f"nvdiffrec's {what} at {job_side} px", job_side, NEEDED[what])) is None:
        return []
    command = [sys.executable, "-m", "tests.gpu.nvdiffrec_process", what, str(job.scene), *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=kit.left())
    except subprocess.TimeoutExpired:
        kit.skipped.append(f"nvdiffrec's {what} at {job_side} px, which took too long")
        return []
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        kit.wrong.append(f"nvdiffrec's {what} at {job_side} px ended: {said[-1]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def job_for(kit: Kit, what: str, side: int, seconds: float) -> Job | None:
    """The job whose scene a part takes; None where the part no longer fits into the time."""
    return jobs.of(kit).get(OBJECT, side, True) if kit.fits(what, 1.0 if kit.rehearsal else seconds) else None


def out_of_memory(kit: Kit, side: int, peaks: dict[int, int | None]) -> None:
    """The step's attempts under a limit on its share of the device that the first level breaks and a later one keeps. In a
    rehearsal a double says that the memory is full."""
    if (job := job_for(kit, "nvdiffrec's real out-of-memory", side, NEEDED["out of memory"])) is None:
        return
    limit = limit_mib(side, peaks)
    folder = kit.folder / "out_of_memory"
    rows = []
    for _ in range(ATTEMPTS):
        rows.append(attempt(kit, job.scene, folder, limit))
        if rows[-1][3] != ModelVramOom.code or kit.left() < LEAST:
            break
    where = "a double says that the memory is full" if kit.rehearsal else f"the device's memory ends at {limit} MiB"
    kit.table(f"nvdiffrec where {where}", OUT_OF_MEMORY, rows)
    if rows[-1][2] is None or (rows[-1][3] == ModelVramOom.code and kit.left() < LEAST):
        kit.skipped.append("the end of nvdiffrec's real out-of-memory, which took too long")
    elif (said := judged(rows)) != "right":
        kit.wrong.append(f"nvdiffrec out of memory: {said}.")


def limit_mib(side: int, peaks: dict[int, int | None]) -> int:
    """Between what the first two levels need: as measured, or else as predicted."""
    first, second = (
        peaks.get(batch) or memory_levels.estimate(MemoryLevel(batch, side, 64), 1024) >> 20 for batch in (6, 3)
    )
    return (first + second) // 2


def attempt(kit: Kit, scene: Path, folder: Path, limit: int) -> list[Any]:
    """A row: the level, the exit code, the failure's code and its stage."""
    paths = {"out": folder / "out", "outputs": folder / "outputs", "attempts": folder / "attempts.json"}
    flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    small = ["--iterations", "4", "--batch", "2", "--grid", "16", "--fusion-grid", "64"]
    flags += ["--device", kit.device, *(small if kit.rehearsal else ["--iterations", "20"])]
    memory = "double" if kit.rehearsal else str(limit)
    command = [sys.executable, "-m", "tests.gpu.nvdiffrec_process", "step", str(scene), memory, "--scene", str(scene)]
    (folder / "outputs" / "failure.json").unlink(missing_ok=True)
    try:
        code = subprocess.run([*command, *flags], capture_output=True, check=False, timeout=kit.left()).returncode
    except subprocess.TimeoutExpired:
        code = None
    failure = read_json(folder / "outputs" / "failure.json", {})
    last = (read_json(paths["attempts"], []) or [{}])[-1]
    ended = failure.get("code", "completed" if code == 0 else "nothing")
    stage = failure.get("details", {}).get("pipeline_stage", "")
    return [last.get("batch"), last.get("resolution"), code, ended, stage]


def judged(rows: list[list[Any]]) -> str:
    """ "right" where the first attempt ran out of memory and the last completed, one level below or more."""
    if rows[0][3] != ModelVramOom.code:
        return f"the first attempt ended with {rows[0][3]}"
    return "right" if rows[-1][3] == "completed" else f"the last attempt ended with {rows[-1][3]}"
