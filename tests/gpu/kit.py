"""One run of the kit: its time, its tables, its verdicts, and the record that it leaves.

The record is that of the benchmark `gpu` (tests/benchmarks/records.py): laid into docs/figures it becomes the table of
docs/figures.md."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from docs.tools import figures
from steps.runtime import devices
from tests.benchmarks.records import Run

PACKAGES = ("torch", "numba", "numba-cuda", "cupy-cuda13x", "numpy", "scipy", "nvidia-ml-py")
REHEARSED = "Rehearsal, without a GPU"  # begins every table and the notes of one
BUDGET = 8 * 60.0  # seconds
OWN_FOLDERS = ("samples", "jobs", "out_of_memory")
SECTIONS = ("kernels", "jobs", "times", "nvdiffrec")  # in this order, by their worth


@dataclass(eq=False)
class Kit:
    """rehearsal: nothing is measured, all runs on the CPU and as small as may be; folder: for all that it writes; ends: when its
    time is over, as time.monotonic has it; command: of the record; double: see comparison.run; wrong, skipped: sentences on
    what was not right, and on what no longer fitted into the time."""

    run: Run
    rehearsal: bool
    folder: Path
    ends: float
    command: str = "python -m tests.gpu"
    double: str = ""
    wrong: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        """The option --device of a step that is to compute on the GPU."""
        return "cpu" if self.rehearsal else "cuda"

    def left(self) -> float:
        """Seconds until its time is over, at least a little: for timeouts."""
        return max(1.0, self.ends - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether its time is over: what ended now may have been ended by that."""
        return time.monotonic() >= self.ends

    def fits(self, what: str, seconds: float) -> bool:
        """Whether something that takes about so long still fits; if not, the record will say that it was not run."""
        if self.left() >= seconds:
            return True
        self.skipped.append(what)
        return False

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Prints and keeps a table, unless it is empty."""
        if rows:
            self.run.table(f"{REHEARSED}: {title}" if self.rehearsal else title, header, rows)

    def save(self) -> None:
        """Writes gpu.json, the record, and gpu.md, the same as a page."""
        record = {**self.run.record(), "command": self.command}
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        (self.folder / "gpu.json").write_text(text + "\n")
        (self.folder / "gpu.md").write_text(f"# GPU\n\n{figures.of_record(record)}")


def measure(kit: Kit, sections: Sequence[str]) -> int:
    """Runs the sections. Returns 0, or 1 where something was not right. It ends after a kernel that is wrong: all else computes
    with it. The record is written after each section, so that little is lost where the machine is taken away."""
    kit.folder.mkdir(parents=True, exist_ok=True)
    for name in OWN_FOLDERS:
        shutil.rmtree(kit.folder / name, ignore_errors=True)  # of an earlier run
    kit.table("Versions", ("what", "version"), met())
    for number, name in enumerate(sections, 1):
        run_section(kit, name)
        kit.save()
        if name == "kernels" and kit.wrong:
            kit.skipped += sections[number:]
            break
    close(kit)
    kit.save()
    return int(bool(kit.wrong))


def run_section(kit: Kit, name: str) -> None:
    """A section; one that fails is wrong, and the others still run."""
    try:
        importlib.import_module(f"tests.gpu.{name}").section(kit)
    except Exception as error:
        traceback.print_exc()
        kit.wrong.append(f"The section {name} failed: {type(error).__name__}: {error}")


def close(kit: Kit) -> None:
    """The record's last sentences."""
    if kit.rehearsal:
        kit.run.note(f"{REHEARSED}: nothing was measured, and no figure here says anything of a GPU.")
    for sentence in kit.wrong:
        kit.run.note(f"WRONG: {sentence}")
    if kit.skipped:
        kit.run.note(f"Not run, for want of time or after what was wrong: {'; '.join(dict.fromkeys(kit.skipped))}.")
    if not kit.wrong:
        kit.run.note("All that ran is right.")


def as_benchmark(run: Run) -> None:
    """`python -m tests.benchmarks gpu`: the whole kit; its smallest form is the rehearsal."""
    if not run.smallest and (problem := no_gpu()):
        run.note(f"{problem} So nothing was measured.")
        return
    measure(Kit(run, run.smallest, Path("out/benchmarks/gpu").absolute(), time.monotonic() + BUDGET), SECTIONS)


def no_gpu() -> str:
    """Why nothing can be measured, in a sentence; empty where it can."""
    import torch

    if torch.cuda.is_available():
        return ""
    return "The kit needs an NVIDIA GPU that torch finds; `python -m tests.gpu rehearse` tries it without one."


def met() -> list[list[object]]:
    """Versions of all that computes, and the device."""
    found = devices.probe()
    names = ", ".join(gpu["name"] for gpu in found["gpus"]) or "none"
    versions = {name: version(name) for name in PACKAGES}
    rows = {"device": names, "driver": found["driver"] or "none", "python": platform.python_version(), **versions}
    return [[what, which] for what, which in rows.items()]


def version(distribution: str) -> str:
    """As installed; of CuPy whatever build of it there is."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
