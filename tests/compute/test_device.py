"""Where a step computes: what was asked for, or an error; a GPU that cannot be used is told."""

from __future__ import annotations

import cupy
import numpy as np
import pytest
import torch
from numba.cuda.cudadrv.driver import CudaAPIError

from steps.compute import device, launch
from steps.fusion.signed_field import Grid, layers_of_slab
from steps.quality import metrics
from steps.runtime.errors import GpuUnavailable, ModelVramOom, is_vram_oom


@pytest.fixture
def said() -> list[str]:
    return []


def test_the_cpu_is_taken_without_looking_for_a_gpu(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: pytest.fail("a driver was looked for"))
    assert device.choose("cpu", said.append) == "cpu" and not said


def test_auto_takes_the_cpu_without_a_word_where_there_is_no_driver(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: False)
    assert device.choose("auto", said.append) == "cpu" and not said


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_a_gpu_that_can_be_used_is_used(monkeypatch: pytest.MonkeyPatch, said: list[str], requested: str) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(device, "problem_with_cuda", lambda: "")
    monkeypatch.setattr(device, "little_memory", lambda: "")
    assert device.choose(requested, said.append) == "cuda" and not said


def test_a_gpu_that_cannot_be_used_fails_where_it_was_asked_for_and_is_told_with_auto(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(device, "problem_with_cuda", lambda: "CUDA finds no GPU.")
    with pytest.raises(GpuUnavailable, match="none can be used. CUDA finds no GPU"):
        device.choose("cuda", said.append)
    assert device.choose("auto", said.append) == "cpu"
    assert said == ["There is an NVIDIA driver, but the CPU computed. CUDA finds no GPU."]


def test_auto_takes_the_cpu_where_others_fill_the_gpu(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(device, "problem_with_cuda", lambda: "")
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (300 << 20, 8 << 30))
    assert device.choose("cuda") == "cuda"
    assert device.choose("auto", said.append) == "cpu"
    assert said == ["There is an NVIDIA driver, but the CPU computed. Only 300 MiB of the GPU's memory are free."]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(device, "PACKAGES", ("no_such_package",))
    assert "the extra `cuda`: No module named 'no_such_package'" in device.problem_with_cuda()


def error_like(module: str, name: str, message: str) -> Exception:
    """A double of another package's error."""
    return type(name, (Exception,), {"__module__": module})(message)


@pytest.mark.parametrize(
    ("error", "is_vram"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (cupy.cuda.memory.OutOfMemoryError(2, 1), True),
        (CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"), True),
        (CudaAPIError(700, "Call to cuLaunchKernel results in CUDA_ERROR_ILLEGAL_ADDRESS"), False),
        (error_like("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_OUT_OF_MEMORY: no more"), True),
        (error_like("cupy_backends.cuda.api.runtime", "CUDARuntimeError", "cudaErrorMemoryAllocation: no more"), True),
        (error_like("cupy_backends.cuda.libs.cublas", "CUBLASError", "CUBLAS_STATUS_ALLOC_FAILED"), True),
        (MemoryError("no more"), False),
        (ValueError("OUT_OF_MEMORY"), False),
        (ModelVramOom("The published model ran out of memory."), True),
    ],
)
def test_only_a_gpu_s_memory_is_vram(error: Exception, is_vram: bool) -> None:
    assert is_vram_oom(error) == is_vram


def test_a_launch_beyond_cuda_s_limit_is_refused_and_a_slab_stays_within_it() -> None:
    for shape in ((512, 512, 152), (600, 600, 120), (768, 768, 8), (2, 262_140, 1)):
        layers = layers_of_slab(Grid(np.zeros(3), 1.0, shape))
        assert layers >= 1 and layers * shape[1] <= launch.MOST_ROWS


@pytest.mark.parametrize("contrast", [0.0, 0.01, 1.0])
def test_similarity_by_filters_is_scikit_image_s(contrast: float) -> None:
    random = np.random.default_rng(0)
    reference = 0.5 + contrast * (random.random((40, 30, 3)).astype(np.float32) - 0.5)
    noise = 0.1 * random.standard_normal(reference.shape)
    picture = np.clip(reference + noise, 0, 1).astype(np.float32)
    expected, found = metrics.similarity(reference, picture), metrics.similarity_by_filters(reference, picture)
    assert np.abs(expected - found).max() < 1e-4
