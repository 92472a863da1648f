"""The CUDA kernels without a GPU: their source in numba's simulator against the CPU's, and compiled down to machine code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compute import comparison, machine_code, scenes, step_scenes
from tests.compute.comparison import Compared
from tests.compute.launches import ONLY_ON_A_CPU, launched_in_steps
from tests.conftest import need


@dataclass(frozen=True)
class Simulated:
    """A run of all scenes in the simulator: the comparisons with the CPU, and the folder of what it leaves."""

    results: list[Compared]
    folder: Path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    folder = tmp_path_factory.mktemp("kernels")
    return Simulated(list(comparison.run("simulator", [scenes.SIDE], folder)), folder)


@pytest.mark.parametrize("scene", scenes.SCENES)
def test_in_the_simulator_the_results_are_the_cpu_s(scene: str, simulated: Simulated) -> None:
    found = [one for one in simulated.results if one.scene == scene]
    assert len(found) >= 2, simulated.results[-1]
    assert [one for one in found if not one.right] == []


def test_every_kernel_runs_in_a_scene(simulated: Simulated) -> None:
    ran = {kernel for one in simulated.results for kernel in one.kernels}
    assert ran | ONLY_ON_A_CPU == launched_in_steps() and not ran & ONLY_ON_A_CPU


@pytest.mark.parametrize("work", step_scenes.WORKS, ids=lambda work: work.__name__)
def test_what_a_step_computes_in_a_scene_is_not_the_same_everywhere(work: Any, simulated: Simulated) -> None:
    with np.load(simulated.folder / f"{work.__name__}_{scenes.SIDE}.npz") as results:
        assert min(np.ptp(result) for result in results.values()) > 0


def test_the_nearest_face_wins_up_to_the_far_plane(simulated: Simulated) -> None:
    """On the CPU; the simulator's results are the same."""
    with np.load(simulated.folder / f"far_plane_{scenes.SIDE}.npz") as pictures:
        for name, rast in pictures.items():
            assert set(rast[..., 3].ravel().tolist()) - {0.0} == {1.0 if "nearest first" in name else 2.0}


def test_a_comparison_ends_at_the_first_kernel_that_is_wrong(tmp_path: Path) -> None:
    """A double is wrong from the second side on: the first is right, and of the second nothing comes after it."""
    double = "steps.raster.keys._resolve@6"
    *right, last = comparison.run("simulator", [5, 6, 7], tmp_path, double)
    assert all(one.right for one in right) and {one.side for one in right} == {5}
    assert {one.scene for one in right} == set(scenes.SCENES)
    assert (last.scene, last.side, last.result) == ("far_plane", 6, "z -1.0, the nearest first")
    assert not last.right and last.apart and "steps.raster.keys._resolve" in last.kernels


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([1.0, 2.0, 3.0], True),
        ([1.0, 2.0, 3.00002], True),
        ([1.0, 2.0, 3.00004], False),
        ([1.0, 2.0, np.nan], False),
        ([1.0, 2.0], False),
    ],
)
def test_results_are_the_same_within_a_limit(found: list[float], right: bool) -> None:
    assert comparison.compared(np.array([1.0, 2.0, 3.0]), np.array(found), "simulator").right == right


# -- machine code -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def assembled(simulated: Simulated) -> Iterator[list[machine_code.Code]]:
    need(machine_code.assembler() is not None, "ptxas, of CUDA's compiler")
    yield machine_code.of_launched(simulated.folder / comparison.LAUNCHED)


def test_every_kernel_assembles_for_every_architecture(assembled: list[machine_code.Code]) -> None:
    kernels = launched_in_steps() - ONLY_ON_A_CPU
    assert {(one.kernel, one.architecture) for one in assembled} == {
        (kernel, architecture) for kernel in kernels for architecture in machine_code.ARCHITECTURES
    }
    assert all(0 < one.registers <= 255 for one in assembled)


def test_kernels_of_the_rasterizer_and_of_the_signed_field_spill_no_register(
    assembled: list[machine_code.Code],
) -> None:
    chosen = [one for one in assembled if one.kernel.startswith(("steps.raster.", "steps.fusion.signed_field."))]
    assert len(chosen) > 20 * len(machine_code.ARCHITECTURES)
    assert [one for one in chosen if one.spilled] == []


def test_only_kernels_whose_threads_share_a_target_are_atomic(assembled: list[machine_code.Code]) -> None:
    assert {one.kernel.removeprefix("steps.raster.") for one in assembled if one.is_atomic} == {
        "keys._draw_tile",
        "keys._walk",
        "rasterize._backward",
        "interpolate._backward",
        "texture._scatter",
        "antialias._by_corners",
    }


def test_what_ptxas_says_is_read() -> None:
    said = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one_pixel' for 'sm_75'
ptxas info    : Function properties for one_pixel
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 592 bytes cmem[0]
"""
    assert machine_code.registers_and_spills(said) == (255, 20)
