"""The GPU kit without a GPU: what it does before it measures, and its verdicts. Its whole rehearsal is the smallest form of the
benchmark `gpu`, which tests/test_benchmarks.py runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.records import Run
from tests.compute.comparison import Compared
from tests.gpu import jobs, kernels, kit, nvdiffrec, times, wheels
from tests.gpu.jobs import Job
from tests.gpu.kit import Kit

ROOT = Path(__file__).parents[2]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu", *map(str, words)], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


def rehearsed(tmp_path: Path, seconds: float = 300.0) -> Kit:
    return Kit(Run("gpu", smallest=True), True, tmp_path, time.monotonic() + seconds)


# -- the command --------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_what_it_needs_and_ends_with_2(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = command("--out", tmp_path)
    assert done.returncode == 2 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr.splitlines()[-1].startswith("The kit needs an NVIDIA GPU that torch finds")


def test_an_unknown_section_is_refused() -> None:
    done = command("rehearse", "--only", "all")
    assert done.returncode == 2 and "there are kernels, jobs, times, nvdiffrec" in done.stderr


def test_it_ends_at_a_kernel_that_is_wrong_with_the_smallest_case(tmp_path: Path) -> None:
    """The kernel is a double's."""
    done = command("rehearse", "--out", tmp_path, "--double", "steps.raster.interpolate._forward@5", "--commit", "abc")
    assert done.returncode == 1, done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["commit"] == "abc" and [table["title"].split(": ")[1] for table in record["tables"]] == [
        "Versions",
        "Kernels against the CPU",
    ]
    rows = record["tables"][1]["rows"]
    assert rows[-1][:2] == ["gradients", 5] and [row[-1] for row in rows] == ["right"] * (len(rows) - 1) + ["WRONG"]
    (wrong,) = [note for note in record["notes"] if note.startswith("WRONG")]
    assert "uv of the scene gradients at side 5" in wrong and "steps.raster.interpolate._forward" in wrong
    assert any("jobs; times; nvdiffrec" in note for note in record["notes"] if note.startswith("Not run"))
    page = (tmp_path / "gpu.md").read_text()
    assert "Rehearsal, without a GPU: Kernels" in page and "at commit abc" in page and "no GPU" in page


# -- time ---------------------------------------------------------------------------------------------------------------


def test_what_no_longer_fits_is_not_run_and_the_record_says_so(tmp_path: Path) -> None:
    one = rehearsed(tmp_path, seconds=0.5)
    one.rehearsal = False
    assert kit.measure(one, ["jobs", "times", "nvdiffrec"]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert [table["title"] for table in record["tables"]] == ["Versions"]
    (said,) = [note for note in record["notes"] if note.startswith("Not run")]
    for what in ("the job of the house at 512 px on the GPU", "the job of the mug at 2048 px", "nvdiffrec's losses"):
        assert what in said
    assert not (tmp_path / "jobs").exists()


def test_a_job_that_the_end_of_the_time_ended_is_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rehearsed(tmp_path)

    def ended(*_given: Any) -> Job:
        one.ends = time.monotonic()
        return Job(tmp_path, {}, 1.0)

    monkeypatch.setattr(jobs.Jobs, "_run", ended)
    monkeypatch.setattr(jobs.Jobs, "prepare", lambda *_given: None)
    jobs.section(one)
    assert one.wrong == [] and one.skipped[0] == "the job of the mug at 32 px on the CPU, which took too long"


def test_a_section_that_fails_is_wrong_and_leaves_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_kit: Kit) -> None:
        raise RuntimeError("CUDA_ERROR_UNKNOWN")

    monkeypatch.setattr(times, "section", broken)
    assert kit.measure(rehearsed(tmp_path), ["times"]) == 1
    notes = json.loads((tmp_path / "gpu.json").read_text())["notes"]
    assert "WRONG: The section times failed: RuntimeError: CUDA_ERROR_UNKNOWN" in notes


def test_a_kernel_that_hangs_leaves_time_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Compared("carved", 320, problem="cuda: it took too long")
    monkeypatch.setattr(kernels.comparison, "run", lambda *_: iter([late]))
    one = rehearsed(tmp_path)
    kernels.section(one)
    assert one.wrong == [] and "carved at side 320: cuda: it took too long" in one.skipped[0]


# -- verdicts -----------------------------------------------------------------------------------------------------------


def job(psnr: float = 40.0, device: str = "cuda", warnings: tuple[str, ...] = (), **changed: Any) -> Job:
    model = {"psnr": psnr, "device": device, "passed": True, "engine": "fusion", **changed}
    return Job(Path(), {"status": "completed", "models": {"reconviagen": model}, "warnings": list(warnings)}, 1.0)


@pytest.mark.parametrize(
    ("on_gpu", "verdict"),
    [
        (job(40.04), "right"),
        (job(39.94), "its PSNR is -0.060 dB off"),
        (job(device="cpu"), "it did not compute on the GPU"),
        (job(passed=False), "passed is False and not True"),
        (job(engine="reconviagen"), "engine is reconviagen and not fusion"),
        (job(warnings=("holes",)), "its warnings are ['holes'] and not []"),
        (Job(Path(), {"status": "failed", "error": {"code": "MODEL_OOM"}}, 1.0), "on the GPU it ended with MODEL_OOM"),
        (Job(Path(), {}, 1.0), "on the GPU it ended with nothing"),
    ],
)
def test_a_job_on_the_gpu_decides_as_on_the_cpu_and_scores_the_same(on_gpu: Job, verdict: str) -> None:
    assert jobs.judged(job(device="cpu"), on_gpu) == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (["MODEL_VRAM_OOM", "completed"], "right"),
        (["MODEL_VRAM_OOM", "MODEL_VRAM_OOM", "completed"], "right"),
        (["completed"], "the first attempt ended with completed"),
        (["MODEL_VRAM_OOM", "MODEL_FAILED"], "the last attempt ended with MODEL_FAILED"),
    ],
)
def test_an_out_of_memory_is_right_where_a_lower_level_completes(ends: list[str], verdict: str) -> None:
    assert nvdiffrec.judged([[6, 512, 0, end, ""] for end in ends]) == verdict


def test_losses_that_are_no_numbers_are_apart() -> None:
    assert nvdiffrec.largest_difference([2.0, 1.0], [2.02, 1.0]) == pytest.approx(0.01)
    assert nvdiffrec.largest_difference([2.0, 1.0], [2.0, float("nan")]) == float("inf")


def test_times_are_read_from_what_the_steps_leave(tmp_path: Path) -> None:
    """With how long a step held its GPU, and how much of that it kept it busy."""
    made = Job(tmp_path, {}, 1.0)
    folder = times.outputs(made, "reconviagen")
    folder.mkdir(parents=True)
    values = {"seconds": 8, "startup-seconds": 2, "compile-seconds": 1, "gpu-held-seconds": 5, "gpu-busy-seconds": 4}
    for name, value in values.items():
        (folder / name).write_text(str(value))
    stages = [{"stage": stage, "seconds": 1.5, "peak_ram_mib": 0} for stage in ("inference", "export", "inference")]
    (folder / "stages.json").write_text(json.dumps(stages))
    assert times.row(512, "reconviagen", None, made) == [512, "reconviagen", None, 8.0, 2.0, 1.0, 5.0, 4.0, 80.0]
    assert times.stages_of(512, "reconviagen", None, made) == [
        [512, "reconviagen", "inference", None, 3.0],
        [512, "reconviagen", "export", None, 1.5],
    ]


# -- wheels -------------------------------------------------------------------------------------------------------------


def test_only_wheels_of_what_is_not_installed_are_unpacked(tmp_path: Path) -> None:
    for name in ("numpy-1.0-py3-none-any.whl", "sixview_absent-1.0-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}_carried.py", "")
    with wheels.unpacked(tmp_path) as folder:
        assert [path.name for path in folder.iterdir()] == ["sixview_absent_carried.py"]
        assert str(folder) in sys.path
    assert str(folder) not in sys.path and not folder.exists()


def test_the_project_need_not_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command asks of the installation lies with the wheels."""
    monkeypatch.setattr(wheels, "is_installed", lambda _name: False)
    wheels.name_project(tmp_path)
    (found,) = metadata.distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == ("sixview", metadata.version("sixview"))


@pytest.mark.parametrize("name", wheels.CARRIED)
def test_a_carried_wheel_is_the_lock_s(name: str) -> None:
    first, *rest = wheels.locked(name).splitlines()
    assert first.startswith(f"{name}==") and rest and all(line.strip().startswith("--hash=sha256:") for line in rest)


def test_what_this_python_lacks_is_named() -> None:
    assert wheels.missing() == []
    assert wheels.missing(("numpy", "sixview_absent")) == ["sixview_absent"]
