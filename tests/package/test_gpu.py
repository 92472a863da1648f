"""What the step package does about a GPU: it checks one, computes nothing on it, and tells how long each step held one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steps.package import evidence, report
from steps.package import run as package
from steps.runtime import devices
from steps.runtime.contract import OUTPUTS, Package
from steps.runtime.errors import GpuUnavailable, IncompleteResults, ValidationFailed
from steps.runtime.files import write_json
from steps.runtime.reporter import Reporter

H100 = "NVIDIA H100 80GB HBM3"


def step(job: Path, name: str, **values: str) -> Path:
    """The outputs that a step left in a job's folder. values: with underscores."""
    folder = job / "outputs" / name
    folder.mkdir(parents=True)
    for key, value in values.items():
        assert key.replace("_", "-") in OUTPUTS
        (folder / key.replace("_", "-")).write_text(value)
    return folder


def failed(job: Path) -> None:
    write_json(step(job, "validate") / "failure.json", ValidationFailed("Two views are missing.").record())


def packed(job: Path, tmp_path: Path, device: str) -> Path:
    """Runs the step in this process."""
    out, outputs = tmp_path / "package", tmp_path / "outputs"
    for folder in (out, outputs):
        folder.mkdir()
    package.run(Package(out=out, outputs=outputs, job=job, device=device), out, Reporter(outputs, "packaging"))
    return out


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of the driver: there is none."""
    monkeypatch.setattr(devices, "probe", lambda: {"driver": "", "gpus": [], "problem": "No NVIDIA driver answers."})


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of the driver: it shows a GPU."""
    gpus = [{"name": H100, "memory_mib": 81559, "free_mib": 81000}]
    monkeypatch.setattr(devices, "probe", lambda: {"driver": "570.1", "gpus": gpus, "problem": ""})


def test_a_gpu_that_was_asked_for_and_is_not_usable_fails_the_step_in_its_stage(job: Path, tmp_path: Path) -> None:
    if devices.probe()["gpus"]:
        pytest.skip("this machine has a GPU")
    words = ["--job", job, "--out", tmp_path / "package", "--outputs", tmp_path / "outputs", "--device", "cuda"]
    done = subprocess.run([sys.executable, "-m", "steps.package", *map(str, words)], capture_output=True, check=False)
    record = json.loads((tmp_path / "outputs" / "failure.json").read_text())
    assert done.returncode == GpuUnavailable.exit_code and record["code"] == "GPU_UNAVAILABLE"
    assert record["details"]["pipeline_stage"] == "packaging"
    assert record["details"]["preflight"]["gpus"] == []


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_gpu_that_nobody_asked_for_is_not_missed(job: Path, tmp_path: Path, device: str, without_gpu: None) -> None:
    with pytest.raises(IncompleteResults):  # and not GpuUnavailable: there is no mesh here
        packed(job, tmp_path, device)


def test_with_a_usable_gpu_the_step_goes_on(job: Path, tmp_path: Path, with_gpu: None) -> None:
    with pytest.raises(IncompleteResults):
        packed(job, tmp_path, "cuda")
    assert (tmp_path / "package" / "report" / "index.html").exists()


def test_after_a_failure_the_report_is_written_whatever_became_of_the_gpu(
    job: Path, tmp_path: Path, without_gpu: None
) -> None:
    failed(job)
    out = packed(job, tmp_path, "cuda")
    assert "Two views are missing." in (out / "report" / "index.html").read_text()
    assert not (out / "result.zip").exists()


# -- the report ---------------------------------------------------------------------------------------------------------


def page(job: Path) -> str:
    return report.page(evidence.gather(job, ["reconviagen", "nvdiffrec"]))


def test_the_report_says_of_each_step_and_in_sum_how_long_it_held_a_gpu_and_how_long_that_computed(job: Path) -> None:
    step(job, "validate", gpu=H100, gpu_held_seconds="4.25")
    step(job, "nvdiffrec", gpu=H100, gpu_held_seconds="36.75", gpu_busy_seconds="17.1")
    step(job, "nvdiffrec.quality")
    text = page(job)
    assert f"GPU: held 41 s, computed 17 s ({H100})." in text
    assert "<td>held 4.2 s, computed 0 s</td>" in text and "<td>held 37 s, computed 17 s</td>" in text
    assert text.count("computed") == 3


def test_where_no_gpu_was_held_the_report_says_nothing_of_any(job: Path) -> None:
    step(job, "validate")
    step(job, "reconviagen", gpu_busy_seconds="0")
    assert "computed" not in page(job) and "<th>GPU</th>" not in page(job)


@pytest.mark.parametrize("damaged", ["", "many", "-3", "nan", "inf", "1e999"])
def test_a_time_that_is_none_is_no_time(job: Path, damaged: str) -> None:
    step(job, "reconviagen", gpu=H100, gpu_held_seconds=damaged)
    assert "computed" not in page(job)
