"""Seconds of each step and stage of a job, on the CPU and on the GPU, and for how much of its time a step kept its GPU busy."""

from __future__ import annotations

from pathlib import Path

from steps.runtime.files import read_text
from steps.runtime.reporter import read_stages
from tests.gpu import jobs
from tests.gpu.jobs import MODEL, Job
from tests.gpu.kit import Kit

RESERVE = 150.0  # seconds for the section nvdiffrec
OBJECT, SIDES = "mug", (512, 1024, 2048)
STEPS = ("validate", MODEL, f"{MODEL}.quality", f"{MODEL}.preview", "package")
HEADER = (
    *("px", "step", "on the CPU, s", "on the GPU, s", "of that start, s", "of that compiling, s"),
    *("GPU held, s", "GPU busy, s", "busy of held, %"),
)
STAGES = ("px", "step", "stage", "on the CPU, s", "on the GPU, s")


def section(kit: Kit) -> None:
    """First the jobs on the GPU; those on the CPU leave time for what comes after."""
    sides = (jobs.REHEARSED_SIDE,) if kit.rehearsal else SIDES
    jobs.of(kit).prepare([OBJECT], sides)
    on_gpu = {side: jobs.of(kit).get(OBJECT, side, True) for side in sides}
    reserve = 0.0 if kit.rehearsal else RESERVE
    on_cpu = {side: jobs.of(kit).get(OBJECT, side, False, reserve) for side in sides}
    found = {side: (on_cpu[side], job) for side, job in on_gpu.items() if job is not None}
    for side, (_, job) in found.items():
        if job.summary.get("status") != "completed":
            kit.wrong.append(f"The job of the {OBJECT} at {side} px did not complete on the GPU.")
    rows = [row(side, step, *both) for side, both in found.items() for step in STEPS]
    kit.table(f"Steps of the {OBJECT}'s job", HEADER, rows)
    stages = [line for side, both in found.items() for step in STEPS for line in stages_of(side, step, *both)]
    kit.table(f"Stages of the {OBJECT}'s job", STAGES, stages)


def row(side: int, step: str, on_cpu: Job | None, on_gpu: Job) -> list[object]:
    seconds = (number(outputs(job, step) / "seconds") for job in (on_cpu, on_gpu))
    of_that = (number(outputs(on_gpu, step) / f"{what}-seconds") for what in ("startup", "compile"))
    held, busy = (number(outputs(on_gpu, step) / f"gpu-{what}-seconds") for what in ("held", "busy"))
    return [side, step, *seconds, *of_that, held, busy, 100 * busy / held if held and busy is not None else None]


def stages_of(side: int, step: str, on_cpu: Job | None, on_gpu: Job) -> list[list[object]]:
    """A row for each stage of a step, in order; a stage may come twice, and then counts once, with its sum."""
    before, after = seconds_of(on_cpu, step), seconds_of(on_gpu, step)
    return [[side, step, stage, before.get(stage), after.get(stage)] for stage in dict.fromkeys([*before, *after])]


def seconds_of(job: Job | None, step: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in read_stages(outputs(job, step)):
        found[entry["stage"]] = found.get(entry["stage"], 0.0) + entry["seconds"]
    return found


def outputs(job: Job | None, step: str) -> Path:
    return (job.folder if job else Path("none")) / ".sixview" / "outputs" / step


def number(path: Path) -> float | None:
    """The number in a small output file; None without one."""
    try:
        return float(read_text(path))
    except ValueError:
        return None
