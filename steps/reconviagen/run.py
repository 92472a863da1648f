"""reconviagen: a scene in, a textured mesh out, by one of two engines."""

from __future__ import annotations

from pathlib import Path

from steps.contracts import Reconviagen
from steps.files import write_json
from steps.formats import meshes, scene
from steps.reconviagen.engines import choose
from steps.reporter import Reporter


def run(parameters: Reconviagen, out: Path, reporter: Reporter) -> None:
    """Writes mesh.obj, .mtl, .ply, .glb, texture.png and model.json to `out`."""
    choice = choose(parameters)
    reporter.value("engine", choice.engine)
    reporter.value("device", choice.device)
    from steps import baseline  # only now: an engine that cannot run is refused without loading kernels

    reporter.stage("inference")
    taken = scene.load(parameters.scene)
    p = parameters
    settings = baseline.Settings(p.resolution, p.grid, p.faces, p.texture_size, taken.exact)
    parts, views = baseline.PARTS + 1, taken.views
    mesh, facts = baseline.reconstruct(views, settings, lambda part: reporter.progress(part, parts))
    reporter.stage("export")
    meshes.save(out, mesh)
    about = {
        "model": "reconviagen",
        "engine": choice.engine,
        "engine_reason": choice.reason,
        "device": choice.device,
        "seed": parameters.seed,
    }
    write_json(out / "model.json", {**about, **facts, "faces": len(mesh.faces), "vertices": len(mesh.vertices)})
    reporter.progress(parts, parts)
