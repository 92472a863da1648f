"""Real captures, whose cameras nobody knows: is the rig found, and what are the meshes worth?

`python -m tests.benchmarks captures` looks at the first COUNT seeds, whose depth is stored through each of the curves in turn, in
8 or 16 bits, before backgrounds of several kinds. Of MESHES of them it fuses a mesh, and another one of the same capture with
depth that is linear; of the first of each object it makes whole runs with both models, and draws them from between the views into
out/benchmarks/captures/meshes.png."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
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
from tests.benchmarks.common import table
from tests.benchmarks.true_objects import aligned, between
from tests.benchmarks.true_objects import similarity as similarity  # for who looks for it here

FOLDER = Path("out/benchmarks/captures")
COUNT = int(os.environ.get("SIXVIEW_CAPTURES", "300"))
MESHES = int(os.environ.get("SIXVIEW_MESHES", "80"))
WHOLE = int(os.environ.get("SIXVIEW_WHOLE_RUNS", str(len(objects.NAMES))))
MODELS = ("reconviagen", "nvdiffrec")
BETWEEN = 12  # views from random directions that meshes are judged by
# mean squared difference of colour, on the object and in any place of it, up to which two ways to dress it are the same: a little
# more than the choice asks for (rig_choice.ALIKE), which sees noisy pictures
SAME, SAME_EVERYWHERE = 0.012, 0.018
FAR_OFF = 1.0  # percent of the diagonal: a mesh further from the true one is wrong
ENOUGH = 64  # levels of depth from which a curve costs little
UP = np.array([0.0, 1.0, 0.0])


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


def main() -> None:
    verdicts = []
    for seed in range(COUNT):
        verdict = judge_capture(seed)
        verdicts.append(meshed(verdict) if seed * MESHES // COUNT < (seed + 1) * MESHES // COUNT else verdict)
        print(described(verdicts[-1]), flush=True)
    print_verdicts(verdicts)
    if WHOLE:
        print_whole_runs()


def print_whole_runs() -> None:
    rows = [[whole_run(seed, model) for model in MODELS] for seed in range(WHOLE)]
    for model, runs in zip(MODELS, zip(*rows, strict=True), strict=True):
        print_means(model, list(runs))
    draw(rows)


# -- rigs ---------------------------------------------------------------------------------------------------------------


def described(v: Verdict) -> str:
    word = "refused" if v.refused else "right" if v.right else "warned" if v.warned else "WRONG"
    mesh = f", Chamfer {v.chamfer:.2f} % ({v.plain:.2f} % linear)" if np.isfinite(v.chamfer) else ""
    return (
        f"{v.seed} {name_of(v.seed)} {v.curve}: {word}, field of view {v.off:+.2f} degrees{mesh}, {v.warnings} warnings, "
        f"{v.seconds:.1f} s"
    )


def print_verdicts(verdicts: list[Verdict]) -> None:
    found = [v for v in verdicts if not v.refused]
    good = [v for v in found if v.right and not v.chamfer > FAR_OFF]
    warned = [v.seed for v in found if v.warned and not v.right]
    far = [v.seed for v in found if abs(v.off) > 3]
    missed = [v.seed for v in found if abs(v.off) > 3 and abs(v.off) > 2 * v.std_error]
    print(
        f"{len(verdicts)} captures: {sum(v.right for v in found)} right, refused: {[v.seed for v in verdicts if v.refused]}, "
        f"silently wrong: {[v.seed for v in verdicts if v.silent]}"
    )
    print(f"wrong in a detail, and said so: {warned}")
    print(f"warnings on good ones: {[v.seed for v in good if v.warnings]} of {len(good)}")
    print(
        f"field of view off by {np.mean([abs(v.off) for v in found]):.2f} degrees in the mean, by more than 3 in: {far}, of "
        f"which by more than twice the error that the report names: {missed}"
    )
    plain = [v for v in found if v.curve in ("linear", "inverse")]
    print(f"depth encoding as it was in {sum(v.coded for v in plain)} of {len(plain)} without another curve")
    seconds = sorted(v.seconds for v in verdicts)
    print(f"the whole step validate: median {seconds[len(seconds) // 2]:.1f} s, slowest {seconds[-1]:.1f} s")
    table(
        ["curve", "captures", "right", "refused", "field of view off", "Chamfer %", "linear", "worst ratio"],
        _by_curve(verdicts),
    )


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


def name_of(seed: int, names: tuple[str, ...] = objects.NAMES) -> str:
    return names[seed % len(names)]


@functools.cache
def truth_of(name: str) -> GroundTruth:
    return sample.truth_of(objects.source(name))


def curve_of(seed: int, names: tuple[str, ...] = objects.NAMES) -> str:
    """One after another, and with every round of objects one later, so that each object has each of them."""
    return capture_depth.CURVES[(seed + seed // len(names)) % len(capture_depth.CURVES)]


def capture(seed: int, size: int = 512, names: tuple[str, ...] = objects.NAMES, curve: str = "") -> Path:
    """The set of a seed, with the depth's curve (none: as the sample has it); made once."""
    name = name_of(seed, names)
    folder = FOLDER / f"{seed}_{name}_{size}{curve and '_'}{curve}"
    if not (folder / "sample.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        parameters = Sample(out=folder, outputs=folder, object=name, capture="real", seed=seed, size=size)
        taken = realistic.varied_capture(seed, curve) if curve else realistic.random_capture(seed)
        sample.write_settings(truth_of(name), taken, parameters, folder)
    return folder


def judge_capture(seed: int, size: int = 512, names: tuple[str, ...] = objects.NAMES, curve: str = "") -> Verdict:
    """What validate makes of a capture. curve: "" for the one whose turn it is."""
    curve = curve or curve_of(seed, names)
    folder = capture(seed, size, names, curve)
    out = folder.with_suffix(".scene")
    began = time.perf_counter()
    code = _step("validate", "--input", folder, "--out", out, "--outputs", out.with_suffix(".outputs"))
    seconds = time.perf_counter() - began
    truth = json.loads((folder / "ground_truth" / "capture.json").read_text())
    if code in (10, 11):
        return Verdict(seed, False, True, 0.0, False, seconds, curve=curve, levels=truth["levels"])
    assert code == 0, (out.with_suffix(".outputs") / "message").read_text()
    found = compared(seed, name_of(seed, names), json.loads((out / "rig.json").read_text()), truth, seconds)
    notes = json.loads((out / "scene.json").read_text())["notes"]
    return replace(found, curve=curve, levels=truth["levels"], warnings=sum(n.startswith("WARNING") for n in notes))


def _step(name: str, *words: object) -> int:
    """The exit code of a step."""
    return subprocess.run(
        [sys.executable, "-m", f"steps.{name}", *map(str, words)], stderr=subprocess.DEVNULL, check=False
    ).returncode


def meshed(v: Verdict) -> Verdict:
    """With the Chamfer of the fused mesh, and of the one that the same capture gives where its depth is linear."""
    if v.refused:
        return v
    if v.curve == "linear":
        own = _chamfer(v.seed, v.curve)
        return replace(v, chamfer=own, plain=own)
    plain = float("nan") if judge_capture(v.seed, curve="linear").refused else _chamfer(v.seed, "linear")
    return replace(v, chamfer=_chamfer(v.seed, v.curve), plain=plain)


def _chamfer(seed: int, curve: str) -> float:
    """Percent of the true diagonal, of the mesh fused from the scene that `judge_capture` left."""
    folder = capture(seed, curve=curve)
    scene, out = folder.with_suffix(".scene"), folder.with_suffix(".mesh")
    code = _step(
        "reconviagen", "--scene", scene, "--out", out, "--outputs", out.with_suffix(".outputs"), "--engine", "fusion"
    )
    if code:
        return float("nan")
    mesh = mesh_files.load(out)
    behind = json.loads((folder / "ground_truth" / "capture.json").read_text())["front_is"] == "object"
    return 100 * aligned(mesh.vertices, mesh.faces, truth_of(name_of(seed)), behind)[1]


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


def whole_run(seed: int, model: str) -> Whole:
    words = ["run", capture(seed), "--out", run_folder(seed, model), "--model", model, "--restart", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", *map(str, words)], capture_output=True, text=True, check=False
    )
    result = measured(seed, model, json.loads(done.stdout))
    print(f"capture {seed} ({name_of(seed)}), {model}: {result}", flush=True)
    return result


def run_folder(seed: int, model: str) -> Path:
    return FOLDER / f"{seed}_{name_of(seed)}.{model}"


def measured(seed: int, model: str, summary: dict[str, Any]) -> Whole:
    code = summary["error"]["code"] if summary["error"] else ""
    quality_file = run_folder(seed, model) / model / "quality.json"
    if not quality_file.is_file():
        return Whole(seed, code)
    quality = json.loads(quality_file.read_text())
    mesh = mesh_files.load(run_folder(seed, model) / model)
    truth = truth_of(name_of(seed))
    behind = json.loads((capture(seed) / "ground_truth" / "capture.json").read_text())["front_is"] == "object"
    placed, chamfer = aligned(mesh.vertices, mesh.faces, truth, behind)
    seen = float(np.mean([between(placed, mesh, truth, c) for c in sample.random_cameras(BETWEEN, 384, 3)]))
    scores = quality["psnr"], quality["ssim"], quality["object"]["psnr"]
    return Whole(seed, code, *scores, 100 * chamfer, seen, summary["seconds"])


def print_means(model: str, runs: list[Whole]) -> None:
    made = [r for r in runs if np.isfinite(r.psnr)]
    mean = Whole(-1, "", *(float(np.mean([getattr(r, key) for r in made])) for key in list(Whole.__annotations__)[2:]))
    print(
        f"mean of {len(made)} of {len(runs)}, {model}: {mean}; slowest {max(r.seconds for r in made):.0f} s", flush=True
    )


# -- pictures -----------------------------------------------------------------------------------------------------------


def draw(rows: list[list[Whole]]) -> None:
    """A row for each capture: its front view, and each model's mesh from two directions between the views."""
    strips = [np.hstack([_input(runs[0].seed), *(_seen(runs[0].seed, model) for model in MODELS)]) for runs in rows]
    Image.fromarray(np.vstack(strips)).save(FOLDER / "meshes.png")


def _input(seed: int, side: int = 256) -> Array:
    picture = Image.open(capture(seed) / "multi_views" / "front.png").convert("RGB")
    return np.asarray(picture.resize((side, side)))


def _seen(seed: int, model: str, side: int = 256) -> Array:
    if not (run_folder(seed, model) / model / "mesh.obj").is_file():
        return np.full((side, 2 * side, 3), 255, np.uint8)
    mesh = mesh_files.load(run_folder(seed, model) / model)
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
