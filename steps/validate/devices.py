"""GPUs as the driver reports them through NVML: quick, and without loading torch."""

from __future__ import annotations

from typing import Any

from steps.runtime.errors import GpuUnavailable


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
