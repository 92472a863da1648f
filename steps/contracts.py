"""What each step takes, writes and reports. Standard library only, so that everyone may import it.

A step is `python -m steps.<name> --flag value ...`; its flags are the fields of its dataclass here. It reads and writes
files, and never appears finished under `--out` before it is. Beside its results it leaves a folder `--outputs` with one
small file per value (OUTPUTS), `stages.json`, `log.txt`, `notes.json` where there is something to tell and, after a failure,
`failure.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VIEW_NAMES = ("front", "back", "left", "right", "top", "bottom")
MODELS = ("reconviagen", "nvdiffrec")  # in the order in which they run
DEVICES = ("auto", "cpu", "cuda")
PRESETS = ("zero123plus-v1.1", "zero123plus-v1.2", "wonder3d")
RIGS = ("auto", "nominal", *PRESETS)
ENGINES = ("auto", "reconviagen", "fusion")
MODES = ("stochastic", "multidiffusion")  # of the published model
JOB_SECONDS = 7200.0  # the models' running time together, after which a job ends as MODEL_TIMEOUT

# Every value a step may report, and what stands there where it had nothing to say.
OUTPUTS = {
    "error-code": "",
    "message": "",
    "stage": "",
    "oom-type": "none",
    "model": "",
    "engine": "",
    "device": "",
    "psnr": "",
    "ssim": "",
    "passed": "",
    "seconds": "0",
    "startup-seconds": "0",
    "compile-seconds": "0",
    "peak-ram-mib": "0",
    "peak-vram-mib": "0",
    "seconds-left": "",
    "earlier-attempts": "",  # how attempts of the same step ended before this one
    "rungs-left": "0",  # of the memory ladder, below the one that this attempt stood on
}

# The file that each step's result folder always holds: by it a step knows a folder that it may replace.
RESULT_FILE = {
    "validate": "scene.json",
    "reconviagen": "model.json",
    "nvdiffrec": "model.json",
    "quality": "quality.json",
    "preview": "preview.json",
    "package": "report/index.html",
    "sample": "sample.json",
}
FIRST_STAGE = {
    "validate": "validation",
    "reconviagen": "weight_loading",
    "nvdiffrec": "weight_loading",
    "quality": "quality_metrics",
    "preview": "preview",
    "package": "packaging",
    "sample": "export",
}


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A flag with a default."""
    return field(default=default, metadata={"help": text, "choices": choices})


def required(text: str) -> Any:
    """A flag that must be given."""
    return field(metadata={"help": text, "choices": ()})


@dataclass(frozen=True, kw_only=True)
class Step:
    """The flags that every step has."""

    out: Path = required("folder for the results; it appears, or changes, only when the step has finished")
    outputs: Path = required("folder for the small output files, failure.json, stages.json and log.txt")
    deadline_seconds: float = option(JOB_SECONDS, "seconds this step may run before it ends as MODEL_TIMEOUT")
    memory_limit_mib: int = option(
        0, "end as MODEL_OOM above this many MiB, besides the cgroup's own limit; 0: only that"
    )
    earlier_attempts: str = option("", "how earlier attempts of this step ended, for the report")


@dataclass(frozen=True, kw_only=True)
class Validate(Step):
    """Checks an input set and writes the scene that every later step reads."""

    input: Path = required("folder or .zip with multi_views/ and depth_renders/, six PNGs each")
    cameras: Path | None = option(
        None,
        "cameras.json, rig.json, transforms.json or folder of a COLMAP text model; without it the input's own cameras.json, "
        "else what --rig says",
    )
    rig: str = option(
        "auto",
        "without cameras: auto finds out how they stand and what the depth means, nominal takes the canonical rig, and a rig "
        "with a name is that of six views in its own order, of which the rest is found",
        RIGS,
    )
    picture: bool = option(False, "also draw rig.png: the six views standing around what their depth shows")
    device: str = option("auto", "the device that the job wants; cuda fails here where no usable GPU is found", DEVICES)


@dataclass(frozen=True, kw_only=True)
class Reconviagen(Step):
    """Makes a textured mesh of a scene."""

    scene: Path = required("folder that validate wrote")
    engine: str = option(
        "auto",
        "reconviagen: the published model; fusion: depth fusion on the CPU; auto: the model where it can run",
        ENGINES,
    )
    device: str = option("auto", "where to compute", DEVICES)
    weights: Path | None = option(None, "folder with the reconviagen engine's weights and their weights.json")
    mode: str = option("multidiffusion", "engine reconviagen: how the views are taken together", MODES)
    structure_steps: int = option(30, "engine reconviagen: steps of the sampler of the coarse structure")
    structure_guidance: float = option(7.5, "engine reconviagen: strength of that sampler's guidance")
    structure_rescale: float = option(5.0, "engine reconviagen: rescale_t of that sampler")
    latent_steps: int = option(12, "engine reconviagen: steps of the sampler of the surface's latents")
    latent_guidance: float = option(7.5, "engine reconviagen: strength of that sampler's guidance")
    latent_rescale: float = option(3.0, "engine reconviagen: rescale_t of that sampler")
    refine: bool = option(False, "engine reconviagen: go on from its mesh with the exact cameras (up to 24 GB of VRAM)")
    low_vram: bool = option(False, "engine reconviagen: networks wait in main memory until it is their turn")
    batch: int = option(0, "engine reconviagen: views through the image encoder at a time; 0: all six")
    attempts: Path | None = option(
        None, "file with the earlier attempts' memory; read, and written again with this one"
    )
    resolution: int = option(0, "longest side in pixels of the views the model works on; 0: as given")
    grid: int = option(256, "voxels along the longest side of the fusion grid")
    faces: int = option(20000, "about how many triangles the mesh may have")
    texture_size: int = option(
        0, "side of the texture in pixels; 0: the power of two at or above twice the views' side, at most 2048"
    )
    seed: int = option(0, "seed of everything random")


@dataclass(frozen=True, kw_only=True)
class Nvdiffrec(Step):
    """Makes a textured mesh of a scene by differentiable rendering, starting from fused depth."""

    scene: Path = required("folder that validate wrote")
    device: str = option("auto", "where to compute; auto: a GPU where torch finds one", DEVICES)
    resolution: int = option(0, "longest side in pixels of the views the model works on; 0: as given")
    batch: int = option(0, "views held in memory at a time, which changes only time and memory; 0: 1 on CPU, 6 on GPU")
    grid: int = option(64, "cells along the longest side of the first pass's tetrahedral lattice")
    iterations: int = option(
        40, "iterations of each pass, over all six views; a pass that gains nothing more ends earlier"
    )
    always_first_pass: bool = option(False, "run the first pass even where the start already fits the views")
    fusion_grid: int = option(256, "voxels along the longest side of the fusion grid that the start comes from")
    faces: int = option(20000, "about how many triangles the mesh may have")
    texture_size: int = option(
        0, "side of the textures in pixels; 0: the power of two at or above twice the views' side, at most 2048"
    )
    seed: int = option(0, "seed of everything random (nothing is, so far)")
    attempts: Path | None = option(
        None, "file with the earlier attempts' memory; read, and written again with this one"
    )
    checkpoint: Path | None = option(None, "file to go on from, and to write to every so often")
    checkpoint_seconds: float = option(30.0, "seconds between two checkpoints")


@dataclass(frozen=True, kw_only=True)
class Quality(Step):
    """Compares the mesh with the input views and decides whether it passes."""

    scene: Path = required("folder that validate wrote")
    mesh: Path = required("folder that a model wrote")
    held_out: Path | None = option(None, "folder with held_out.json and views that no model saw, to judge by as well")
    psnr_threshold: float = option(20.0, "mean full-frame PSNR in dB below which the job fails")
    ssim_threshold: float = option(0.75, "mean full-frame SSIM below which the job fails")


@dataclass(frozen=True, kw_only=True)
class Preview(Step):
    """Draws six textured and six wireframe pictures, a turntable and comparisons."""

    scene: Path = required("folder that validate wrote")
    mesh: Path = required("folder that a model wrote")
    size: int = option(512, "side of the previews in pixels")


@dataclass(frozen=True, kw_only=True)
class Package(Step):
    """Writes the report from what the other steps left, then the ZIP; after a failure that left no result, only the report."""

    job: Path = required(
        "folder with scene/, <model>/{mesh,quality,preview}/ and outputs/<step>/, as `sixview run` keeps it"
    )
    models: str = option("reconviagen", "the models that were asked for, comma-separated")


@dataclass(frozen=True, kw_only=True)
class Sample(Step):
    """Writes an input set of a procedural object, its cameras and the true mesh."""

    object: str = option("mug", "which object: mug, donut, duck, bowl or house; or a file with a textured mesh, y up")
    capture: str = option(
        "clean",
        "clean: exact renders with their cameras.json; real: as photographs with estimated depth are, cameras unknown",
        ("clean", "real"),
    )
    size: int = option(512, "side of the pictures in pixels")
    depth_bits: int = option(16, "bits of the depth renders: 8 or 16")
    views: str = option("named", "file names: front.png ... or view_0.png ...", ("named", "numbered"))
    background: str = option("transparent", "what is around the object", ("transparent", "white"))
    held_out: int = option(0, "further views, from random directions, to judge results by: written to ground_truth/")
    seed: int = option(0, "seed of the held-out directions, and of everything that is random in a real capture")


STEPS: dict[str, type[Step]] = {
    "validate": Validate,
    "reconviagen": Reconviagen,
    "nvdiffrec": Nvdiffrec,
    "quality": Quality,
    "preview": Preview,
    "package": Package,
    "sample": Sample,
}


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")


def _bare(annotation: Any) -> Any:
    """The type without None."""
    return next((a for a in typing.get_args(annotation) if a is not type(None)), annotation)


def parser(step: str) -> argparse.ArgumentParser:
    """The step's command line."""
    cls = STEPS[step]
    hints = typing.get_type_hints(cls)
    result = argparse.ArgumentParser(prog=f"python -m steps.{step}", description=cls.__doc__, allow_abbrev=False)
    for item in dataclasses.fields(cls):
        needed = item.default is dataclasses.MISSING
        text = item.metadata["help"] + ("" if needed else f" (default: {item.default})")
        if hints[item.name] is bool:
            result.add_argument(flag(item.name), action="store_true", help=text)
        else:
            result.add_argument(
                flag(item.name),
                type=_bare(hints[item.name]),
                required=needed,
                help=text,
                choices=item.metadata["choices"] or None,
                default=None if needed else item.default,
            )
    return result


def parse(step: str, argv: list[str] | None = None) -> Step:
    """The parameters given on the command line."""
    return STEPS[step](**vars(parser(step).parse_args(argv)))


def arguments(parameters: Step) -> list[str]:
    """The command line that `parse` turns back into `parameters`."""
    words: list[str] = []
    for item in dataclasses.fields(parameters):
        value = getattr(parameters, item.name)
        if isinstance(value, bool):
            words += [flag(item.name)] if value else []
        elif value is not None:
            words += [flag(item.name), str(value)]
    return words
