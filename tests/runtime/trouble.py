"""A step that gets into trouble on purpose: `python -m tests.runtime.trouble KIND --out ... --outputs ...`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

from steps.runtime import contract, supervisor
from steps.runtime.contract import FIRST_STAGE, RESULT_FILE, STEPS, Step
from steps.runtime.errors import ModelConvergenceFailed, QualityThresholdFailed
from steps.runtime.files import write_atomically
from steps.runtime.reporter import Reporter

MIB = 1 << 20


def succeed(out: Path, reporter: Reporter) -> None:
    reporter.value("psnr", "30.5")
    reporter.progress(1, 2)
    (out / "result").write_text("done")


def in_native_code(out: Path, _: Reporter) -> None:
    (out / "half").write_text("half")
    ctypes.PyDLL(None).sleep(60)  # holds the GIL: no Python signal handler can run


def eat_memory(out: Path, _: Reporter) -> None:
    hoard = []
    for _step in range(2000):
        hoard.append(b"x" * MIB)
        time.sleep(0.002)


def gulp_memory(out: Path, _: Reporter) -> None:
    os.nice(-5)  # as fast as can be, so that the kernel comes before the guard
    block = ctypes.create_string_buffer(1500 * MIB)
    ctypes.memset(block, 1, len(block))


def memory_error(out: Path, _: Reporter) -> None:
    bytearray(1 << 62)


def vram(out: Path, _: Reporter) -> None:
    torch_error = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})  # a double, of torch's names
    raise torch_error("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def fill_disk(out: Path, _: Reporter) -> None:
    with open(out / "big", "wb") as file:
        for _piece in range(64):
            file.write(b"x" * MIB)
            file.flush()


def killed(out: Path, _: Reporter) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after_computing(out: Path, reporter: Reporter) -> None:
    gpu_time: Any = types.ModuleType("steps.compute.gpu_time")  # a double: there may be no GPU here
    gpu_time.busy_seconds = lambda: 2.5
    sys.modules["steps.compute.gpu_time"] = gpu_time
    reporter.stage("export")
    reporter.stage("inference")
    killed(out, reporter)


def crash(out: Path, _: Reporter) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def bug(out: Path, _: Reporter) -> None:
    raise KeyError("a bug")


def diverge(out: Path, _: Reporter) -> None:
    raise ModelConvergenceFailed("The mesh is empty.")


def below_the_gate(out: Path, _: Reporter) -> None:
    (out / "kept").write_text("kept")
    raise QualityThresholdFailed("Too low.", psnr={"actual": 1.0, "threshold": 20.0})


def leave_a_child(out: Path, _: Reporter) -> None:
    child = os.fork()
    if child:
        (out.parent / "pid").write_text(str(child))
    time.sleep(60)


def _family(out: Path) -> None:
    """Starts four processes: a child and its child, one in a session of its own, and a daemon, whose parent has exited. Writes
    their ids to the file `family`."""
    reader, writer = os.pipe()

    def grow(kind: str) -> None:
        if kind != "child" and os.fork():
            return  # the parent of a daemon ends at once
        if kind in ("session", "daemon"):
            os.setsid()
        if kind == "daemon" and os.fork():
            os._exit(0)
        os.write(writer, f"{os.getpid()}\n".encode())
        for _ in range(60_000):  # talks, so that whoever waits for the end of its words waits long
            with contextlib.suppress(OSError):
                os.write(1, b"still here\n")
            time.sleep(0.001)
        os._exit(0)

    if os.fork() == 0:
        for kind in ("grandchild", "session", "daemon", "child"):
            grow(kind)
    received = b""
    while received.count(b"\n") < 4:
        received += os.read(reader, 100)
    write_atomically(out.parent / "family", received)


def end_well_with_a_family(out: Path, reporter: Reporter) -> None:
    _family(out)
    succeed(out, reporter)


def crash_with_a_family(out: Path, reporter: Reporter) -> None:
    _family(out)
    crash(out, reporter)


def bug_with_a_family(out: Path, reporter: Reporter) -> None:
    _family(out)
    bug(out, reporter)


def killed_with_a_family(out: Path, reporter: Reporter) -> None:
    _family(out)
    killed(out, reporter)


def wait_with_a_family(out: Path, reporter: Reporter) -> None:
    _family(out)
    in_native_code(out, reporter)


def damage_its_outputs(out: Path, reporter: Reporter) -> None:
    (reporter.outputs / "stages.json").write_text('[{"stage": "inference"}, 7, {"stage": ["x"]}]')
    (out / "result").write_text("done")
    reporter.close = lambda: None  # type: ignore[method-assign]


def main(kind: str, argv: list[str]) -> int:
    STEPS["trouble"], FIRST_STAGE["trouble"], RESULT_FILE["trouble"] = Step, "weight_loading", "result"
    supervisor.MODELS = (*contract.MODELS, "trouble")  # type: ignore[misc]
    module: Any = types.ModuleType("steps.trouble.run")

    def run(_parameters: Step, out: Path, reporter: Reporter) -> None:
        reporter.stage("inference")
        globals()[kind](out, reporter)

    module.run = run
    sys.modules["steps.trouble"], sys.modules["steps.trouble.run"] = types.ModuleType("steps.trouble"), module
    return supervisor.main("trouble", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
