"""The contract of each step: flags, result file, stages and output values. Standard library only, so that every module may import
it.

A step is `python -m steps.<name> --flag value ...`; its flags are the fields of its dataclass here. It reads and writes
files; the folder `--out` is replaced atomically at the end. Beside its results it leaves a folder `--outputs` with one
small file per value (OUTPUTS), `stages.json`, `log.txt`, `notes.json` where there is something to tell and, after a failure,
`failure.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.runtime import options as declarations
from steps.runtime.errors import ValidationFailed
from steps.runtime.options import DEVICES, ENGINES, JOB_OPTIONS, MODELS, PRESETS, RIGS, Option

__all__ = ["DEVICES", "ENGINES", "MODELS", "PRESETS", "RIGS"]

VIEW_NAMES = ("front", "back", "left", "right", "top", "bottom")
OUTLINES = "outlines.webp"  # among validate's outputs: which pixels it took for the object
START_MESH = "start.glb"  # among a model's results: the mesh that it started from, to compare with
MODES = ("stochastic", "multidiffusion")  # of the published model
JOB_SECONDS = 7200.0  # the models' running time together, after which a job ends as MODEL_TIMEOUT

TEXTURE_HELP = "side of the textures in pixels; 0: the power of two at or above twice the views' side, at most 2048"

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
    "warnings": "",  # a line for each: what to know before the result is trusted
    "seconds": "0",
    "startup-seconds": "0",
    "compile-seconds": "0",
    "peak-ram-mib": "0",
    "peak-vram-mib": "0",
    "gpu": "",  # name of the GPU that the step held
    "gpu-held-seconds": "0",
    "gpu-busy-seconds": "0",  # of these the ones in which it computed
    "seconds-left": "",
    "earlier-attempts": "",  # how attempts of the same step ended before this one
    "rungs-left": "0",  # number of memory levels below this attempt's; the name is public, so it keeps the old word
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


def option(
    default: Any, text: str, choices: tuple[str, ...] = (), least: float | None = None, most: float | None = None
) -> Any:
    """Dataclass field of a step's flag with a default, and its bounds or choices."""
    known = Option(type(default), default, text, choices, least, most)
    return field(default=default, metadata={"help": text, "option": known})


def job_option_field(name: str, text: str = "") -> Any:
    """Dataclass field of a step's flag that is also an option of the job. text: its help, default: the job option's."""
    known = JOB_OPTIONS[name]
    return field(default=known.default, metadata={"help": text or known.text, "option": known, "job": name})


def required(text: str) -> Any:
    """Dataclass field of a required flag: a path."""
    return field(metadata={"help": text, "option": None})


@dataclass(frozen=True, kw_only=True)
class Step:
    """Flags of every step."""

    out: Path = required("folder for the results; it appears, or changes, only when the step has finished")
    outputs: Path = required("folder for the small output files, failure.json, stages.json and log.txt")
    deadline_seconds: float = option(JOB_SECONDS, "seconds this step may run before it ends as MODEL_TIMEOUT", least=0)
    memory_limit_mib: int = option(
        0, "end as MODEL_OOM above this many MiB, besides the cgroup's own limit; 0: only that", least=0
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
    rig: str = job_option_field(
        "rig",
        "without cameras: auto finds out how they stand and what the depth means, nominal takes the canonical rig, and a rig "
        "with a name is that of six views in its own order, of which the rest is found",
    )
    picture: bool = option(False, "also draw rig.png: the six views standing around what their depth shows")
    device: str = job_option_field(
        "device", "the device that the job wants; cuda fails here where no usable GPU is found"
    )
    options: Path | None = option(
        None,
        "JSON file with the options of the whole job as the user gave them, which are checked before anything else",
    )


@dataclass(frozen=True, kw_only=True)
class Reconviagen(Step):
    """Makes a textured mesh of a scene."""

    scene: Path = required("folder that validate wrote")
    engine: str = job_option_field(
        "engine", "reconviagen: the published model; fusion: depth fusion; auto: the model where it can run"
    )
    device: str = job_option_field("device", "where to compute")
    weights: Path | None = option(None, "folder with the reconviagen engine's weights and their weights.json")
    mode: str = option("multidiffusion", "engine reconviagen: how the views are taken together", MODES)
    structure_steps: int = option(
        30, "engine reconviagen: steps of the sampler of the coarse structure", least=1, most=1000
    )
    structure_guidance: float = option(7.5, "engine reconviagen: strength of that sampler's guidance")
    structure_rescale: float = option(5.0, "engine reconviagen: rescale_t of that sampler")
    latent_steps: int = option(
        12, "engine reconviagen: steps of the sampler of the surface's latents", least=1, most=1000
    )
    latent_guidance: float = option(7.5, "engine reconviagen: strength of that sampler's guidance")
    latent_rescale: float = option(3.0, "engine reconviagen: rescale_t of that sampler")
    refine: bool = option(False, "engine reconviagen: go on from its mesh with the exact cameras (up to 24 GB of VRAM)")
    low_vram: bool = option(False, "engine reconviagen: networks wait in main memory until it is their turn")
    batch: int = option(0, "engine reconviagen: views through the image encoder at a time; 0: all six", least=0, most=6)
    attempts: Path | None = option(
        None, "file with the earlier attempts' memory; read, and written again with this one"
    )
    resolution: int = job_option_field("resolution")
    grid: int = job_option_field("grid", "voxels along the longest side of the fusion grid")
    faces: int = job_option_field("faces")
    texture_size: int = job_option_field("texture-size", TEXTURE_HELP)
    seed: int = job_option_field("seed")


@dataclass(frozen=True, kw_only=True)
class Nvdiffrec(Step):
    """Makes a textured mesh of a scene by differentiable rendering, starting from fused depth."""

    # Two grids: `grid` counts the cells of the tetrahedral lattice that the first pass optimizes; it is no option of the job
    # (`sixview run` has it as --tet-grid). `fusion_grid` counts the voxels of the depth fusion that gives the start: the job's
    # option `grid`, which Reconviagen, too, has as `grid`.

    scene: Path = required("folder that validate wrote")
    device: str = job_option_field("device", "where to compute; auto: a GPU where torch finds one")
    resolution: int = job_option_field("resolution")
    batch: int = option(
        0, "views held in memory at a time, which changes only time and memory; 0: 1 on CPU, 6 on GPU", least=0, most=6
    )
    grid: int = option(64, "cells along the longest side of the first pass's tetrahedral lattice", least=16, most=256)
    iterations: int = job_option_field(
        "iterations", "iterations of each pass, over all six views; a pass that gains nothing more ends earlier"
    )
    always_first_pass: bool = option(False, "run the first pass even where the start already fits the views")
    fusion_grid: int = job_option_field(
        "grid", "voxels along the longest side of the fusion grid that the start comes from"
    )
    faces: int = job_option_field("faces")
    texture_size: int = job_option_field("texture-size", TEXTURE_HELP)
    seed: int = job_option_field("seed", "seed of everything random (nothing is, so far)")
    attempts: Path | None = option(
        None, "file with the earlier attempts' memory; read, and written again with this one"
    )
    checkpoint: Path | None = option(None, "file to go on from, and to write to every so often")
    checkpoint_seconds: float = option(30.0, "seconds between two checkpoints", least=0)


@dataclass(frozen=True, kw_only=True)
class Quality(Step):
    """Compares the mesh with the input views and decides whether it passes."""

    scene: Path = required("folder that validate wrote")
    mesh: Path = required("folder that a model wrote")
    device: str = job_option_field("device", "where to compute; auto: a GPU where there is one")
    held_out: Path | None = option(None, "folder with held_out.json and views that no model saw, to judge by as well")
    psnr_threshold: float = job_option_field("psnr-threshold", "mean full-frame PSNR in dB below which the job fails")
    ssim_threshold: float = job_option_field("ssim-threshold", "mean full-frame SSIM below which the job fails")
    object_psnr_threshold: float = job_option_field("object-psnr-threshold")
    object_ssim_threshold: float = job_option_field("object-ssim-threshold")


@dataclass(frozen=True, kw_only=True)
class Preview(Step):
    """Draws six textured and six wireframe pictures, a turntable and comparisons."""

    scene: Path = required("folder that validate wrote")
    mesh: Path = required("folder that a model wrote")
    device: str = job_option_field("device", "where to compute; auto: a GPU where there is one")
    size: int = option(512, "side of the previews in pixels", least=16, most=4096)


@dataclass(frozen=True, kw_only=True)
class Package(Step):
    """Writes the report from what the other steps left, then the ZIP; after a failure that left no result, only the report."""

    job: Path = required(
        "folder with scene/, <model>/{mesh,quality,preview}/ and outputs/<step>/, as `sixview run` keeps it"
    )
    models: str = option("reconviagen", "the models that were asked for, comma-separated")
    device: str = job_option_field(
        "device", "the device that the job wants; cuda fails here where no usable GPU is found"
    )


@dataclass(frozen=True, kw_only=True)
class Sample(Step):
    """Writes an input set of a procedural object, its cameras and the true mesh."""

    object: str = option("mug", "which object: mug, donut, duck, bowl or house; or a file with a textured mesh, y up")
    capture: str = option(
        "clean",
        "clean: exact renders with their cameras.json; real: as photographs with estimated depth are, cameras unknown",
        ("clean", "real"),
    )
    size: int = option(512, "side of the pictures in pixels", least=8, most=4096)
    depth_bits: int = option(16, "bits of the depth renders", ("8", "16"))
    views: str = option("named", "file names: front.png ... or view_0.png ...", ("named", "numbered"))
    background: str = option("transparent", "what is around the object", ("transparent", "white"))
    held_out: int = option(
        0, "further views, from random directions, to judge results by: written to ground_truth/", least=0, most=100
    )
    seed: int = job_option_field(
        "seed", "seed of the held-out directions, and of everything that is random in a real capture"
    )


STEPS: dict[str, type[Step]] = {
    "validate": Validate,
    "reconviagen": Reconviagen,
    "nvdiffrec": Nvdiffrec,
    "quality": Quality,
    "preview": Preview,
    "package": Package,
    "sample": Sample,
}


def job_fields(step: type[Step]) -> dict[str, str]:
    """Field name -> option name, for the fields of a step that are options of the job."""
    return {item.name: item.metadata["job"] for item in dataclasses.fields(step) if "job" in item.metadata}


def job_field_values(step: type[Step], options: Mapping[str, Any]) -> dict[str, Any]:
    """Field name -> value, for the fields of a step that are options of the job and are in `options` (by option name)."""
    return {item: options[name] for item, name in job_fields(step).items() if name in options}


def option_name(name: str) -> str:
    """The option name of a field: hyphens for underscores."""
    return name.replace("_", "-")


def flag(name: str) -> str:
    """The command-line flag of a field: `--` and its option name."""
    return f"--{option_name(name)}"


def _bare(annotation: Any) -> Any:
    """T of an annotation T | None; other annotations unchanged."""
    return next((a for a in typing.get_args(annotation) if a is not type(None)), annotation)


class _Parser(argparse.ArgumentParser):
    """Raises ValidationFailed where argparse would end the program with a code of its own."""

    def error(self, message: str) -> typing.NoReturn:
        raise ValidationFailed(f"The command line cannot be read: {message}.", f"See {self.prog} --help.")


def parser(step: str) -> argparse.ArgumentParser:
    """The argparse parser of a step. Values stay text: `parse` converts and checks them."""
    cls = STEPS[step]
    hints = typing.get_type_hints(cls)
    result = _Parser(prog=f"python -m steps.{step}", description=cls.__doc__, allow_abbrev=False)
    for item in dataclasses.fields(cls):
        needed, known = item.default is dataclasses.MISSING, item.metadata["option"]
        if hints[item.name] is bool:
            result.add_argument(flag(item.name), action="store_true", help=_escaped(item.metadata["help"]))
            continue
        allowed = f"; {known.allowed()}" if known and known.kind is not type(None) and known.allowed() != "text" else ""
        text = item.metadata["help"] + allowed + ("" if needed else f" (default: {item.default})")
        result.add_argument(flag(item.name), required=needed, help=_escaped(text))
    return result


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def parse(step: str, argv: list[str] | None = None) -> Step:
    """A step's parameters from argv, by default sys.argv. Raises ValidationFailed, which names every invalid value."""
    known, rest = parser(step).parse_known_args(argv)
    given = {name: value for name, value in vars(known).items() if value is not None}
    declared = {item.name: item.metadata["option"] for item in dataclasses.fields(STEPS[step])}
    texts = {
        name: value for name, value in given.items() if not isinstance(value, bool) and not _is_path(declared[name])
    }
    values = declarations.parse(
        {option_name(name): value for name, value in texts.items()} | _unknown(step, rest),
        {option_name(name): option for name, option in declared.items() if option},
    )
    paths = {name: Path(value) for name, value in given.items() if _is_path(declared[name])}
    return STEPS[step](**given | paths | {name: values[option_name(name)] for name in texts})


def _is_path(declared: Option | None) -> bool:
    return declared is None or declared.kind is type(None)


def _unknown(step: str, rest: list[str]) -> dict[str, str]:
    """Unknown flag -> value, of the words that the step's parser did not consume. Raises ValidationFailed for other words:
    positional arguments, and all after `--`."""
    own = {option_name(item.name) for item in dataclasses.fields(STEPS[step])}
    flags = [word.removeprefix("--").partition("=") for word in rest if word.startswith("--")]
    unknown = {name: value for name, _, value in flags if name not in own}
    if rest and not unknown:
        parser(step).error(f"unrecognized arguments: {' '.join(rest)}")
    return unknown


def output_folders(argv: list[str] | None = None) -> Step | None:
    """A Step with only --out and --outputs, to write the failure record of a command line that `parse` refuses. None without
    --outputs."""
    folder_flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("out", "outputs"):
        folder_flags.add_argument(flag(name), type=Path)
    try:
        arguments, _ = folder_flags.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    return (
        Step(out=arguments.out or arguments.outputs / "out", outputs=arguments.outputs) if arguments.outputs else None
    )


def arguments(parameters: Step) -> list[str]:
    """The command line from which `parse` reads these parameters: `--flag=value` words, since in two words a value with a leading
    hyphen would be parsed as a flag."""
    words: list[str] = []
    for item in dataclasses.fields(parameters):
        value = getattr(parameters, item.name)
        if isinstance(value, bool):
            words += [flag(item.name)] if value else []
        elif value is not None:
            words.append(f"{flag(item.name)}={value}")
    return words
