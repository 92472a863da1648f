"""Runs the published model as a child process, in the environment of its package, and reads its mesh."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute import gpu_time
from steps.compute.arrays import Array
from steps.io import weights_manifest
from steps.io.scene import SceneView
from steps.reconviagen import framing
from steps.reconviagen.engines import PATHS, PYTHON
from steps.registration.global_icp import Similarity
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import STAGES, ModelFailed, as_record, by_code
from steps.runtime.files import read_json, write_json
from steps.runtime.reporter import Reporter

ADAPTER = Path(__file__).with_name("adapter.py")
POLL_SECONDS = 0.2
GENERATE, PLACE, REFINE = 60, 70, 95  # of 100 parts of the work are done when these have ended
LINES = 20  # of the program's last words go into a failure's details


@dataclass(frozen=True)
class MemoryLevel:
    """One level of the memory fallback: settings that change memory only, but for `refine`; never a sampler's steps."""

    batch: int  # views that go through the image encoder at a time
    low_vram: bool  # whether networks wait in main memory until it is their turn
    refine: bool


def memory_levels(parameters: Reconviagen) -> list[MemoryLevel]:
    """All levels from the requested settings down: one view at a time, then low_vram, then without refine."""
    levels = [MemoryLevel(parameters.batch or 6, parameters.low_vram, parameters.refine)]
    for change in ({"batch": 1}, {"low_vram": True}, {"refine": False}):
        lower = replace(levels[-1], **change)
        levels += [lower] if lower != levels[-1] else []
    return levels


@dataclass(frozen=True)
class GeneratedMesh:
    """The model's mesh in its own frame: vertices (n, 3), faces (m, 3), colours of the vertices (n, 3)."""

    vertices: Array
    faces: Array
    colours: Array


class Model:
    """Runs the model's program as a child process, for one job."""

    def __init__(
        self,
        parameters: Reconviagen,
        device: str,
        level: MemoryLevel,
        views: list[SceneView],
        folder: Path,
        reporter: Reporter,
    ):
        self.parameters, self.device, self.level, self.reporter = parameters, device, level, reporter
        assert parameters.weights is not None
        self.manifest = weights_manifest.check_weights(parameters.weights)
        self.folder, self.views, self.peak_vram_mib = folder, views, 0
        folder.mkdir(parents=True, exist_ok=True)
        self.pictures = [framing.frame_object(view, folder) for view in views]

    def generated(self) -> GeneratedMesh:
        return self._run_task({"task": "generate"}, 0, GENERATE)

    def refined(self, to_scene: Similarity) -> GeneratedMesh:
        """The mesh refined with the cameras converted to the model's frame. to_scene: from that frame to the scene's."""
        cameras = framing.cameras(self.views, self.pictures, to_scene)
        return self._run_task({"task": "refine", "cameras": cameras}, PLACE, REFINE)

    def metadata(self) -> dict[str, Any]:
        """Versions and settings of the run, for model.json."""
        p = self.parameters
        parts = {name: f"{part['source']} at {part['revision']}" for name, part in self.manifest["parts"].items()}
        return {
            **read_json(self.folder / "result.json", {}),
            "weights": parts,
            "mode": p.mode,
            **self._samplers(),
        }

    def _samplers(self) -> dict[str, Any]:
        p = self.parameters
        return {
            "structure": {
                "steps": p.structure_steps,
                "cfg_strength": p.structure_guidance,
                "rescale_t": p.structure_rescale,
            },
            "latent": {"steps": p.latent_steps, "cfg_strength": p.latent_guidance, "rescale_t": p.latent_rescale},
        }

    def _run_task(self, task: dict[str, Any], first: int, last: int) -> GeneratedMesh:
        for name in ("events.jsonl", "failure.json", "result.json", "gpu_seconds.json"):
            (self.folder / name).unlink(missing_ok=True)
        parts = self.manifest["parts"]
        job = {
            **task,
            "images": [str(picture.file) for picture in self.pictures],
            "weights": str(self.parameters.weights),
            "parts": {part["source"]: part["folder"] for part in parts.values()},
            "may_lack": {name: part["may_lack"] for name, part in parts.items()},
            "may_add": {name: part["may_add"] for name, part in parts.items()},
            "device": self.device,
            "seed": self.parameters.seed,
            "mode": self.parameters.mode,
            "batch": self.level.batch,
            "low_vram": self.level.low_vram,
            **self._samplers(),
            "out": str(self.folder),
            "parent": os.getpid(),
        }
        write_json(self.folder / "job.json", job)
        self._run(first, last)
        arrays = np.load(self.folder / "mesh.npz")
        return GeneratedMesh(
            arrays["vertices"].astype(np.float64),
            arrays["faces"].astype(np.int32),
            arrays["colours"].astype(np.float64),
        )

    def _run(self, first: int, last: int) -> None:
        command = [interpreter(), str(ADAPTER), str(self.folder / "job.json")]
        log = self.folder / "log.txt"
        with open(log, "wb") as words:
            # a process group of its own: what the program starts ends with it, and leaves the device's memory to what
            # comes next

            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=environment(), process_group=0
            )
            try:
                n_lines = 0
                while child.poll() is None:
                    n_lines = self._relay_events(n_lines, first, last)
                    time.sleep(POLL_SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._relay_events(n_lines, first, last)
        tail = log.read_text(errors="replace").splitlines()[-LINES:]
        print("\n".join(tail), file=sys.stderr)
        if child.returncode:
            raise self._failure(child.returncode, tail)
        self.peak_vram_mib = max(self.peak_vram_mib, read_json(self.folder / "result.json", {}).get("peak_vram_mib", 0))
        self.reporter.value("peak-vram-mib", self.peak_vram_mib)
        gpu_time.add(read_json(self.folder / "gpu_seconds.json", 0.0))

    def _relay_events(self, n_lines: int, first: int, last: int) -> int:
        """Passes new events of the program on to the reporter; lines that are no event are dropped. Returns the number of lines
        read."""
        path = self.folder / "events.jsonl"
        lines = (
            path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []
        )  # the last is still being written
        for line in lines[n_lines:]:
            stage, done, total = event(line)
            if stage:
                self._enter(stage)
            elif total:
                self.reporter.progress(first + (last - first) * done // total, 100)
        return len(lines)

    def _enter(self, stage: str) -> None:
        if self.reporter.stages[-1]["stage"] != stage:  # the files were compared in the first one already
            self.reporter.stage(stage)

    def _failure(self, code: int, tail: list[str]) -> Exception:
        """The program's own failure record; the exit status where there is none."""
        record = as_record(read_json(self.folder / "failure.json"))
        if record is None:
            if code == -signal.SIGKILL:
                return MemoryError("The model's program was killed, most likely for want of memory.")
            return ModelFailed(f"The model's program ended with exit code {code} and said nothing.", last_words=tail)
        error = by_code()[record["code"]](record["message"])
        error.details.update(record["details"], **({"last_words": tail} if isinstance(error, ModelFailed) else {}))
        return error


def event(line: str) -> tuple[str, int, int]:
    """(stage, done, total) of a line of events.jsonl: a stage and zeros, or "" and progress; ("", 0, 0) for other lines."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return "", 0, 0
    if not isinstance(content, dict):
        return "", 0, 0
    if content.get("stage") in STAGES:
        return content["stage"], 0, 0
    done, total = content.get("done"), content.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or not 0 <= done <= total:
        return "", 0, 0
    return "", done, total


def interpreter() -> str:
    """Path of the Python interpreter that has the model's package."""
    return os.environ[PYTHON]


def environment() -> dict[str, str]:
    """Environment variables of that interpreter: PYTHONPATH without this project, and with PATHS."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return variables | ({"PYTHONPATH": os.environ[PATHS]} if PATHS in os.environ else {})
