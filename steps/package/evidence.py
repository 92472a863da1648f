"""A job's results and the steps' outputs, gathered for the report and the ZIP."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.runtime.contract import OUTPUTS, VIEW_NAMES
from steps.runtime.devices import gpu_text
from steps.runtime.errors import as_record
from steps.runtime.files import read_json, read_text
from steps.runtime.reporter import read_notes, read_stages, read_warnings

SCHEMA = Path(__file__).parents[1] / "quality" / "quality.schema.json"
OPTIONAL = (  # only where a model estimates material, or makes up what no view saw
    "texture_orm.png",
    "texture_normal.png",
    "coverage.png",
)
MESHES = ("mesh.obj", "mesh.ply", "mesh.glb", "mesh.mtl", "texture.png", *OPTIONAL)
PREVIEWS = tuple(f"{kind}_{i:02d}.png" for kind in ("textured", "wireframe") for i in range(len(VIEW_NAMES)))


@dataclass(frozen=True)
class Model:
    """One model's results. folder: <job>/<name>; quality: quality.json or {}."""

    name: str
    folder: Path
    quality: dict[str, Any]

    def files(self) -> dict[str, Path]:
        """File name in the ZIP -> path, for all files of this model, existing or not."""
        files = {name: self.folder / "mesh" / name for name in MESHES}
        files |= {f"previews/{name}": self.folder / "preview" / name for name in PREVIEWS}
        return files | {"quality.json": self.folder / "quality" / "quality.json"}

    def missing(self) -> list[str]:
        """Required files that are missing or damaged."""
        lost = [name for name, path in self.files().items() if name not in OPTIONAL and not path.is_file()]
        return lost if self.quality or "quality.json" in lost else [*lost, "quality.json"]

    def missing_required(self) -> list[str]:
        """Missing or damaged files without which there is no result: a mesh, and its quality.json."""
        missing = self.missing()
        mesh = [] if "mesh.obj" not in missing or "mesh.glb" not in missing else ["mesh.obj or mesh.glb"]
        return mesh + [name for name in missing if name == "quality.json"]


@dataclass(frozen=True)
class StepRun:
    """One step's outputs. name: `reconviagen.quality`; values: see contract.OUTPUTS; stages: stages.json; notes: for the
    report; warnings: those of the notes that must be seen."""

    name: str
    values: dict[str, str]
    stages: list[dict[str, Any]]
    failure: dict[str, Any] | None
    notes: list[str]
    warnings: list[str]

    @property
    def gpu_seconds(self) -> tuple[float, float]:
        """For which the step held a GPU, and in which that computed."""
        return _seconds(self.values["gpu-held-seconds"]), _seconds(self.values["gpu-busy-seconds"])

    @property
    def gpu(self) -> str:
        """What the report says of it; "" where none was held."""
        held, busy = self.gpu_seconds
        return gpu_text(held, busy) if held else ""


@dataclass(frozen=True)
class Job:
    """All outputs of a job's steps. folder: of the job; options: as requested; scene: scene.json or {}; preflight: validate's
    report on GPUs."""

    folder: Path
    models: list[Model]
    steps: list[StepRun]
    options: dict[str, Any]
    scene: dict[str, Any]
    preflight: dict[str, Any]

    @property
    def failure(self) -> dict[str, Any] | None:
        """The first failure in the order of the steps."""
        return next((step.failure for step in self.steps if step.failure), None)

    @property
    def gpu(self) -> str:
        """The GPU time of all steps, and the GPUs' names; "" where none was held."""
        holders = [step for step in self.steps if step.gpu]
        if not holders:
            return ""
        held, busy = (sum(seconds) for seconds in zip(*(step.gpu_seconds for step in holders), strict=True))
        return f"{gpu_text(held, busy)} ({', '.join(dict.fromkeys(step.values['gpu'] for step in holders))})"


def gather(job: Path, models: list[str]) -> Job:
    """Reads the job folder, without the package step's own outputs. After a failure only the models that had begun are
    included."""
    order = ["validate", *(f"{m}{suffix}" for m in models for suffix in ("", ".quality", ".preview"))]
    steps = [_step(job / "outputs" / name) for name in order if (job / "outputs" / name).is_dir()]
    begun = [name for name in models if (job / "outputs" / name).is_dir()]
    if begun and any(step.failure for step in steps):
        models = begun
    return Job(
        job,
        [Model(name, job / name, _quality(job / name / "quality" / "quality.json")) for name in models],
        steps,
        read_json(job / "options.json", {}),
        read_json(job / "scene" / "scene.json", {}),
        read_json(job / "outputs" / "validate" / "preflight.json", {}),
    )


def _step(folder: Path) -> StepRun:
    values = {name: read_text(folder / name, default) for name, default in OUTPUTS.items()}
    failure = as_record(read_json(folder / "failure.json"))
    return StepRun(folder.name, values, read_stages(folder), failure, read_notes(folder), read_warnings(folder))


def _seconds(text: str) -> float:
    """A duration; 0 for what is none."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0


def _quality(path: Path) -> dict[str, Any]:
    """quality.json; {} where it is missing or does not match its schema."""
    import jsonschema

    quality = read_json(path, {})
    valid = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(quality)
    return quality if valid else {}
