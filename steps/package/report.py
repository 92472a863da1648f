"""report/index.html: one self-contained page, without scripts."""

from __future__ import annotations

import base64
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from steps.package import chart
from steps.package.evidence import Job, Model
from steps.runtime.contract import OUTLINES, VIEW_NAMES

TEMPLATE = Path(__file__).with_name("report.html.j2")
CONTRADICTIONS = "contradictions.png"  # of validate: the views, with what others deny
PACKAGES = ("sixview", "numpy", "scipy", "numba", "scikit-image", "pillow", "xatlas", "fast-simplification", "torch")


def page(job: Job) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    models = [_model(model) for model in job.models]
    return environment.from_string(TEMPLATE.read_text()).render(
        status="failed" if job.failure or not all(m["q"] for m in models) else "passed",
        failure=job.failure,
        hypotheses=_hypotheses(job),
        warnings=[(step.name, warning) for step in job.steps for warning in step.warnings],
        contradictions=_embedded(job.folder / "outputs" / "validate" / CONTRADICTIONS),
        models=models,
        scored=[m for m in models if m["q"]],
        has_between=any(m["q"].get("between") for m in models if m["q"]),
        steps=job.steps,
        gpu=job.gpu,
        chart=Markup(chart.svg(job.steps)),
        facts=job_facts(job),
        rig=job.scene.get("found"),
        outlines=_embedded(job.folder / "outputs" / "validate" / OUTLINES),
    )


def _model(model: Model) -> dict[str, Any]:
    preview = model.folder / "preview"
    pictures = {kind: _pictures(preview, kind) for kind in ("textured", "wireframe", "compare")}
    engine = model.quality.get("engine")
    views = model.quality.get("views", [])
    return {
        "name": model.name,
        "title": f"{model.name} ({engine})" if engine else model.name,
        "q": model.quality,
        "pictures": any(pictures.values()),
        "iou": sum(entries) / len(entries) if (entries := [v["iou"] for v in views if v["iou"] is not None]) else None,
        "turntable": _embedded(preview / "turntable.webp"),
        "coverage": _embedded(model.folder / "mesh" / "coverage.png"),
        "seen": model.quality.get("settings", {}).get("seen"),
        **pictures,
    }


def _hypotheses(job: Job) -> list[dict[str, str]]:
    """The remaining rig hypotheses, each with its picture and the cameras.json line that selects it."""
    remaining = (job.failure or {}).get("details", {}).get("hypotheses", [])
    entries = [(h, _embedded(job.folder / "outputs" / "validate" / h["picture"])) for h in remaining]
    return [{"words": h["in_words"], "line": h["line"], "src": src} for h, src in entries]


def _pictures(folder: Path, kind: str) -> list[dict[str, str]]:
    named_pictures = [(name, _embedded(folder / f"{kind}_{i:02d}.png")) for i, name in enumerate(VIEW_NAMES)]
    return [{"name": name, "src": src} for name, src in named_pictures if src]


def _embedded(path: Path) -> str:
    """A file as a data URL, empty where it is missing."""
    if not path.is_file():
        return ""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def job_facts(job: Job) -> list[tuple[str, str]]:
    """(label, value) rows that identify the result: engine, device, seed, options, cameras, versions, machine."""
    rows = []
    for model in job.models:
        settings = model.quality.get("settings", {})
        rows += [
            (f"{model.name}: {key.replace('_', ' ')}", str(value))
            for key, value in _flat(settings).items()
            if key != "model"
        ]
        rows += [(f"{model.name}: scored on", model.quality.get("scored_on", ""))]
    rows += [(f"{step.name}: earlier attempts", step.values.get("earlier-attempts", "")) for step in job.steps]
    rows += [(f"{step.name}: notes", " ".join(step.notes)) for step in job.steps]
    rows += [(f"option {key}", str(value)) for key, value in job.options.items()]
    rows += [
        ("cameras", job.scene.get("rig", "")),
        ("masks from", job.scene.get("mask", "")),
        ("background", _background(job.scene)),
        ("notes", " ".join(job.scene.get("notes", []))),
    ]
    gpus = ", ".join(f"{g['name']} ({g['memory_mib']} MiB)" for g in job.preflight.get("gpus", []))
    rows += [("GPUs found", gpus or job.preflight.get("problem", "")), ("driver", job.preflight.get("driver", ""))]
    rows += [
        ("Python", platform.python_version()),
        ("system", platform.platform()),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions().items())),
    ]
    return [(key, value) for key, value in rows if value]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings flattened: keys joined with their parent's."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}: {k}": v for k, v in _flat(value).items()} if isinstance(value, dict) else {key: value}
    return flat


def _background(scene: dict[str, Any]) -> str:
    """Text of the background over which views and renders are composited for comparison."""
    if "background" not in scene:
        return ""
    code = "".join(f"{round(255 * c):02x}" for c in scene["background"])
    return f"#{code}, over which pictures and renders are compared" + (
        "; told from the frames of the views, and for each view where they differ"
        if scene.get("mask") != "alpha"
        else ""
    )


def versions() -> dict[str, str]:
    """Installed versions of the packages that can affect the result."""
    package_versions = {}
    for name in PACKAGES:
        try:
            package_versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return package_versions
