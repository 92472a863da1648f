"""package: the report, then the ZIP."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from steps.package import archive, report
from steps.package.evidence import Job, gather
from steps.runtime import devices
from steps.runtime.contract import Package
from steps.runtime.errors import IncompleteResults
from steps.runtime.files import write_atomically, write_json
from steps.runtime.reporter import Reporter


def run(parameters: Package, out: Path, reporter: Reporter) -> None:
    """Writes report/index.html, run.json and result.zip to `out`; no result.zip where a step that failed left nothing to pack.

    Raises IncompleteResults where required files are missing and no step says why; the report is still written. Raises
    GpuUnavailable where no step has failed and `device` is cuda without a usable GPU."""
    job = gather(parameters.job, parameters.models.split(","))
    # after a failure, which may be of this very GPU, the report of it is what is wanted: nothing of a package that fails is kept
    if parameters.device == "cuda" and not job.failure:
        devices.preflight(parameters.device)
    (out / "report").mkdir()
    write_atomically(out / "report" / "index.html", report.page(job))
    write_json(out / "run.json", run_facts(job))
    reporter.progress(1, 2)
    if not (job.failure and missing_required(job)):
        write_archive(job, out)
    reporter.progress(2, 2)


def missing_required(job: Job) -> list[str]:
    """Files without which there is no result, and which are not there."""
    return [f"{m.name}/{name}" for m in job.models for name in m.missing_required()]


def write_archive(job: Job, out: Path) -> None:
    """result.zip and manifest.json."""
    required = missing_required(job)
    if required:
        raise IncompleteResults(f"The result would lack {', '.join(required)}.", missing=required)
    missing = [f"{m.name}/{name}" for m in job.models for name in m.missing()]
    files = archive.archive_files(job.models, out / "report", out / "run.json")
    listing = archive.manifest(files, missing)
    write_json(out / "manifest.json", listing)
    archive.write(out / "result.zip", files, listing)


def run_facts(job: Job) -> dict[str, Any]:
    """run.json: what varies from run to run."""
    steps = {step.name: {**step.values, "stages": step.stages, "notes": step.notes} for step in job.steps}
    host = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    return {
        "format": "sixview-run/1",
        "options": job.options,
        "steps": steps,
        "host": host,
        "versions": report.versions(),
        "preflight": job.preflight,
        "failure": job.failure,
    }
