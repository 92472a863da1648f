"""A benchmark's run as it is kept: its tables and sentences, the code that it measured, the machine and the date.

A run of full size is kept in docs/figures, from which docs/tools/figures.py writes the tables of docs/figures.md; any other one
lies in out/benchmarks/results."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steps.runtime import devices

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / "docs" / "figures"
OTHERS = Path("out/benchmarks/results")
OWN = "tests/benchmarks"
STEPS, PRODUCT = ("steps",), ("steps", "pipeline")
CLUSTER = tuple(f"tests/cluster/{name}.py" for name in ("client", "images", "node", "places", "web"))
KERNELS = ("comparison", "launches", "on_device", "scenes", "step_scenes")
# name -> folders and files of the code that the benchmark measures, and of what it measures with beside the benchmarks' own
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "quality": PRODUCT,
    "captures": PRODUCT,
    "inputs": (*PRODUCT, "tests/cases", "tests/damage.py"),
    "registration": STEPS,
    "foreign": (*PRODUCT, "tests/foreign.py"),
    "open3d": PRODUCT,
    "nvdiffrec": PRODUCT,
    "rasterizer": (*STEPS, "tests/raster/shapes.py"),
    "gpu": (*PRODUCT, "tests/gpu", *(f"tests/compute/{name}.py" for name in KERNELS), "tests/raster/shapes.py"),
    "speed": PRODUCT,
    "damage": (*PRODUCT, "tests/damage.py"),
    "kill": (*PRODUCT, "tests/kill.py"),
    "cluster": (*PRODUCT, *CLUSTER),
    "gateway": (*PRODUCT, *CLUSTER),
    "faults": (*PRODUCT, *CLUSTER),
}
# of the environment: they change how much is measured
VARIABLES = (
    "SIXVIEW_CAPTURES",
    "SIXVIEW_MESHES",
    "SIXVIEW_WHOLE_RUNS",
    "SIXVIEW_CASES",
    "SIXVIEW_REGISTRATIONS",
    "WORKFLOWS",
    "DROPS",
)
T = TypeVar("T")


@dataclass
class Run:
    """A run of one benchmark, and what it has found so far. chosen: the variables of the environment that changed its size;
    start: what the code and the machine were when it began."""

    name: str
    smallest: bool = False
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    start: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        digest = source_digest(self.name)
        self.start = {"commit": commit(), "date": date, "machine": machine(), "source_digest": digest}

    def size(self, full: T, smallest: T) -> T:
        """What the form that runs takes of the two."""
        return smallest if self.smallest else full

    def variable(self, name: str, otherwise: str | int) -> str:
        """One of the VARIABLES of the environment, where it is given: it changes the run's size."""
        assert name in VARIABLES, name
        value = os.environ.get(name, "")
        if value:
            self.chosen[name] = value
        return value or str(otherwise)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Prints a table in Markdown and keeps it. A column's unit stands behind the last comma of its head."""
        made = {"title": title, "header": list(header), "rows": [[plain(cell) for cell in row] for row in rows]}
        self.tables.append(made)
        print(f"\n{title}\n" if title else "", markdown(made), sep="", flush=True)

    def note(self, text: str) -> None:
        """Prints a sentence that has figures of its own and keeps it."""
        self.notes.append(text)
        print(text, flush=True)

    def record(self) -> dict[str, Any]:
        """What is kept of the run, as JSON has it."""
        variables = [f"{name}={value}" for name, value in self.chosen.items()]
        flags = ["--smallest"] if self.smallest else []
        return {
            "benchmark": self.name,
            "command": " ".join([*variables, "python -m tests.benchmarks", *flags, self.name]),
            **self.start,
            "seconds": round(time.monotonic() - self.began, 1),
            "smallest": self.smallest,
            "tables": self.tables,
            "notes": self.notes,
        }

    def save(self) -> Path:
        """The file that the record was written to. A run that measured nothing, for want of a GPU, replaces no figures."""
        folder = KEPT if self.tables and not self.smallest and not self.chosen else OTHERS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.record(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return path


def plain(value: object) -> object:
    """A cell as JSON has it: numbers with six digits, what is not finite as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def shown(cell: object) -> str:
    """A cell as a table shows it."""
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1e4 else f"{cell:.0f}"
    return "not measured" if cell is None else str(cell)


def markdown(table: dict[str, Any]) -> str:
    """A record's table in Markdown, without its title."""
    cells = [table["header"], *[[shown(cell) for cell in row] for row in table["rows"]]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table["header"]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def digest_of(*paths: Path) -> str:
    """SHA-256 over files, with their places in the project."""
    sha256 = hashlib.sha256()
    for path in sorted(paths):
        data = path.read_bytes()
        sha256.update(f"{path.relative_to(ROOT).as_posix()} {len(data)}\n".encode() + data)
    return sha256.hexdigest()


def sources(*places: str) -> list[Path]:
    """Files of the project, and its own Python files below folders of it."""
    paths = [ROOT / place for place in places]
    return [
        p for path in paths for p in ([path] if path.suffix else path.rglob("*.py")) if "node_modules" not in p.parts
    ]


def source_digest(name: str) -> str:
    """SHA-256 over the code that a benchmark measures, and over all that it measures with."""
    return digest_of(*sources(*BENCHMARKS[name], OWN))


def commit() -> str | None:
    """The commit that is checked out, with `-dirty` where anything but docs/figures differs from it; None without git."""
    try:
        head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".", ":!docs/figures")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changes else head


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, how many processes want them already, Python's version, and the first GPU's name."""
    gpus = devices.probe()["gpus"]
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "gpu": gpus[0]["name"] if gpus else None,
    }


def processor() -> str:
    """The processor's name as Linux has it, which `platform` does not say."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
