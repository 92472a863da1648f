"""Chooses the engine of reconviagen and records the reason. A requested engine is never replaced by another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steps.compute import device
from steps.io import weights_manifest
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import GpuUnavailable, ModelFailed, StepError, ValidationFailed, WeightsMissing

# environment variables: the interpreter of the environment that the model's package is installed in, and folders with packages
# that this lacks, as PYTHONPATH has them
PYTHON, PATHS = "SIXVIEW_RECONVIAGEN_PYTHON", "SIXVIEW_RECONVIAGEN_PATH"


@dataclass(frozen=True)
class Choice:
    """engine: reconviagen or fusion; device: where it computes; reason: a sentence for the report; texturing: the device of the
    texture's bake, which is not the published model's own."""

    engine: str
    device: str
    reason: str
    texturing: str


def choose(parameters: Reconviagen, note: Callable[[str], None] = lambda sentence: None) -> Choice:
    """The engine for these parameters. note: see `device.choose`. Raises WeightsMissing, ModelFailed, GpuUnavailable or
    ValidationFailed where the requested one cannot run."""
    if parameters.engine == "fusion":
        where = device.choose(parameters.device, note)
        return Choice("fusion", where, "asked for by name", where)
    missing = _missing_requirement(parameters)
    is_requested = parameters.engine == "reconviagen"
    if missing is None:
        where = "cpu" if parameters.device == "cpu" else "cuda"
        reason = "asked for by name" if is_requested else "chosen by auto: its weights were given"
        return Choice("reconviagen", where, reason, device.choose("cpu" if where == "cpu" else "auto", note))
    if is_requested or (parameters.device == "cuda" and _has_weights(parameters)):
        raise missing
    reason = f"chosen by auto: {missing.message[0].lower()}{missing.message[1:]}"
    where = device.choose(parameters.device, note)
    return Choice("fusion", where, reason, where)


def _missing_requirement(parameters: Reconviagen) -> StepError | None:
    """What the published model lacks to run, as the error; None where it can."""
    folder = parameters.weights
    if folder is None or not _has_weights(parameters):
        return WeightsMissing(
            "No weights for the engine reconviagen were given.",
            "Give their folder with --weights, or use --engine fusion.",
        )
    if not (folder / weights_manifest.FILE).is_file():
        return WeightsMissing(
            f"The folder {folder} holds no {weights_manifest.FILE}: these are not the weights of the engine reconviagen, or "
            "nobody has written down what they are.",
            "Put the parts into it (docs/models.md), then run `sixview weights lock` on it.",
        )
    interpreter = os.environ.get(PYTHON, "")
    if not Path(interpreter).is_file():
        return ModelFailed(
            "The package of the model is not installed here: "
            + (
                f"{PYTHON} names {interpreter}, which is not there."
                if interpreter
                else f"{PYTHON} names no interpreter."
            ),
            "Use the image reconviagen, or set that variable to the Python of an environment with the package (docs/models.md), "
            "or use --engine fusion.",
        )
    if parameters.device == "cpu" and parameters.engine == "auto":
        return ValidationFailed("The engine reconviagen computes on a GPU, and the CPU was asked for.")
    if parameters.device == "auto" and not _has_gpu():
        return GpuUnavailable(
            "The engine reconviagen needs a GPU, and no driver for one was found.",
            "Use --engine fusion, or a machine with a GPU.",
        )
    return None


def _has_weights(parameters: Reconviagen) -> bool:
    """Whether a folder was given that is not empty, as a pod's is where there is no claim."""
    folder = parameters.weights
    return folder is not None and not (folder.is_dir() and not any(folder.iterdir()))


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
