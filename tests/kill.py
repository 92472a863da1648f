"""Kills a run at a random moment and runs it again. Shared by the tests (a few) and the benchmark (more)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def command(source: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli.main", "run", str(source), "--out", str(out), "--json"]


def killed(source: Path, out: Path, after: float, number: signal.Signals) -> str:
    """Starts a run, sends it a signal `after` seconds, and returns the step and stage it was in."""
    process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(number)
    process.wait(timeout=20)
    stages = {p.parent.name: p.read_text() for p in (out / ".sixview" / "outputs").glob("*/stage")}
    done = {p.stem for p in (out / ".sixview" / "done").glob("*.json")}
    return ", ".join(f"{step}/{stage}" for step, stage in stages.items() if step not in done) or "between steps"


def half_written(out: Path) -> list[str]:
    """Files with a final name that are empty. Raises where a JSON file cannot be decoded."""
    wrong = []
    for path in out.rglob("*"):
        if path.is_file() and ".sixview" not in path.parts and path.stat().st_size == 0:
            wrong.append(str(path))
    for name in ("outputs.json", *(p.relative_to(out).as_posix() for p in out.glob("*/quality.json"))):
        if (out / name).exists():
            json.loads((out / name).read_text())
    return wrong


def finished(source: Path, out: Path) -> tuple[str, list[str]]:
    """Runs to the end. Returns the content digest and the steps that were reused."""
    done = subprocess.run(command(source, out), capture_output=True, text=True, timeout=300, check=False)
    summary = json.loads(done.stdout)
    assert done.returncode == 0, summary
    return summary["content_digest"], summary["steps"]["reused"]


def moment(number: int, seed: int, whole: float) -> tuple[float, signal.Signals]:
    """When and how the number-th run is killed: seconds into a run that takes `whole`."""
    rng = np.random.default_rng([seed, number])
    return float(rng.uniform(0.2, whole)), SIGNALS[number % 2]
