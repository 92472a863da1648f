"""reconviagen: a scene in, a textured mesh out, by one of two engines."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps.compute.device import peak_memory_mib
from steps.io import mesh_files, scene
from steps.reconviagen.engines import Choice, choose
from steps.runtime.attempts import Attempts
from steps.runtime.contract import Reconviagen
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter

Result = tuple[mesh_files.Mesh, dict[str, Any]]
COVERAGE = "coverage.png"  # what the views saw of the mesh, and what the model made up


def run(parameters: Reconviagen, out: Path, reporter: Reporter) -> None:
    """Writes mesh.obj, .mtl, .ply, .glb, texture.png and model.json to `out`, and with the published model coverage.png."""
    if parameters.engine == "reconviagen":
        reporter.value("engine", "reconviagen")  # asked for by name: a failure must name it, too
    choice = choose(parameters, reporter.note)
    reporter.value("engine", choice.engine)
    reporter.value("device", choice.device)
    loaded = scene.load(parameters.scene)
    mesh, engine_metadata = RUNS[choice.engine](parameters, choice, loaded, reporter, out)
    mesh_files.save(out, mesh, loaded.frame)
    metadata = {
        "model": "reconviagen",
        "engine": choice.engine,
        "engine_reason": choice.reason,
        "device": choice.device,
        "textured_on": choice.texturing,
        "seed": parameters.seed,
    }
    write_json(
        out / "model.json", {**metadata, **engine_metadata, "faces": len(mesh.faces), "vertices": len(mesh.vertices)}
    )
    reporter.progress(1, 1)


def run_fusion(p: Reconviagen, choice: Choice, loaded: scene.Scene, reporter: Reporter, out: Path) -> Result:
    """The engine `fusion`."""
    from steps.fusion import reconstruct  # only now: an engine that cannot run is refused without loading kernels

    reporter.stage("inference")
    settings = reconstruct.Settings(p.resolution, p.grid, p.faces, p.texture_size, loaded.exact, choice.texturing)
    parts = reconstruct.PARTS + 1
    result = reconstruct.reconstruct(loaded.views, settings, lambda part: reporter.progress(part, parts))
    reporter.value("peak-vram-mib", peak_memory_mib(choice.device))
    reporter.stage("export")
    mesh, metadata = result
    for note in metadata["notes"]:
        reporter.note(note)
    return mesh, {**metadata, "voxel": loaded.frame.length_out(metadata["voxel"])}


def run_published_model(p: Reconviagen, choice: Choice, loaded: scene.Scene, reporter: Reporter, out: Path) -> Result:
    """The published model, its mesh registered to the views and textured from them."""
    from steps.fusion import reconstruct
    from steps.reconviagen import model, placing

    levels = model.memory_levels(p)
    attempts = Attempts(p.attempts)
    if attempts.note:
        reporter.note(attempts.note)
    index = attempts.first(levels)
    reporter.value("rungs-left", len(levels) - 1 - index)  # levels below: a public name
    with tempfile.TemporaryDirectory(prefix="reconviagen-") as folder:
        published = model.Model(p, choice.device, levels[index], loaded.views, Path(folder), reporter)
        with attempts.recorded(levels[index], lambda: published.peak_vram_mib):
            generated = published.generated()
            registration = placing.register_mesh(generated, loaded.views)
            reporter.progress(model.PLACE, 100)
            if levels[index].refine:
                generated = published.refined(registration.pose)
                registration = placing.register_mesh(generated, loaded.views)
            settings = reconstruct.Settings(
                p.resolution, p.grid, p.faces, p.texture_size, loaded.exact, choice.texturing
            )
            mesh, metadata, unseen = placing.texture_registered(generated, registration, loaded.views, settings)
            placing.write_coverage(mesh, unseen, out / COVERAGE)
        registration_metadata = {
            # memory levels, requested and used ("stood_on"): public names
            "rung": asdict(levels[0]) | {"stood_on": asdict(levels[index])},
            "registration": placing.metadata(registration, mesh, loaded),
        }
        return mesh, {**metadata, **published.metadata(), **registration_metadata}


RUNS = {"reconviagen": run_published_model, "fusion": run_fusion}
