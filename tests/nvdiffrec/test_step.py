"""`sixview run --model both` from end to end on a small sample."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from steps.io import mesh_files
from steps.runtime.contract import START_MESH
from tests.conftest import Finished, sixview

SCHEMA = Path(__file__).parents[2] / "steps" / "quality" / "quality.schema.json"
FLAGS = ("--iterations", 12, "--tet-grid", 32)


@pytest.fixture(scope="module")
def both(sample_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    source = sample_set("mug", "--held-out", 3)
    out = tmp_path_factory.mktemp("both") / "out"
    held_out = source / "ground_truth"
    done = sixview("run", source, "--out", out, "--model", "both", "--held-out", held_out, *FLAGS, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(out, done)


def test_both_models_stand_side_by_side(both: Finished) -> None:
    assert list(both.summary["models"]) == ["reconviagen", "nvdiffrec"]
    with zipfile.ZipFile(both.out / "result.zip") as archive:
        names = set(archive.namelist())
    for name in ("mesh.obj", "mesh.glb", "quality.json", "texture.png", "texture_orm.png", "texture_normal.png"):
        assert f"nvdiffrec/{name}" in names
    assert "reconviagen/texture_orm.png" not in names and f"nvdiffrec/{START_MESH}" not in names
    page = (both.out / "report" / "index.html").read_text()
    assert "nvdiffrec: what it started from" in page and "between the views" in page


def test_before_and_after_are_in_the_quality_file_and_after_is_better(both: Finished) -> None:
    quality = json.loads((both.out / "nvdiffrec" / "quality.json").read_text())
    jsonschema.validate(quality, json.loads(SCHEMA.read_text()))
    assert quality["psnr"] > quality["before"]["psnr"]
    assert quality["between"]["views"] == 3 and quality["between"]["before"] > 20
    settings = quality["settings"]
    assert settings["kept"] in ("plain", "lit") and settings["rung"]["given_up"] == {} and settings["device"] == "cpu"
    other = json.loads((both.out / "reconviagen" / "quality.json").read_text())
    assert other["before"] is None and other["between"]["before"] is None


def test_the_material_survives_the_files(both: Finished) -> None:
    mesh = mesh_files.load(both.out / "nvdiffrec")
    assert mesh.material is not None and mesh.material.orm.shape == mesh.texture.shape == mesh.material.normal.shape
    assert np.linalg.norm(mesh.material.tangents[:, :3], axis=1) == pytest.approx(np.ones(len(mesh.vertices)), abs=1e-3)
    assert "norm texture_normal.png" in (both.out / "nvdiffrec" / "mesh.mtl").read_text()


def nvdiffrec(scene: Path, folder: Path, *flags: object) -> subprocess.Popen[bytes]:
    words = ["--scene", scene, "--out", folder / "out", "--outputs", folder / "outputs", "--iterations", 12]
    words += ["--checkpoint", folder / "checkpoint.pt", "--checkpoint-seconds", 0, *flags]
    command = [sys.executable, "-m", "steps.nvdiffrec", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture(scope="module")
def whole(both: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted step."""
    folder = tmp_path_factory.mktemp("whole")
    assert nvdiffrec(both.out / ".sixview" / "scene", folder).wait(timeout=200) == 0
    return folder


SAME = ("mesh.glb", "model.json", "texture.png")


def test_a_killed_step_goes_on_from_its_checkpoint_and_ends_with_the_same_mesh(
    both: Finished, whole: Path, tmp_path: Path
) -> None:
    scene, broken = both.out / ".sixview" / "scene", tmp_path
    step = nvdiffrec(scene, broken)
    give_up = time.monotonic() + 100
    while time.monotonic() < give_up and not _progress(broken) > 14:  # in the second pass: twelve go to the first
        time.sleep(0.02)
    os.killpg(step.pid, signal.SIGKILL)
    step.wait(timeout=20)
    time.sleep(0.5)  # the working child goes with its parent
    assert (broken / "checkpoint.pt").is_file() and not (broken / "out").exists()
    assert nvdiffrec(scene, broken).wait(timeout=200) == 0
    assert "going on from the checkpoint" in (broken / "outputs" / "log.txt").read_text()
    for name in SAME:
        assert (whole / "out" / name).read_bytes() == (broken / "out" / name).read_bytes(), name
    assert not (broken / "checkpoint.pt").exists() and not (broken / "outputs" / "notes.json").exists()


def test_damaged_files_of_earlier_attempts_mean_starting_anew_with_a_note(
    both: Finished, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(bytes(10_000))
    (tmp_path / "attempts.json").write_text('{"outcome": "MODEL_VRAM_OOM"}')
    step = nvdiffrec(both.out / ".sixview" / "scene", tmp_path, "--attempts", tmp_path / "attempts.json")
    assert step.wait(timeout=200) == 0
    attempts, checkpoint = json.loads((tmp_path / "outputs" / "notes.json").read_text())
    assert "attempts.json, was damaged" in attempts and "checkpoint.pt is damaged" in checkpoint
    for name in SAME:
        assert (whole / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    assert [a["outcome"] for a in json.loads((tmp_path / "attempts.json").read_text())] == ["completed"]


def _progress(folder: Path) -> int:
    try:
        return int((folder / "outputs" / "progress").read_text().split("/")[0])
    except (OSError, ValueError):
        return 0


def test_a_missing_gpu_is_an_error_and_not_replaced_by_the_cpu(both: Finished, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert nvdiffrec(both.out / ".sixview" / "scene", tmp_path, "--device", "cuda").wait(timeout=100) == 23
    record = json.loads((tmp_path / "outputs" / "failure.json").read_text())
    assert record["code"] == "GPU_UNAVAILABLE" and record["details"]["pipeline_stage"] == "weight_loading"
