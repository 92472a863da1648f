"""reconviagen: a scene in, a textured mesh out, by one of two engines."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps.io import mesh_files, scene
from steps.reconviagen.engines import Choice, choose
from steps.runtime.attempts import Attempts
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import ModelVramOom
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter

Made = tuple[mesh_files.Mesh, dict[str, Any]]
COVERAGE = "coverage.png"  # what the views saw of the mesh, and what the model made up


def run(parameters: Reconviagen, out: Path, reporter: Reporter) -> None:
    """Writes mesh.obj, .mtl, .ply, .glb, texture.png and model.json to `out`, and with the published model coverage.png."""
    if parameters.engine == "reconviagen":
        reporter.value("engine", "reconviagen")  # asked for by name: a failure must name it, too
    choice = choose(parameters)
    reporter.value("engine", choice.engine)
    reporter.value("device", choice.device)
    taken = scene.load(parameters.scene)
    mesh, facts = (published if choice.engine == "reconviagen" else fused)(parameters, choice, taken, reporter, out)
    mesh_files.save(out, mesh, taken.frame)
    about = {
        "model": "reconviagen",
        "engine": choice.engine,
        "engine_reason": choice.reason,
        "device": choice.device,
        "seed": parameters.seed,
    }
    write_json(out / "model.json", {**about, **facts, "faces": len(mesh.faces), "vertices": len(mesh.vertices)})
    reporter.progress(1, 1)


def fused(p: Reconviagen, choice: Choice, taken: scene.Scene, reporter: Reporter, out: Path) -> Made:
    """By depth fusion."""
    from steps.fusion import reconstruct  # only now: an engine that cannot run is refused without loading kernels

    reporter.stage("inference")
    settings = reconstruct.Settings(p.resolution, p.grid, p.faces, p.texture_size, taken.exact)
    parts = reconstruct.PARTS + 1
    found = reconstruct.reconstruct(taken.views, settings, lambda part: reporter.progress(part, parts))
    reporter.stage("export")
    mesh, facts = found
    for note in facts["notes"]:
        reporter.note(note)
    return mesh, {**facts, "voxel": taken.frame.length_out(facts["voxel"])}


def published(p: Reconviagen, choice: Choice, taken: scene.Scene, reporter: Reporter, out: Path) -> Made:
    """By the published model, whose mesh is laid where the cameras say and wears the photographs."""
    from steps.fusion import reconstruct
    from steps.reconviagen import model, placing

    ladder = model.rungs(p)
    attempts = Attempts(p.attempts)
    if attempts.note:
        reporter.note(attempts.note)
    index = attempts.first(ladder)
    reporter.value("rungs-left", len(ladder) - 1 - index)
    with tempfile.TemporaryDirectory(prefix="reconviagen-") as work:
        asked = model.Model(p, choice.device, ladder[index], taken.views, Path(work), reporter)
        with attempts.recorded(ladder[index], ModelVramOom, lambda: asked.peak_vram_mib):
            made = asked.generated()
            found = placing.placed(made, taken.views)
            reporter.progress(model.PLACE, 100)
            if ladder[index].refine:
                made = asked.refined(found.pose)
                found = placing.placed(made, taken.views)
            settings = reconstruct.Settings(p.resolution, p.grid, p.faces, p.texture_size, taken.exact)
            mesh, facts, unseen = placing.dressed(made, found, taken.views, settings)
            placing.coverage(mesh, unseen, out / COVERAGE)
        told = {
            "rung": asdict(ladder[0]) | {"stood_on": asdict(ladder[index])},
            "registration": placing.facts(found, mesh, taken),
        }
        return mesh, {**facts, **asked.facts(), **told}
