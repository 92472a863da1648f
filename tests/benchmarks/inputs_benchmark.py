"""Inputs as people's tools write them: every case of `tests.cases`, as a whole run beside that of the unchanged sample.

`python -m tests.benchmarks inputs` prints the table; SIXVIEW_CASES=units,depths or names of cases choose some of it. Each run's
results lie in out/benchmarks/inputs/<case>."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from steps.compute.arrays import Array
from steps.io import mesh_files
from tests import cases
from tests.benchmarks.common import COARSE, WORK, once, sixview
from tests.benchmarks.records import Run
from tests.benchmarks.true_objects import similarity
from tests.cases.kit import Case

FOLDER = WORK / "inputs"
HEADER = (
    "case",
    "PSNR, dB",
    "object, dB",
    "clean object, dB",
    "Chamfer-L1, %",
    "clean Chamfer-L1, %",
    "closed",
    "warnings",
    "ended",
    "is",
)
SMALLEST = "names upper case fields,cam_wrong zero_fy"  # a mesh and a refusal
POINTS = 40_000
NEARLY = 0.05  # dB and percent of the diagonal: what may differ of itself


@dataclass(frozen=True)
class Result:
    """One run. code: of its failure; psnr, inner: at the inputs, full frame and object only, dB; chamfer: percent of the true
    diagonal after similarity alignment; said: notes and error in one text; warnings: how many of the notes warn."""

    code: str
    psnr: float = float("nan")
    inner: float = float("nan")
    chamfer: float = float("nan")
    closed: bool = False
    said: str = ""
    warnings: int = 0


def main(run: Run) -> None:
    chosen_names = run.variable("SIXVIEW_CASES", run.size("", SMALLEST))
    wanted = {name for name in (chosen_names, *chosen_names.split(",")) if name}  # a name may have a comma
    everything = [(topic, case) for topic, of_topic in cases.by_topic().items() for case in of_topic]
    chosen = [case for topic, case in everything if not wanted or wanted & {topic, case.name}]
    flags, points = run.size((), COARSE), run.size(POINTS, 4_000)
    clean: dict[tuple[str, ...], Result] = {}
    rows, wrong = [], []
    for case in chosen:
        source = sample(case.base)
        if case.base not in clean:
            clean[case.base] = tried(source, FOLDER / f"clean_{source.name}", source, points, *flags)
        given = case.write(source, FOLDER / f"{case.name}.input")
        result = tried(given, FOLDER / case.name, source, points, *flags, *case.flags)
        verdict = judge_case(case, result, clean[case.base])
        wrong += [case.name] if verdict != "right" else []
        rows.append(row_of(case, result, clean[case.base], verdict))
        print(f"{case.name}: {verdict}", flush=True)
    run.table("", HEADER, rows)
    run.note(f"{len(chosen)} cases, {len(chosen) - len(wrong)} right; not right: {', '.join(wrong) or 'none'}.")


def row_of(case: Case, result: Result, clean: Result, verdict: str) -> list[object]:
    scores = [result.psnr, result.inner, clean.inner, result.chamfer, clean.chamfer]
    return [case.name, *scores, "yes" if result.closed else "no", result.warnings, result.code or "completed", verdict]


def judge_case(case: Case, result: Result, clean: Result) -> str:
    """`right`, or what is not."""
    allowed = {case.code, case.or_code} if case.or_code else {case.code}
    if result.code not in allowed:
        return f"ends with {result.code or 'a mesh'} instead of {' or '.join(sorted(c or 'a mesh' for c in allowed))}"
    unsaid = [words for words in case.says if words not in result.said]
    if unsaid:
        return f"does not say {unsaid[0]!r}"
    if result.code:
        return "right"
    if math.isnan(result.inner + result.chamfer):
        return "leaves a mesh that was not measured"
    if case.loss is not None and not result.inner >= clean.inner - case.loss - NEARLY:  # not either of them NaN
        return f"loses {clean.inner - result.inner:.2f} dB of at most {case.loss:g}"
    if case.ratio is not None and not result.chamfer <= case.ratio * clean.chamfer + NEARLY / 10:
        return f"Chamfer is {result.chamfer / clean.chamfer:.2f} times the clean one, of at most {case.ratio:g}"
    return "right" if result.closed or not case.closed else "not closed"


def sample(flags: tuple[str, ...]) -> Path:
    """The sample of these flags; made once."""
    name = "_".join(flag.strip("-").replace("/", "_") for flag in flags)
    return once(FOLDER / "samples" / name, lambda folder: sixview("sample", folder, *flags).check_returncode())


def tried(source: Path, out: Path, truth: Path, points: int, *flags: str) -> Result:
    """A whole run, judged."""
    done = sixview("run", source, "--out", out, "--restart", "--json", *flags)
    try:
        summary: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:  # it ended before it could say anything
        return Result("NO RESULT", said=done.stdout + done.stderr)
    error = summary["error"] or {}
    notes = notes_of(out / ".sixview")
    said = " ".join(
        [*notes, error.get("message", ""), error.get("suggestion", ""), json.dumps(error.get("details", ""))]
    )
    warnings = sum(note.startswith("WARNING") for note in notes)
    quality_file = out / "reconviagen" / "quality.json"
    if not quality_file.is_file():
        return Result(error.get("code", ""), said=said, warnings=warnings)
    quality = json.loads(quality_file.read_text())
    mesh = mesh_files.load(out / "reconviagen")
    scores = quality["psnr"], quality["object"]["psnr"], chamfer(mesh.vertices, mesh.faces, truth, points)
    return Result(error.get("code", ""), *scores, quality["mesh"]["watertight"], said, warnings)


def notes_of(state: Path) -> list[str]:
    files = state / "scene" / "scene.json", state / "reconviagen" / "mesh" / "model.json"
    return [note for file in files if file.is_file() for note in json.loads(file.read_text()).get("notes", [])]


def chamfer(vertices: Array, faces: Array, sample_folder: Path, points: int) -> float:
    """Chamfer-L1 in percent of the true diagonal after the similarity transform that fits best: units and places differ, and a
    rig that was found knows no scale."""
    truth = trimesh.load_mesh(sample_folder / "ground_truth" / "mesh.ply", process=False)
    result = trimesh.Trimesh(np.asarray(vertices, np.float64), faces, process=False)
    a, b = (np.asarray(trimesh.sample.sample_surface(m, points, seed=0)[0]) for m in (result, truth))
    larger = np.linalg.norm(np.ptp(b, axis=0)) / np.linalg.norm(np.ptp(a, axis=0))
    start = (a - a.mean(axis=0)) * larger + b.mean(axis=0)
    tree = cKDTree(b)
    moved = start
    for _ in range(30):
        scale, turn, shift = similarity(start, b[tree.query(moved, workers=-1)[1]])
        moved = scale * start @ turn.T + shift
    both = tree.query(moved, workers=-1)[0].mean() + cKDTree(moved).query(b, workers=-1)[0].mean()
    return float(50 * both / np.linalg.norm(np.ptp(b, axis=0)))
