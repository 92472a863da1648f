"""Runs a job on this machine: the step commands of the pods, as child processes, one after the other.

All files are in DIR/.sixview, in the layout that the step package expects:
  scene/  <model>/{mesh,quality,preview}/  package/  outputs/<step>/  done/<step>.json  options.json  lock
Results are published in DIR, by hard links, when their step has finished. A step is skipped while its cache key (program,
options, digests of its inputs) and the digests of its results equal those in `done`.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from pipeline.local.job_folder import PUBLISHED, acquire_lock, check_output_folder
from pipeline.local.progress import Display
from pipeline.local.step_cache import Task, cache_key, is_done, publish, remove
from pipeline.local.step_process import failure_of, has_ended
from steps.runtime import contract, reporter
from steps.runtime.attempts import COMPLETED
from steps.runtime.attempts import read as read_attempts
from steps.runtime.contract import JOB_SECONDS, Nvdiffrec, Package, Preview, Quality, Reconviagen, Step, Validate
from steps.runtime.errors import Interrupted, ModelVramOom, Record, by_code
from steps.runtime.files import read_json, read_text, tree_digests, write_json
from steps.runtime.processes import end_session


@dataclass(frozen=True)
class Options:
    """Options of a local job. job: those of JOB_OPTIONS, by name, as their types; the others are options of one step alone."""

    input: Path
    out: Path
    models: tuple[str, ...]
    job: Mapping[str, Any] = field(default_factory=dict)
    cameras: Path | None = None
    weights: Path | None = None
    refine: bool = False
    low_vram: bool = False
    structure_steps: int = Reconviagen.structure_steps
    latent_steps: int = Reconviagen.latent_steps
    tet_grid: int = Nvdiffrec.grid
    batch: int = Nvdiffrec.batch
    held_out: Path | None = None
    preview_size: int = Preview.size
    memory_limit_mib: int = Step.memory_limit_mib

    def as_json(self) -> dict[str, Any]:
        """All options by name, with underscores: the content of options.json."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "job":
                values |= {name.replace("-", "_"): option for name, option in value.items()}
            else:
                values[item.name] = str(value) if isinstance(value, Path) else value
        return values


@dataclass
class Outcome:
    """State of the job so far. reused: steps with cached results; ran: the others; failure: the first one."""

    failure: Record | None = None
    reused: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)  # reused and ran together, in order
    ran: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)  # models
    current_folders: set[Path] = field(default_factory=set)  # result folders that are valid for this run's options


def run(options: Options, display: Display) -> tuple[dict[str, Any], int]:
    """Runs the job. Returns outputs.json and the exit code: 0, or that of the step that failed first."""
    job = Job(options, display)
    with job.locked(), job.signals():
        began = time.monotonic()
        job.prepare()
        job.run_steps()
        return job.finish(time.monotonic() - began)


class Job:
    """One run of one job in one folder."""

    def __init__(self, options: Options, display: Display) -> None:
        self.options, self.display = options, display
        self.state = options.out / ".sixview"
        self.outcome = Outcome()
        self.stopped = False
        self.vram_attempts = 0  # attempts that ended with MODEL_VRAM_OOM
        self.child: subprocess.Popen[bytes] | None = None
        self.lock: IO[str] | None = None

    # -- the life of a job ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder. Step processes inherit the lock, so that a new run waits for those of a killed one."""
        check_output_folder(self.options.out, self.options.models)
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.state / "lock", "w") as lock:
            acquire_lock(lock, self.options.out)
            self.lock = lock
            yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP terminate the running step, which records INTERRUPTED, and stop the job."""

        def stop(_number: int, _frame: object) -> None:
            self.stopped = True
            if self.child is not None:
                self.child.terminate()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)

    def prepare(self) -> None:
        """Deletes published files of earlier runs, so that they are not mistaken for this run's results."""
        for name in (*PUBLISHED, *contract.MODELS):
            remove(self.options.out / name)
        (self.state / "done").mkdir(exist_ok=True)
        write_json(self.state / "options.json", self.options.as_json())

    def run_steps(self) -> None:
        """validate, then each model with its quality and preview, then package. Stops after the first failure, except that a mesh
        below the quality gate still gets its preview, and package always runs."""
        if self.do(self.validate_task()):
            for model in self.options.models:
                self.outcome.started.append(model)
                if self.made(model):
                    self.publish(model, "mesh", model)
                    self.do(self.quality_task(model))
                    self.publish(model, "quality", model)
                    self.do(self.preview_task(model))
                    self.publish(model, "preview", f"{model}/previews")
                if self.outcome.failure:
                    break
        if not self.stopped:
            self.package()

    def made(self, model: str) -> bool:
        """Runs a model, again after each MODEL_VRAM_OOM, with the next level of its memory fallback. Returns whether it
        succeeded."""
        attempts = self.state / "attempts" / f"{model}.json"
        if any(attempt["outcome"] == COMPLETED for attempt in read_attempts(attempts)[0]):
            attempts.unlink()  # of a finished run: the device may have more free memory now
        while not self.do(self.model_task(model)):
            failure = self.outcome.failure
            n_attempts = len(read_attempts(attempts)[0])
            if failure is None or failure["code"] != ModelVramOom.code or n_attempts <= self.vram_attempts:
                return False
            self.vram_attempts, self.outcome.failure = n_attempts, None
        return True

    def package(self) -> None:
        for model in self.options.models:
            for part in ("mesh", "quality", "preview"):
                if self.state / model / part not in self.outcome.current_folders:
                    remove(self.state / model / part)  # from a run with other options
        packed = self.do(self.package_task())
        for name in ("result.zip", "report") if packed else ():
            publish(self.state / "package" / name, self.options.out / name)

    def finish(self, seconds: float) -> tuple[dict[str, Any], int]:
        """Writes and returns outputs.json, with the exit code."""
        if self.stopped and not (self.options.out / "result.zip").exists():  # between steps no failure is recorded
            stop = Interrupted("The job was stopped before it had finished.").record()
            self.outcome.failure = self.outcome.failure or stop
        failure = self.outcome.failure
        code = by_code()[failure["code"]].exit_code if failure else 0
        manifest = read_json(self.state / "package" / "manifest.json", {})
        out = self.options.out
        summary = {
            "status": "failed" if failure else "completed",
            "exit_code": code,
            "models": {m: self.model_summary(m) for m in self.outcome.started},
            "result": str(out / "result.zip") if (out / "result.zip").is_file() else None,
            "report": str(out / "report" / "index.html") if (out / "report").is_dir() else None,
            "content_digest": manifest.get("content_digest"),
            "seconds": round(seconds, 2),
            "steps": {"ran": self.outcome.ran, "reused": self.outcome.reused},
            "error": failure,
            "warnings": self.warnings(),
        }
        write_json(out / "outputs.json", summary)
        return summary, code

    def warnings(self) -> list[str]:
        """Warnings of all steps of this run, reused ones included, without duplicates."""
        warnings_by_step = (reporter.read_warnings(self.state / "outputs" / name) for name in self.outcome.steps)
        return list(dict.fromkeys(line for lines in warnings_by_step for line in lines))

    def model_summary(self, model: str) -> dict[str, Any]:
        quality = read_json(self.state / model / "quality" / "quality.json", {})
        outputs = {key: read_text(self.state / "outputs" / model / key) or None for key in ("engine", "device")}
        fields = {key: quality.get(key, outputs.get(key)) for key in ("engine", "device", "psnr", "ssim", "passed")}
        folder = self.options.out / model
        files = (
            sorted(p.relative_to(self.options.out).as_posix() for p in folder.rglob("*") if p.is_file())
            if folder.is_dir()
            else []
        )
        return {**fields, "files": files}

    # -- tasks -------------------------------------------------------------------------------------------------------

    def common_parameters(
        self, step: type[Step], name: str, out: Path, deadline: float = JOB_SECONDS
    ) -> dict[str, Any]:
        """Fields that every step has, and those that are options of the job."""
        return {
            **contract.job_field_values(step, self.options.job),
            "out": out,
            "outputs": self.state / "outputs" / name,
            "deadline_seconds": round(deadline, 1),
            "memory_limit_mib": self.options.memory_limit_mib,
        }

    def validate_task(self) -> Task:
        o = self.options
        parameters = Validate(
            **self.common_parameters(Validate, "validate", self.state / "scene"), input=o.input, cameras=o.cameras
        )
        return Task("validate", "validate", parameters, (o.input, *([o.cameras] if o.cameras else [])))

    def model_task(self, model: str) -> Task:
        scene, step = self.state / "scene", contract.STEPS[model]
        used = sum(_seconds(self.state / "outputs" / m) for m in self.outcome.started if m != model)
        common = {
            **self.common_parameters(step, model, self.state / model / "mesh", max(1.0, JOB_SECONDS - used)),
            "scene": scene,
            "attempts": self.state / "attempts" / f"{model}.json",
        }
        make = {"reconviagen": self.reconviagen, "nvdiffrec": self.nvdiffrec}[model]
        return Task(model, model, make(common), (scene,))

    def reconviagen(self, common: dict[str, Any]) -> Step:
        o = self.options
        return Reconviagen(
            **common,
            weights=o.weights,
            refine=o.refine,
            low_vram=o.low_vram,
            structure_steps=o.structure_steps,
            latent_steps=o.latent_steps,
        )

    def nvdiffrec(self, common: dict[str, Any]) -> Step:
        checkpoint = self.state / "checkpoints" / "nvdiffrec.pt"
        return Nvdiffrec(**common, batch=self.options.batch, grid=self.options.tet_grid, checkpoint=checkpoint)

    def quality_task(self, model: str) -> Task:
        name, scene, mesh = f"{model}.quality", self.state / "scene", self.state / model / "mesh"
        parameters = Quality(
            **self.common_parameters(Quality, name, self.state / model / "quality"),
            scene=scene,
            mesh=mesh,
            held_out=self.options.held_out,
        )
        more = (self.options.held_out,) if self.options.held_out else ()
        return Task(name, "quality", parameters, (scene, mesh, *more))

    def preview_task(self, model: str) -> Task:
        name, scene, mesh = f"{model}.preview", self.state / "scene", self.state / model / "mesh"
        parameters = Preview(
            **self.common_parameters(Preview, name, self.state / model / "preview"),
            scene=scene,
            mesh=mesh,
            size=self.options.preview_size,
        )
        return Task(name, "preview", parameters, (scene, mesh))

    def package_task(self) -> Task:
        models = ",".join(self.outcome.started or self.options.models)
        common = self.common_parameters(Package, "package", self.state / "package")
        parameters = Package(**common, job=self.state, models=models)
        return Task("package", "package", parameters, ())

    # -- running and reusing --------------------------------------------------------------------------------------------

    def do(self, task: Task) -> bool:
        """Runs a task unless its cached results are valid. Returns whether it succeeded."""
        if self.stopped:
            return False
        done = self.state / "done" / f"{task.name}.json"
        self.outcome.steps.append(task.name)
        key = cache_key(task)
        if task.reads and is_done(read_json(done, {}), key, task.parameters.out):
            self.outcome.reused.append(task.name)
            self.outcome.current_folders.add(task.parameters.out)
            self.display.reused(task.name)
            return True
        done.unlink(missing_ok=True)
        failure = self.run_step(task)
        self.outcome.ran.append(task.name)
        if failure is None or by_code()[failure["code"]].keeps_results:
            self.outcome.current_folders.add(task.parameters.out)
        if failure is None:
            write_json(done, {"key": key, "results": tree_digests(task.parameters.out)})
        self.outcome.failure = self.outcome.failure or failure
        return failure is None

    def run_step(self, task: Task) -> Record | None:
        """Runs the step's command and displays its progress files. Returns its failure record, None on success."""
        outputs = task.parameters.outputs
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir(parents=True)
        command = [sys.executable, "-m", f"steps.{task.step}", *contract.arguments(task.parameters)]
        with (
            open(self.state / "outputs" / f"{task.name}.stderr", "wb") as stderr,
            self.display.step(task.name) as line,
        ):
            # in a session of its own, so that Ctrl-C reaches this process only, which forwards it
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
                pass_fds=[self.lock.fileno()] if self.lock else (),
            )
            try:
                while not has_ended(self.child):
                    if self.stopped:
                        self.child.terminate()
                    line.update(*(read_text(outputs / name) for name in ("stage", "progress", "seconds-left")))
            finally:
                end_session(self.child.pid)  # needed where the step's supervisor itself was killed
                code, self.child = self.child.wait(), None
            return line.finish(
                failure_of(outputs, code, self.state / "outputs" / f"{task.name}.stderr"), _seconds(outputs)
            )

    def publish(self, model: str, part: str, target: str) -> None:
        """Publishes a part of a model's results below DIR/target."""
        source = self.state / model / part
        if source not in self.outcome.current_folders:
            return
        for path in sorted(source.glob("*")) if source.is_dir() else []:
            if path.name not in ("model.json", "preview.json", contract.START_MESH):
                publish(path, self.options.out / target / path.name)


# -- helpers ----------------------------------------------------------------------------------------------------------


def _seconds(outputs: Path) -> float:
    """Duration of a step in seconds, from its outputs; 0 where it is missing or malformed."""
    try:
        seconds = float(read_text(outputs / "seconds", "0"))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0


def clear_cache(options: Options) -> None:
    """Deletes the cache keys of earlier runs, so that every step runs again. Raises ValidationFailed for a foreign folder."""
    check_output_folder(options.out, options.models)
    remove(options.out / ".sixview" / "done")
