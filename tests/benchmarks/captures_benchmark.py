"""Real captures, whose cameras nobody knows: is the rig found, and what are the meshes worth?

`python -m tests.benchmarks captures` looks at the first SIXVIEW_CAPTURES seeds, whose depth is stored through each of the curves
in turn, in 8 or 16 bits, before backgrounds of several kinds. Of SIXVIEW_MESHES of them it fuses a mesh, and another one of the
same capture with depth that is linear; of the first SIXVIEW_WHOLE_RUNS, one of each object, it makes whole runs with both models,
and draws them from between the views into out/benchmarks/captures/meshes.png."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.calibration.hypotheses import axes_of, hypotheses
from steps.calibration.photometric import appearance_differences
from steps.compute.arrays import Array
from steps.geometry.cameras import look_at
from steps.io import mesh_files
from steps.raster.render import render_mesh
from steps.runtime.contract import Sample
from steps.sample import capture as realistic
from steps.sample import capture_depth
from steps.sample import run as sample
from steps.sample.render import GroundTruth
from steps.sample.render import render as true_render
from steps.validate.rig.messages import hypothesis_json
from tests.benchmarks import objects
from tests.benchmarks.common import COARSE, once, sixview
from tests.benchmarks.records import Run
from tests.benchmarks.true_objects import aligned, between
from tests.benchmarks.true_objects import similarity as similarity  # for who looks for it here

FOLDER = Path("out/benchmarks/captures")
# mean squared difference of colour, on the object and in any place of it, up to which two ways to dress it are the same: a little
# more than the choice asks for (rig_choice.ALIKE), which sees noisy pictures
SAME, SAME_EVERYWHERE = 0.012, 0.018
FAR_OFF = 1.0  # percent of the diagonal: a mesh further from the true one is wrong
ENOUGH = 64  # levels of depth from which a curve costs little
UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Kind:
    """What is captured and made of it. between: views from random directions that meshes are judged by; points: on their
    surfaces; flags: of the engine fusion."""

    side: int = 512
    names: tuple[str, ...] = objects.NAMES
    models: tuple[str, ...] = ("reconviagen", "nvdiffrec")
    between: int = 12
    points: int = 60_000
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """right: the rig is the true one, or leads to the same mesh (by the object itself, not by what the report says of it) and the
    report names the true one too; warned: a detail of the mesh is wrong, and the report says that it may be; refused:
    RIG_AMBIGUOUS, or VALIDATION_FAILED, before anything is made; std_error: the standard error of `off` that the report names;
    warnings: how many of the notes warn; chamfer, plain: of the fused mesh and of the one of linear depth, percent of the
    diagonal; levels: of depth, of 255."""

    seed: int
    right: bool
    refused: bool
    off: float  # degrees of field of view
    coded: bool  # whether the depth's encoding was found, too
    seconds: float
    warned: bool = False
    std_error: float = 0.0
    curve: str = "linear"
    warnings: int = 0
    levels: int = 255
    chamfer: float = float("nan")
    plain: float = float("nan")

    @property
    def silent(self) -> bool:
        """Whether something is wrong and nothing says so."""
        wrong = not self.right and not self.warned
        return not self.refused and not self.warnings and (wrong or self.chamfer > FAR_OFF)


def main(run: Run) -> None:
    kind = run.size(Kind(), Kind(256, ("mug",), ("reconviagen",), 1, 6_000, COARSE))
    count = int(run.variable("SIXVIEW_CAPTURES", run.size(300, 1)))
    meshes = int(run.variable("SIXVIEW_MESHES", run.size(80, 1)))
    whole = int(run.variable("SIXVIEW_WHOLE_RUNS", run.size(len(kind.names), 1)))
    verdicts = []
    for seed in range(count):
        verdict = judge_capture(seed, kind)
        chosen = seed * meshes // count < (seed + 1) * meshes // count
        verdicts.append(meshed(verdict, kind) if chosen else verdict)
        print(described(verdicts[-1], kind), flush=True)
    report(run, verdicts)
    if whole:
        rows = [[whole_run(seed, model, kind) for model in kind.models] for seed in range(whole)]
        for model, runs in zip(kind.models, zip(*rows, strict=True), strict=True):
            run.table(f"Whole runs, {model}", WHOLE, of_model(list(runs), kind))
        draw(rows, kind)


# -- rigs ---------------------------------------------------------------------------------------------------------------


def described(v: Verdict, kind: Kind) -> str:
    word = "refused" if v.refused else "right" if v.right else "warned" if v.warned else "WRONG"
    mesh = f", Chamfer {v.chamfer:.2f} % ({v.plain:.2f} % linear)" if np.isfinite(v.chamfer) else ""
    return (
        f"{v.seed} {name_of(v.seed, kind.names)} {v.curve}: {word}, field of view {v.off:+.2f} degrees{mesh}, "
        f"{v.warnings} warnings, {v.seconds:.1f} s"
    )


CURVES = (
    "curve",
    "captures",
    "right",
    "refused",
    "field of view off, degrees",
    "Chamfer-L1, %",
    "with linear depth, %",
    "worst ratio",
)


def report(run: Run, verdicts: list[Verdict]) -> None:
    """A table by curve, and what is to be said of all captures together."""
    run.table("", CURVES, _by_curve(verdicts))
    found = [v for v in verdicts if not v.refused]
    good = [v for v in found if v.right and not v.chamfer > FAR_OFF]
    warned = [v.seed for v in found if v.warned and not v.right]
    far = [v.seed for v in found if abs(v.off) > 3]
    missed = [v.seed for v in found if abs(v.off) > 3 and abs(v.off) > 2 * v.std_error]
    run.note(
        f"{len(verdicts)} captures: {sum(v.right for v in found)} right, refused: {[v.seed for v in verdicts if v.refused]}, "
        f"silently wrong: {[v.seed for v in verdicts if v.silent]}, wrong in a detail with a warning: {warned}."
    )
    run.note(f"Warnings on good ones: {[v.seed for v in good if v.warnings]} of {len(good)}.")
    off = np.mean([abs(v.off) for v in found]) if found else np.nan
    run.note(
        f"Field of view off by {off:.2f} degrees in the mean, by more than 3 in {far}, of which by more than twice the error "
        f"that the report names: {missed}."
    )
    plain = [v for v in found if v.curve in ("linear", "inverse")]
    run.note(f"Depth encoding as it was in {sum(v.coded for v in plain)} of {len(plain)} without another curve.")
    seconds = sorted(v.seconds for v in verdicts)
    run.note(f"The whole step validate: median {seconds[len(seconds) // 2]:.1f} s, slowest {seconds[-1]:.1f} s.")


def _by_curve(verdicts: list[Verdict]) -> list[list[object]]:
    rows: list[list[object]] = []
    for curve in capture_depth.CURVES:
        every = [v for v in verdicts if v.curve == curve]
        if not every:
            continue
        found = [v for v in every if not v.refused]
        meshes_of = [v for v in found if np.isfinite(v.chamfer + v.plain) and v.levels >= ENOUGH]
        chamfers, plains = ([getattr(v, key) for v in meshes_of] or [np.nan] for key in ("chamfer", "plain"))
        off = np.mean([abs(v.off) for v in found]) if found else np.nan
        worst = max(c / p for c, p in zip(chamfers, plains, strict=True))
        counts = len(every), sum(v.right for v in found), len(every) - len(found)
        rows.append([curve, *counts, off, np.mean(chamfers), np.mean(plains), worst])
    return rows


def name_of(seed: int, names: tuple[str, ...]) -> str:
    return names[seed % len(names)]


@functools.cache
def truth_of(name: str) -> GroundTruth:
    return sample.truth_of(objects.source(name))


def curve_of(seed: int, names: tuple[str, ...]) -> str:
    """One after another, and with every round of objects one later, so that each object has each of them."""
    return capture_depth.CURVES[(seed + seed // len(names)) % len(capture_depth.CURVES)]


def capture(seed: int, kind: Kind, curve: str = "") -> Path:
    """The set of a seed, with the depth's curve (none: as the sample has it); made once."""
    name = name_of(seed, kind.names)

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parameters = Sample(out=folder, outputs=folder, object=name, capture="real", seed=seed, size=kind.side)
        taken = realistic.varied_capture(seed, curve) if curve else realistic.random_capture(seed)
        sample.write_settings(truth_of(name), taken, parameters, folder)

    return once(FOLDER / f"{seed}_{name}_{kind.side}{curve and '_'}{curve}", make)


def judge_capture(seed: int, kind: Kind, curve: str = "") -> Verdict:
    """What validate makes of a capture. curve: "" for the one whose turn it is."""
    curve = curve or curve_of(seed, kind.names)
    folder = capture(seed, kind, curve)
    out = folder.with_suffix(".scene")
    began = time.perf_counter()
    code = _step("validate", "--input", folder, "--out", out, "--outputs", out.with_suffix(".outputs"))
    seconds = time.perf_counter() - began
    truth = json.loads((folder / "ground_truth" / "capture.json").read_text())
    if code in (10, 11):
        return Verdict(seed, False, True, 0.0, False, seconds, curve=curve, levels=truth["levels"])
    assert code == 0, (out.with_suffix(".outputs") / "message").read_text()
    found = compared(seed, name_of(seed, kind.names), json.loads((out / "rig.json").read_text()), truth, seconds)
    notes = json.loads((out / "scene.json").read_text())["notes"]
    return replace(found, curve=curve, levels=truth["levels"], warnings=sum(n.startswith("WARNING") for n in notes))


def _step(name: str, *words: object) -> int:
    """The exit code of a step."""
    return subprocess.run(
        [sys.executable, "-m", f"steps.{name}", *map(str, words)], stderr=subprocess.DEVNULL, check=False
    ).returncode


def meshed(v: Verdict, kind: Kind) -> Verdict:
    """With the Chamfer of the fused mesh, and of the one that the same capture gives where its depth is linear."""
    if v.refused:
        return v
    if v.curve == "linear":
        own = _chamfer(v.seed, v.curve, kind)
        return replace(v, chamfer=own, plain=own)
    plain = float("nan") if judge_capture(v.seed, kind, "linear").refused else _chamfer(v.seed, "linear", kind)
    return replace(v, chamfer=_chamfer(v.seed, v.curve, kind), plain=plain)


def _chamfer(seed: int, curve: str, kind: Kind) -> float:
    """Percent of the true diagonal, of the mesh fused from the scene that `judge_capture` left."""
    folder = capture(seed, kind, curve)
    scene, out = folder.with_suffix(".scene"), folder.with_suffix(".mesh")
    words = "--scene", scene, "--out", out, "--outputs", out.with_suffix(".outputs"), "--engine", "fusion"
    code = _step("reconviagen", *words, *kind.flags)
    if code:
        return float("nan")
    mesh = mesh_files.load(out)
    behind = json.loads((folder / "ground_truth" / "capture.json").read_text())["front_is"] == "object"
    return 100 * aligned(mesh.vertices, mesh.faces, truth_of(name_of(seed, kind.names)), behind, kind.points)[1]


def compared(seed: int, name: str, found: dict[str, Any], truth: dict[str, Any], seconds: float) -> Verdict:
    """rig.json beside what was drawn. Without perspective all encodings are one."""
    if "reading" not in found:  # the canonical rig, by chance
        return Verdict(seed, False, False, 0.0, False, seconds)
    true = reading_of(truth)
    said = true in [*found["alike"], *found["nearly_alike"]]
    right = true == found["reading"] or (said and same_mesh(seed, name, true, found["reading"]))
    coded = (found["encoding"], found["distance"], found["curve"]) == (truth["encoding"], truth["distance"], None)
    off = found["field_of_view"] - truth["field_of_view"]
    orthographic = truth["field_of_view"] == 0
    warned, std_error = true in found["nearly_alike"], found["field_of_view_error"]
    return Verdict(seed, right, False, off, coded or orthographic, seconds, warned, std_error)


def same_mesh(seed: int, name: str, true: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether both readings dress the object alike: clean views without light, where each has them."""
    taken = replace(realistic.random_capture(seed), side=(256, 256))
    pictures = [true_render(truth_of(name), camera)[0] for camera in realistic.cameras(truth_of(name), taken)]
    masks = [(picture[..., 3] > 0.5).astype(np.float64) for picture in pictures]
    one, other = (next(axes_of(r) for r in hypotheses() if hypothesis_json(r) == wanted) for wanted in (true, found))
    unlit = np.zeros((*np.shape(masks), 3))
    much = appearance_differences([picture[..., :3] for picture in pictures], masks, unlit, one, [other])[0]
    return much.overall <= SAME and much.local <= SAME_EVERYWHERE


def reading_of(truth: dict[str, Any]) -> dict[str, Any]:
    """The true reading as rig.json has it, where the view called front is the front: a back that is called front turns everything
    by 180 degrees about y, so that whose left is meant changes, and top and bottom are turned half round."""
    behind = truth["front_is"] == "object"
    left = "object" if (truth["left_is"] == "object") != behind else "viewer"
    top, bottom = (90 * ((turns + 2 * behind) % 4) for turns in truth["rolls"])
    return {"left_is": left, "top_turned": top, "bottom_turned": bottom}


# -- meshes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One run. code: of its failure; psnr, ssim: at the inputs, full frame; inner: object only; chamfer: percent of the diagonal,
    after similarity alignment; between: views that nobody gave, object only, in dB; seconds: of the whole run."""

    seed: int
    code: str
    psnr: float = float("nan")
    ssim: float = float("nan")
    inner: float = float("nan")
    chamfer: float = float("nan")
    between: float = float("nan")
    seconds: float = float("nan")

    def __str__(self) -> str:
        if self.code and self.code != "QUALITY_THRESHOLD_FAILED":
            return self.code
        return (
            f"{self.psnr:.2f} dB, SSIM {self.ssim:.3f}, object {self.inner:.2f} dB, Chamfer {self.chamfer:.2f} %, "
            f"between {self.between:.2f} dB, {self.seconds:.0f} s {self.code}"
        )


WHOLE = (
    "capture",
    "ended",
    "PSNR, dB",
    "SSIM",
    "object, dB",
    "Chamfer-L1, %",
    "between, dB",
    "whole run, s",
)


def whole_run(seed: int, model: str, kind: Kind) -> Whole:
    folder, taken = run_folder(seed, model, kind), capture(seed, kind)
    done = sixview("run", taken, "--out", folder, "--model", model, "--restart", "--json", *kind.flags)
    behind = json.loads((taken / "ground_truth" / "capture.json").read_text())["front_is"] == "object"
    result = measured(Whole(seed, ""), folder / model, json.loads(done.stdout), behind, kind)
    print(f"capture {seed} ({name_of(seed, kind.names)}), {model}: {result}", flush=True)
    return result


def run_folder(seed: int, model: str, kind: Kind) -> Path:
    return FOLDER / f"{seed}_{name_of(seed, kind.names)}_{kind.side}.{model}"


def measured(run: Whole, folder: Path, summary: dict[str, Any], behind: bool, kind: Kind) -> Whole:
    """A run with what its mesh in `folder` is worth. behind: whether its front is the object's back."""
    code = summary["error"]["code"] if summary["error"] else ""
    if not (folder / "quality.json").is_file():
        return replace(run, code=code)
    quality = json.loads((folder / "quality.json").read_text())
    mesh, truth = mesh_files.load(folder), truth_of(name_of(run.seed, kind.names))
    placed, chamfer = aligned(mesh.vertices, mesh.faces, truth, behind, kind.points)
    seen = float(np.mean([between(placed, mesh, truth, c) for c in sample.random_cameras(kind.between, 384, 3)]))
    scores = quality["psnr"], quality["ssim"], quality["object"]["psnr"]
    return Whole(run.seed, code, *scores, 100 * chamfer, seen, summary["seconds"])


def of_model(runs: list[Whole], kind: Kind) -> list[list[object]]:
    """A row for each run of a model, and one of the means of those that made a mesh."""
    cells = [list(astuple(run)[2:]) for run in runs]
    made = [row for row in cells if np.isfinite(row[0])]
    means = np.mean(made, axis=0).tolist() if made else [np.nan] * len(cells[0])
    names = [name_of(run.seed, kind.names) for run in runs]
    rows: list[list[object]] = [
        [n, run.code or "completed", *row] for n, run, row in zip(names, runs, cells, strict=True)
    ]
    return [*rows, ["mean", f"{len(made)} of {len(runs)}", *means]]


# -- pictures -----------------------------------------------------------------------------------------------------------


def draw(rows: list[list[Whole]], kind: Kind) -> None:
    """A row for each capture: its front view, and each model's mesh from two directions between the views."""
    seeds = [runs[0].seed for runs in rows]
    strips = [
        np.hstack([_input(capture(s, kind)), *(_seen(run_folder(s, m, kind) / m) for m in kind.models)]) for s in seeds
    ]
    Image.fromarray(np.vstack(strips)).save(FOLDER / "meshes.png")


def _input(taken: Path, side: int = 256) -> Array:
    picture = Image.open(taken / "multi_views" / "front.png").convert("RGB")
    return np.asarray(picture.resize((side, side)))


def _seen(folder: Path, side: int = 256) -> Array:
    if not (folder / "mesh.obj").is_file():
        return np.full((side, 2 * side, 3), 255, np.uint8)
    mesh = mesh_files.load(folder)
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    centred = replace(mesh, vertices=mesh.vertices - middle)
    radius = float(np.linalg.norm(centred.vertices, axis=1).max())
    tiles = []
    for direction in ((0.6, 0.45, 0.75), (-0.7, -0.35, -0.65)):
        back = np.array(direction) / np.linalg.norm(direction)
        camera = look_at("between", back * 3.2 * radius, UP, 2 * side, 2 * side * 1.45)
        rgba = render_mesh(centred, camera)
        pixels = np.clip(rgba[..., :3] + 1 - rgba[..., 3:], 0, 1)
        tiles.append(np.asarray(Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).resize((side, side))))
    return np.hstack(tiles)
