"""Which engine makes the mesh. The choice, and why, is recorded; no engine ever stands in for another that was named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steps.contracts import Reconviagen
from steps.errors import ModelFailed, ValidationFailed, WeightsMissing

PIPELINE_FILE = "pipeline.json"  # every export of the model's pipeline has it at its top


@dataclass(frozen=True)
class Choice:
    """engine: fusion; device: where it computes; reason: a sentence for the report."""

    engine: str
    device: str
    reason: str


def choose(parameters: Reconviagen) -> Choice:
    """The engine for these parameters. Raises WeightsMissing, ModelFailed or ValidationFailed for what cannot be had."""
    obstacle = _model_obstacle(parameters.weights)
    if parameters.engine == "reconviagen" or (parameters.engine == "auto" and parameters.device == "cuda"):
        raise obstacle  # whoever asked for a GPU did not ask for fusion
    if parameters.device == "cuda":
        raise ValidationFailed(
            "The engine fusion computes on the CPU, and a GPU was asked for.", "Use --device cpu or auto."
        )
    if parameters.engine == "fusion":
        return Choice("fusion", "cpu", "asked for by name")
    return Choice("fusion", "cpu", f"chosen by auto: {obstacle.message[0].lower()}{obstacle.message[1:]}")


def _model_obstacle(weights: Path | None) -> WeightsMissing | ModelFailed:
    """Why the published model cannot run."""
    if weights is None:
        return WeightsMissing(
            "No weights for the engine reconviagen were given.",
            "Give their folder with --weights, or use --engine fusion, which computes on the CPU.",
        )
    if not (weights / PIPELINE_FILE).is_file():
        return WeightsMissing(
            f"The folder {weights} holds no {PIPELINE_FILE}: these are not the weights of the engine reconviagen."
        )
    return ModelFailed(
        "This version can check the weights of the engine reconviagen but not run it yet.", "Use --engine fusion."
    )
