"""A step's life: a small parent process supervises a forked child that does the work.

The parent imports nothing heavy and never blocks, so it reacts to signals, deadlines and memory limits even while the child
runs native code. The child is forked before anything else is loaded. failure.json is written with KILLED before the child
starts and removed on success, so that it is there even if both are killed at once. When the child ends, the parent ends
every process that it started, so that none holds a device's memory after its step."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from steps.runtime.contract import (
    FIRST_STAGE,
    MODELS,
    OUTPUTS,
    RESULT_FILE,
    Step,
    Validate,
    output_folders,
    parse,
    parser,
)
from steps.runtime.devices import HeldGpu
from steps.runtime.errors import (
    OOM_TYPES,
    DiskFull,
    Interrupted,
    Killed,
    ModelFailed,
    ModelOom,
    ModelTimeout,
    ModelVramOom,
    Record,
    StepError,
    UnknownError,
    ValidationFailed,
    as_record,
    by_code,
    is_vram_oom,
)
from steps.runtime.files import move_into_place, read_json, write_atomically, write_json
from steps.runtime.memory import MIB, MemoryGuard, own_cgroups
from steps.runtime.options import check_file
from steps.runtime.processes import adopt_orphans, descendants, die_with_parent, end_descendants
from steps.runtime.reporter import NOTES, Reporter, read_stages

POLL_SECONDS = 0.1
EOF_SECONDS = 0.005
DRAIN_SECONDS = 1.0  # to read what the child wrote before it ended
_RESULT = ".result.json"  # how the child ended, for the parent


def main(step: str, argv: list[str] | None = None) -> int:
    """Runs a step with the flags of its contract. Returns its exit code."""
    try:
        parameters = parse(step, argv)
    except ValidationFailed as error:
        return reject(step, argv, error)
    try:
        prepare(step, parameters)
        if isinstance(parameters, Validate) and parameters.options:
            check_file(parameters.options)
    except StepError as error:
        return finalize(step, parameters, error.record(), time.monotonic())
    return supervise(step, parameters)


def reject(step: str, argv: list[str] | None, error: ValidationFailed) -> int:
    """Reports flags that cannot be parsed: as a failure record where --outputs is given, else with the usage. Returns the exit
    code."""
    parameters = output_folders(argv)
    if parameters is None:
        parser(step).print_usage(sys.stderr)
        print(f"{error.message}\n{error.suggestion}", file=sys.stderr)
        return error.exit_code
    with contextlib.suppress(ValidationFailed):  # bad flags are reported before a foreign output folder
        prepare(step, parameters)
    return finalize(step, parameters, error.record(), time.monotonic())


# -- the parent ---------------------------------------------------------------------------------------------------------


def prepare(step: str, parameters: Step) -> None:
    """Empties the outputs folder and the staging folder, and writes failure.json with KILLED. Raises ValidationFailed where
    `out` holds something that no run of this step wrote."""
    parameters.outputs.mkdir(parents=True, exist_ok=True)
    for old in [_RESULT, "failure.json", "stages.json", NOTES, "log.txt", "progress", *OUTPUTS]:
        (parameters.outputs / old).unlink(missing_ok=True)
    for name, default in OUTPUTS.items():
        write_atomically(parameters.outputs / name, default)
    write_atomically(parameters.outputs / "earlier-attempts", parameters.earlier_attempts)
    write_failure(
        parameters.outputs, step, Killed("The step was killed without a chance to say why.").record(), FIRST_STAGE[step]
    )
    if _is_foreign(step, parameters.out):
        raise ValidationFailed(
            f"The folder {parameters.out} is not empty and was not written by this step.",
            "Name another folder for the results, or empty this one.",
        )
    shutil.rmtree(staging_folder(parameters.out), ignore_errors=True)
    staging_folder(parameters.out).mkdir(parents=True)


def staging_folder(out: Path) -> Path:
    """Where the step writes its results before they are moved to `out`: beside it, or inside where `out` is a mount point."""
    return out / ".partial" if os.path.ismount(out) else out.with_name(f".{out.name}.partial")


def _is_foreign(step: str, out: Path) -> bool:
    if out.is_file():
        return True
    return out.is_dir() and any(e.name != ".partial" for e in out.iterdir()) and not (out / RESULT_FILE[step]).exists()


def supervise(step: str, parameters: Step) -> int:
    """Forks the child, supervises it, and records how it ended."""
    started = time.monotonic()
    die_with_parent(signal.SIGTERM)  # so that nothing keeps running for a killed `sixview run`
    adopt_orphans()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.append(received))
    guard = MemoryGuard(parameters.memory_limit_mib, own_cgroups())
    gpu = held_gpu(parameters)
    others = descendants(os.getpid())  # of a shell that exec'ed this process: not ours to end
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, open(parameters.outputs / "log.txt", "wb") as log:
        pid = os.fork()
        if pid == 0:
            pipe.close()
            os._exit(run_child(step, parameters, writer))
        os.close(writer)
        gpu.ask()

        def reason_to_kill() -> StepError | None:
            gpu.write_now_and_then(parameters.outputs)
            return _reason_to_kill(pid, guard, signals, started + parameters.deadline_seconds)

        try:
            verdict, status, usage = _watch(pid, pipe, log, reason_to_kill)
        finally:
            if not end_descendants(others):
                print("Some processes that the step has started could not be ended.", file=sys.stderr)
            _copy(pipe, log, 0.0, time.monotonic() + DRAIN_SECONDS)
    stages = read_stages(parameters.outputs)  # reading a stage's peak resets the kernel's counter, so all stages count
    peak = max([usage.ru_maxrss * 1024 // MIB, *(stage["peak_ram_mib"] for stage in stages)])
    with contextlib.suppress(OSError):
        write_atomically(parameters.outputs / "peak-ram-mib", str(peak))
    return finalize(step, parameters, _failure_record(verdict, status, parameters.outputs, guard), started, gpu)


def held_gpu(parameters: Step) -> HeldGpu:
    """What tells of the GPU that this step holds."""
    return HeldGpu(getattr(parameters, "device", "cpu"))


def _watch(
    pid: int, pipe: BinaryIO, log: BinaryIO, reason_to_kill: Callable[[], StepError | None]
) -> tuple[StepError | None, int, Any]:
    """Copies the child's output until it ends; kills it where there is a reason to. Returns the reason, wait status and resource
    usage."""
    verdict: StepError | None = None
    while True:
        _copy(pipe, log, POLL_SECONDS)
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return verdict, status, usage
        if verdict is None:
            verdict = reason_to_kill()
        if verdict is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _reason_to_kill(pid: int, guard: MemoryGuard, signals: list[int], deadline: float) -> StepError | None:
    """A signal, the deadline or the memory limit."""
    if signals:
        return Interrupted(f"The step was stopped by {signal.Signals(signals[0]).name}.")
    if time.monotonic() > deadline:
        return ModelTimeout("The time for this step is used up.")
    limit_message = guard.limit_message(pid)
    return ModelOom(limit_message) if limit_message else None


def _copy(pipe: BinaryIO, log: BinaryIO, wait: float, until: float = 0.0) -> None:
    """Copies the child's output to the log and to stderr, neither of which may block or fail the step. until: keep copying up
    to this time rather than one chunk."""
    while select.select([pipe], [], [], wait)[0]:
        data = pipe.read(1 << 16)
        for target in (log, sys.stderr.buffer):
            with contextlib.suppress(OSError, ValueError):
                target.write(data)
                target.flush()
        if not data:  # the child has closed its end: it is about to go
            time.sleep(0 if until else EOF_SECONDS)
            return
        if time.monotonic() >= until:
            return


def _failure_record(verdict: StepError | None, status: int, outputs: Path, guard: MemoryGuard) -> Record | None:
    """The failure record, None where the step succeeded."""
    if verdict is not None:
        return verdict.record()
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        if number is signal.SIGKILL:
            killed = (
                ModelOom("The kernel killed the step for want of memory.")
                if guard.kernel_killed()
                else Killed("Something killed the step (SIGKILL).")
            )
            return killed.record()
        return ModelFailed(f"The step crashed with {number.name}.").record()
    result = read_json(outputs / _RESULT, {})
    if result.get("failure", "") is None:
        return None
    silent_exit = UnknownError(f"The step ended with exit code {os.WEXITSTATUS(status)} and said nothing.")
    return as_record(result.get("failure")) or silent_exit.record()


def finalize(step: str, parameters: Step, record: Record | None, started: float, gpu: HeldGpu | None = None) -> int:
    """Moves the results into place or discards them, writes failure.json and prints the failure. Returns the exit code."""
    staging = staging_folder(parameters.out)
    error = by_code()[record["code"]] if record else None
    try:
        if (error is None or error.keeps_results) and staging.is_dir():
            move_into_place(staging, parameters.out)
    except OSError as os_error:
        record = as_step_error(os_error, step, parameters).record()
        error = by_code()[record["code"]]
    shutil.rmtree(staging, ignore_errors=True)
    (parameters.outputs / _RESULT).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # on a full disk the record written at the start stays
        write_atomically(parameters.outputs / "seconds", f"{time.monotonic() - started:.3f}")
        _write_end(parameters.outputs, step, record)
        (gpu or held_gpu(parameters)).write(parameters.outputs)
    if record and error:
        print(f"{record['code']}: {record['message']}\n{record['suggestion']}", file=sys.stderr)
        return error.exit_code
    return 0


def _write_end(outputs: Path, step: str, record: Record | None) -> None:
    if record:
        stage = (outputs / "stage").read_text() or FIRST_STAGE[step]
        write_failure(outputs, step, record, stage)
        return
    (outputs / "failure.json").unlink(missing_ok=True)
    write_atomically(outputs / "error-code", "")
    write_atomically(outputs / "message", "")


def write_failure(outputs: Path, step: str, record: Record, stage: str) -> None:
    """failure.json and the values that repeat it."""
    oom = OOM_TYPES.get(record["code"], "none")
    values = {name: (outputs / name).read_text() for name in ("model", "engine")}
    record["details"] = {"step": step, **values, "pipeline_stage": stage, "oom_type": oom, **record["details"]}
    write_json(outputs / "failure.json", record)
    for name, value in {
        "error-code": record["code"],
        "message": record["message"],
        "oom-type": oom,
        "stage": stage,
    }.items():
        write_atomically(outputs / name, value)


# -- the child ----------------------------------------------------------------------------------------------------------


def run_child(step: str, parameters: Step, writer: int) -> int:
    """In the forked child: runs the step and leaves its failure record. Returns the exit code."""
    record: Record | None = None
    try:
        _set_up_child(writer)
        _run_step(step, parameters)
    except BaseException as error:
        if not isinstance(error, StepError):
            traceback.print_exc()
        record = as_step_error(error, step, parameters).record()
        if record["code"] == DiskFull.code:
            shutil.rmtree(staging_folder(parameters.out), ignore_errors=True)  # make room for the record itself
    with contextlib.suppress(OSError):
        write_json(parameters.outputs / _RESULT, {"failure": record})
    sys.stdout.flush()
    sys.stderr.flush()
    return 1 if record else 0


def limit_blas_threads() -> None:
    """Makes BLAS single-threaded: its own threads spin while they wait, on the kernels' cores, and sum in an order that depends
    on their number. Torch's threads may wait, but not spin. To be called before numpy and torch are loaded."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _set_up_child(writer: int) -> None:
    os.setpgid(0, 0)  # so that the parent can end our own children with us, and a Ctrl-C reaches only the parent
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # the parent answers: Argo's executor signals every process of a container
    die_with_parent(signal.SIGKILL)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def _run_step(step: str, parameters: Step) -> None:
    started = time.monotonic()
    reporter = Reporter(parameters.outputs, FIRST_STAGE[step])
    if step in MODELS:
        reporter.value("model", step)
    limit_blas_threads()
    module = importlib.import_module(f"steps.{step}.run")
    reporter.value("startup-seconds", f"{time.monotonic() - started:.3f}")
    try:
        module.run(parameters, staging_folder(parameters.out), reporter)
    finally:
        reporter.close()
        kernels = sys.modules.get("steps.compute.kernels")
        reporter.value("compile-seconds", f"{kernels.compile_seconds():.3f}" if kernels else "0")


def as_step_error(error: BaseException, step: str, parameters: Step) -> StepError:
    """Maps any exception to an error of the contract."""
    if isinstance(error, StepError):
        return error
    if is_vram_oom(error):  # before MemoryError, which CuPy's is, too
        return ModelVramOom((str(error).splitlines() or ["The GPU's memory ran out."])[0])
    if isinstance(error, MemoryError):
        return ModelOom(f"The system has no more memory for the step. {error}".strip())
    if isinstance(error, OSError) and _disk_is_full(error, parameters):
        return DiskFull(f"There is no space left for results in {parameters.out.parent}.")
    kind = ModelFailed if step in MODELS else UnknownError
    return kind(f"{type(error).__name__}: {error}".splitlines()[0], log=str(parameters.outputs / "log.txt"))


def _disk_is_full(error: OSError, parameters: Step) -> bool:
    """Libraries that write through C report a full disk without errno: then free space decides."""
    if error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(shutil.disk_usage(folder).free < MIB for folder in (parameters.outputs, parameters.out.parent))
