"""GPUs as the driver reports them through NVML, quickly and without torch; and the one that a step holds, for how long."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from steps.runtime.errors import GpuUnavailable
from steps.runtime.files import write_atomically

DRIVERS = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia"), Path("/dev/dxg"))  # the last on Windows' subsystem
GIVEN = "NVIDIA_VISIBLE_DEVICES"
NO_DEVICE = ("", "all", "none", "void")  # of GIVEN: none, or (`all`, as our images set it) none in particular
IN_POD = "KUBERNETES_SERVICE_HOST"
ANSWER_SECONDS = 1.0  # that the driver may take at a step's end, where it has not answered before
WRITE_SECONDS = 5.0  # between two records of a step that runs


def probe() -> dict[str, Any]:
    """{"driver", "gpus": [{"name", "memory_mib", "free_mib"}], "problem"}; the problem is a sentence where there is no GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"driver": "", "gpus": [], "problem": f"No NVIDIA driver answers: {error}."}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [_gpu(pynvml, handle) for handle in handles]
        return {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "gpus": gpus,
            "problem": "" if gpus else "The driver sees no GPU.",
        }
    except pynvml.NVMLError as error:
        return {"driver": "", "gpus": [], "problem": f"The NVIDIA driver fails: {error}."}
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, handle: Any) -> dict[str, Any]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "name": str(pynvml.nvmlDeviceGetName(handle)),
        "memory_mib": memory.total >> 20,
        "free_mib": memory.free >> 20,
    }


def preflight(device: str) -> dict[str, Any]:
    """The report for preflight.json. Raises GpuUnavailable where `device` is cuda and there is none."""
    report = {"requested": device, **probe()}
    if device == "cuda" and report["problem"]:
        raise GpuUnavailable(f"A GPU was asked for, but there is none. {report['problem']}", preflight=report)
    return report


# -- the GPU that a step holds ------------------------------------------------------------------------------------------


class HeldGpu:
    """Writes the outputs `gpu` and `gpu-held-seconds` of a step.

    A pod holds the GPU that the device plugin gave it, whatever its step computes on. Any other step holds a GPU where the driver
    shows one and its `device` is not cpu: in a pod all that are shown, elsewhere the first, on which it computes. The driver is
    asked in a thread, and only where there is one: it may take seconds, or never answer."""

    def __init__(self, device: str) -> None:
        self.device, self.in_pod = device, bool(os.environ.get(IN_POD))
        given = os.environ.get(GIVEN, "")
        self.given = given if self.in_pod and given not in NO_DEVICE else ""
        self.age_before = age_of("1" if self.in_pod else "self")
        self._made, self._written = time.monotonic(), -math.inf
        self._names: list[str] = []
        self._asking: threading.Thread | None = None

    def ask(self) -> None:
        """Begins to ask the driver, once. To be called after the last fork of this process."""
        may_hold = self.given or (self.device != "cpu" and any(path.exists() for path in DRIVERS))
        if may_hold and self._asking is None:
            self._asking = threading.Thread(target=self._ask, name="nvml", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        try:
            self._names = [gpu["name"] for gpu in probe()["gpus"]]
        except Exception:  # no binding, or a driver of another version: the step itself says what it lacks
            self._names = []

    def name(self) -> str:
        """Of the GPU that is held, as far as the driver has answered; "" for none."""
        counts = Counter(self._names if self.in_pod else self._names[:1])
        return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counts.items()) or self.given

    def seconds(self) -> float:
        """Since this pod's container has started, outside of pods since this process has."""
        return self.age_before + time.monotonic() - self._made

    def write_now_and_then(self, outputs: Path) -> None:
        """Writes both every WRITE_SECONDS: the kernel may kill this process together with the step."""
        if self._asking is not None and time.monotonic() - self._written > WRITE_SECONDS:
            self._write(outputs)

    def write(self, outputs: Path) -> None:
        """Writes both at the step's end."""
        self.ask()
        if self._asking is not None:
            self._asking.join(ANSWER_SECONDS)
            self._write(outputs)

    def _write(self, outputs: Path) -> None:
        self._written = time.monotonic()
        name = self.name()
        with contextlib.suppress(OSError):  # a full disk is told by what the step itself could not write
            write_atomically(outputs / "gpu", name)
            write_atomically(outputs / "gpu-held-seconds", f"{self.seconds():.3f}" if name else "0")


def age_of(process: str, proc: Path = Path("/proc")) -> float:
    """Seconds since a process has started; since this one has where the other's start cannot be told. process: its number, or
    `self`."""
    for name in (process, "self"):
        try:  # the name, in brackets, may itself have spaces and brackets
            ticks = int((proc / name / "stat").read_text().rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            continue
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        if age >= 0:
            return age
    return 0.0


def gpu_text(held: float, busy: float) -> str:
    """`held 41 s, computed 17 s`, with a decimal below ten seconds."""
    held_text, busy_text = (f"{seconds:.1f}" if 0 < seconds < 9.95 else f"{seconds:.0f}" for seconds in (held, busy))
    return f"held {held_text} s, computed {busy_text} s"
