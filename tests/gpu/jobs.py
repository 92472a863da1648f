"""A whole job of each sample on the GPU against the same on the CPU: scores and decisions."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu.kit import Kit

OBJECTS, SIDE, REHEARSED_SIDE = ("mug", "donut", "duck", "bowl", "house"), 512, 32
TOLERANCE = 0.05  # dB between the PSNR on the CPU and on the GPU
DECISIONS = ("passed", "engine")
COARSE = ("--grid", "64", "--faces", "2000")  # of a rehearsal
AT_A_TIME = 4  # samples that are made
FIRST_GUESS = 40.0  # seconds of a job, before one has run
MODEL = "reconviagen"
HEADER = (
    *("object", "PSNR on the CPU, dB", "PSNR, dB", "difference, dB", "device"),
    *("whole run on the CPU, s", "whole run, s", "verdict"),
)


@dataclass(frozen=True)
class Job:
    """A job that has run. folder: its --out; summary: outputs.json, empty where it did not get as far; seconds: of the
    command."""

    folder: Path
    summary: dict[str, Any]
    seconds: float

    @property
    def model(self) -> dict[str, Any]:
        found: dict[str, Any] = self.summary.get("models", {}).get(MODEL, {})
        return found

    @property
    def scene(self) -> Path:
        return self.folder / ".sixview" / "scene"


class Jobs:
    """The jobs of one run of the kit: each runs once, whoever asks."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.done: dict[tuple[str, int, bool], Job] = {}
        self.slowest: dict[bool, float] = {}  # seconds a pixel of the side, on the GPU and on the CPU

    def get(self, name: str, side: int, on_gpu: bool, reserve: float = 0.0) -> Job | None:
        """A sample's job on the GPU or on the CPU; None where it no longer fits into the time, less a reserve. In a rehearsal
        both are one, on the CPU."""
        on_gpu = on_gpu and not self.kit.rehearsal
        key = (name, side, on_gpu)
        what = f"the job of the {name} at {side} px on the {'GPU' if on_gpu else 'CPU'}"
        if key not in self.done and self.kit.fits(what, self._guess(side, on_gpu) + reserve):
            if not self.done and not self.kit.rehearsal:
                self._run(name, REHEARSED_SIDE, False)  # compiles the CPU's kernels, which are kept
            job = self._run(name, side, on_gpu)
            if not job.summary and self.kit.is_over:
                self.kit.skipped.append(f"{what}, which took too long")
                return None
            self.done[key] = job
            self.slowest[on_gpu] = max(self.slowest.get(on_gpu, 0.0), job.seconds / side)
        return self.done.get(key)

    def prepare(self, names: Sequence[str], sides: Sequence[int]) -> None:
        """Makes samples, several at a time, where time is left for their jobs."""
        if not self.kit.rehearsal and self.kit.left() < FIRST_GUESS:
            return
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(lambda one: self._sample(*one), [(name, side) for name in names for side in sides]))

    def _guess(self, side: int, on_gpu: bool) -> float:
        """Seconds, in proportion to the sides of jobs before."""
        return self.slowest[on_gpu] * side if on_gpu in self.slowest else 1.0 if self.kit.rehearsal else FIRST_GUESS

    def _run(self, name: str, side: int, on_gpu: bool) -> Job:
        source = self._sample(name, side)
        out = self.kit.folder / "jobs" / f"{name}_{side}_{'gpu' if on_gpu else 'cpu'}"
        flags = ["--device", self.kit.device if on_gpu else "cpu", *(COARSE if self.kit.rehearsal else ())]
        began = time.monotonic()
        said = self._sixview("run", source, "--out", out, "--restart", "--json", *flags)
        try:
            summary = json.loads(said)
        except ValueError:
            summary = {}
        return Job(out, summary, time.monotonic() - began)

    def _sample(self, name: str, side: int) -> Path:
        folder = self.kit.folder / "samples" / f"{name}_{side}"
        if not (folder / "sample.json").is_file():
            self._sixview("sample", folder, "--object", name, "--size", side)
        return folder

    def _sixview(self, *words: object) -> str:
        """What the command prints; nothing where it took too long."""
        command = [sys.executable, "-m", "pipeline.cli.main", *map(str, words)]
        try:
            return subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=False, timeout=self.kit.left()
            ).stdout
        except subprocess.TimeoutExpired:
            return ""


@functools.cache
def of(kit: Kit) -> Jobs:
    return Jobs(kit)


def side(kit: Kit) -> int:
    return REHEARSED_SIDE if kit.rehearsal else SIDE


def section(kit: Kit) -> None:
    rows, names = [], OBJECTS[:1] if kit.rehearsal else OBJECTS
    of(kit).prepare(names, [side(kit)])
    for name in names:
        on_cpu, on_gpu = (of(kit).get(name, side(kit), on_gpu) for on_gpu in (False, True))
        if on_cpu is None or on_gpu is None:
            continue
        verdict = judged(on_cpu, on_gpu, kit.rehearsal)
        if verdict != "right":
            kit.wrong.append(f"The job of the {name} at {side(kit)} px: {verdict}.")
        rows.append([name, *measured(on_cpu, on_gpu), verdict])
    kit.table("Whole jobs", HEADER, rows)


def measured(on_cpu: Job, on_gpu: Job) -> Sequence[object]:
    before, after = on_cpu.model.get("psnr"), on_gpu.model.get("psnr")
    difference = None if before is None or after is None else after - before
    return before, after, difference, on_gpu.model.get("device"), on_cpu.seconds, on_gpu.seconds


def judged(on_cpu: Job, on_gpu: Job, rehearsal: bool = False) -> str:
    """ "right", or in which way the GPU's result is not the CPU's."""
    for where, job in (("CPU", on_cpu), ("GPU", on_gpu)):
        if job.summary.get("status") != "completed":
            return f"on the {where} it ended with {(job.summary.get('error') or {}).get('code', 'nothing')}"
    if not rehearsal and str(on_gpu.model.get("device", "cpu")).startswith("cpu"):
        return "it did not compute on the GPU"
    for name in DECISIONS:
        if on_cpu.model.get(name) != on_gpu.model.get(name):
            return f"{name} is {on_gpu.model.get(name)} and not {on_cpu.model.get(name)}"
    if on_cpu.summary["warnings"] != on_gpu.summary["warnings"]:
        return f"its warnings are {on_gpu.summary['warnings']} and not {on_cpu.summary['warnings']}"
    difference = on_gpu.model["psnr"] - on_cpu.model["psnr"]
    return "right" if abs(difference) <= TOLERANCE else f"its PSNR is {difference:+.3f} dB off"
