"""The commands of `sixview` that need no cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from pipeline.cli import flags
from pipeline.cli.console import ErrorReportingGroup, print_failure
from steps.runtime import contract
from steps.runtime.contract import MODELS, RIGS, Nvdiffrec, Reconviagen, Sample, Step
from steps.runtime.errors import ValidationFailed
from steps.runtime.files import read_json, write_json
from steps.runtime.options import JOB_OPTIONS, refusal

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)
CAMERAS_HELP = (
    "A cameras.json, rig.json or transforms.json (NeRF), or the folder of a COLMAP text model; without it the input's own "
    "cameras.json, else what --rig says."
)
RIG_HELP = (
    "Without cameras: find out how they stand, take the nominal ones, or those of a generator whose six views these are, in its "
    "order. A FILE is what --cameras takes, such as the rig.json of another set."
)


@click.group(cls=ErrorReportingGroup)
def local() -> None:
    """Commands for this machine."""


@local.command("run", cls=flags.CheckedCommand)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="Folder for the results; a broken run in it is taken up again.")
@flags.all_job_options(without=("rig", "priority"), device="Where to compute.")
@click.option("--weights", type=FOLDER, help="Folder with the reconviagen engine's weights.")
@click.option("--refine", is_flag=True, help="Engine reconviagen: go on from its mesh with the exact cameras.")
@click.option(
    "--low-vram", is_flag=True, help="Engine reconviagen: networks wait in main memory until it is their turn."
)
@flags.step_option(Reconviagen, "structure_steps", "Engine reconviagen: steps of the sampler of the coarse structure.")
@flags.step_option(Reconviagen, "latent_steps", "Engine reconviagen: steps of the sampler of the surface's latents.")
@click.option("--cameras", type=PATH, help=CAMERAS_HELP)
@click.option("--rig", default="auto", show_default=True, metavar=f"[{'|'.join(RIGS)}|FILE]", help=RIG_HELP)
@flags.step_option(Nvdiffrec, "grid", "nvdiffrec: cells of its lattice along the longest side.", "tet-grid")
@flags.step_option(Nvdiffrec, "batch", "nvdiffrec: views in memory at a time; 0: 1 on CPU, 6 on GPU.")
@click.option(
    "--held-out", type=FOLDER, help="Folder with held_out.json and views that no model sees, to judge by too."
)
@flags.step_option(Step, "memory_limit_mib", "End a step as MODEL_OOM above this; 0: only the container's limit.")
@click.option("--restart", is_flag=True, help="Forget what an earlier run in --out has finished.")
@click.option("--json", "as_json", is_flag=True, help="Print outputs.json on stdout and nothing else.")
def run_job(model: str, restart: bool, as_json: bool, **values: Any) -> None:
    """Run a job on this machine. INPUT is a folder or .zip with multi_views/ and depth_renders/, six PNGs each."""
    from pipeline.local import runner  # here, so that --help does not load what only a run needs
    from pipeline.local.progress import Display

    values |= rig_options(values["rig"], values["cameras"])
    job = flags.pop_job_options(values)
    options = runner.Options(models=tuple(MODELS) if model == "both" else (model,), job=job, **values)
    if restart:
        runner.clear_cache(options)
    summary, code = runner.run(options, Display(quiet=as_json))
    click.echo(json.dumps(summary, indent=2, ensure_ascii=False)) if as_json else print_summary(summary)
    raise SystemExit(code)


def rig_options(rig: str, cameras: Path | None) -> dict[str, Any]:
    """The options `rig` and `cameras`; a file name as `rig` becomes `cameras`. Raises ValidationFailed."""
    if rig in RIGS:
        return {"rig": rig, "cameras": cameras}
    if not Path(rig).exists():
        raise refusal({"rig": rig}, {"rig": f"{JOB_OPTIONS['rig'].allowed()}, or an existing file"})
    if cameras is not None:
        raise ValidationFailed("Both --rig and --cameras name cameras.", "Leave one of them out.")
    return {"rig": "auto", "cameras": Path(rig)}


def print_summary(summary: dict[str, Any]) -> None:
    """Prints a job's summary, outputs.json, for people."""
    for name, model in summary["models"].items():
        if model["psnr"] is not None:
            verdict = "passes" if model["passed"] else "does not pass"
            scores = f"PSNR {model['psnr']:.2f} dB, SSIM {model['ssim']:.4f}"
            click.echo(f"{name} ({model['engine']}) on {model['device']}: {scores}; {verdict}")
    for warning in summary["warnings"]:
        click.echo(f"WARNING: {warning}")
    if summary["error"]:
        print_failure(summary["error"])
    click.echo(f"{'Finished' if not summary['error'] else 'Ended'} after {summary['seconds']:.1f} s")
    for label in ("result", "report"):
        if summary[label]:
            click.echo(f"{label + ':':8}{summary[label]}")


@local.command("rig", cls=flags.CheckedCommand)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--cameras", type=PATH, help=CAMERAS_HELP)
@click.option("--rig", default="auto", show_default=True, metavar=f"[{'|'.join(RIGS)}|FILE]", help=RIG_HELP)
@click.option("--picture", type=FILE, help="Where to draw the six views around what their depth shows (PNG).")
@click.option(
    "--save",
    type=FILE,
    help="Where to write the cameras found, as a cameras.json; of several that remain, FILE-1, FILE-2 and so on, each with a "
    "picture beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of the rig, and nothing else.")
def show_rig(
    input: Path, cameras: Path | None, rig: str, picture: Path | None, save: Path | None, as_json: bool
) -> None:
    """Print the cameras and the depth encoding of an input set, estimated where they are not given."""
    cameras_options = rig_options(rig, cameras)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        parameters = contract.Validate(
            out=work / "scene",
            outputs=work / "outputs",
            input=input.absolute(),
            cameras=cameras_options["cameras"] and cameras_options["cameras"].absolute(),
            rig=cameras_options["rig"],
            picture=picture is not None,
        )
        command = [sys.executable, "-m", "steps.validate", *contract.arguments(parameters)]
        code = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        if code:
            _report_ambiguous_rig(work / "outputs", save, as_json)
            raise SystemExit(code)
        scene = read_json(work / "scene" / "scene.json")
        rig_document = read_json(work / "scene" / "rig.json", {"decision": scene["rig"]})
        if picture:
            shutil.copy(work / "scene" / "rig.png", picture)
    if save and "cameras" in rig_document:
        write_json(save, rig_document["cameras"])
    click.echo(
        json.dumps(rig_document, indent=2)
        if as_json
        else "\n".join([f"rig: {rig_document['decision']}", *scene["notes"]])
    )


def _report_ambiguous_rig(outputs: Path, save: Path | None, as_json: bool) -> None:
    """Prints the failure record of validate; after RIG_AMBIGUOUS saves the remaining hypotheses as numbered files."""
    record = read_json(outputs / "failure.json")
    for number, hypothesis in enumerate(record["details"].get("hypotheses", []) if save else [], 1):
        assert save is not None
        target = save.with_stem(f"{save.stem}-{number}")
        shutil.copy(outputs / hypothesis["cameras"], target)
        shutil.copy(outputs / hypothesis["picture"], target.with_suffix(".png"))
        hypothesis |= {"cameras": str(target), "picture": str(target.with_suffix(".png"))}
    click.echo(json.dumps(record, indent=2)) if as_json else print_failure(record)


@local.command("render")
@click.option("--name", default="sixview", show_default=True, help="Name of the WorkflowTemplate.")
@click.option("--registry", default="sixview", show_default=True, help="Where the images lie.")
@click.option("--tag", default=metadata.version("sixview"), show_default=True, help="The images' tag.")
@click.option("--cpu", is_flag=True, help="For a cluster without GPUs.")
@click.option("--bucket", default="sixview", show_default=True, help="Bucket for everything.")
@click.option("--endpoint", default="s3.amazonaws.com", show_default=True, help="host:port of the S3 store.")
@click.option("--insecure", is_flag=True, help="The store speaks plain HTTP.")
def render(cpu: bool, insecure: bool, **values: Any) -> None:
    """Print the Argo WorkflowTemplate. The Helm chart in charts/sixview brings it with all that it needs."""
    try:
        from pipeline.workflow.helm_render import manifest
        from pipeline.workflow.settings import PODS, Settings
    except ImportError as error:
        raise SystemExit(
            f"sixview render needs {error.name}; install the extra: pip install 'sixview[cluster]'"
        ) from None

    on_cpu: dict[str, Any] = {"engines": "engines-cpu", "device": "auto", "gpus": dict.fromkeys(PODS, 0)}
    settings = Settings(scheme="http" if insecure else "https", **values, **(on_cpu if cpu else {}))
    click.echo(manifest(settings), nl=False)


@local.command(cls=flags.CheckedCommand)
@click.argument("dir", type=FOLDER)
@click.option(
    "--object",
    default="mug",
    show_default=True,
    help="mug, donut, duck, bowl or house; or a file with a textured mesh, y up.",
)
@flags.step_option(Sample, "capture", "Exact renders with their cameras, or pictures as shops have them, without.")
@flags.step_option(Sample, "size", "Side of the pictures in pixels.")
@flags.step_option(Sample, "depth_bits", "Bits of the depth renders.")
@flags.step_option(Sample, "views", "File names: front.png or view_0.png.")
@flags.step_option(Sample, "background", "What is around the object.")
@flags.step_option(Sample, "held_out", "Further views to judge results by.")
@flags.job_option("seed", "Seed of the held-out views and of a real capture.")
def sample(dir: Path, **values: Any) -> None:
    """Write an input set of a known object into DIR, with its cameras (unless a real capture is wanted) and the true mesh."""
    with tempfile.TemporaryDirectory() as outputs:
        parameters = contract.Sample(out=dir.absolute(), outputs=Path(outputs), **values)
        command = [sys.executable, "-m", "steps.sample", *contract.arguments(parameters)]
        code = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        if code:
            print_failure(read_json(Path(outputs) / "failure.json"))
            raise SystemExit(code)
    click.echo(f"Wrote {', '.join(sorted(p.name for p in dir.iterdir()))} to {dir}")
