"""The engine reconviagen, whole, with a stand-in for the published package: the same public names, tiny random weights, on the
CPU. What it cannot show is what the real weights make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.geometry.cameras import project
from steps.io import scene, weights_manifest
from steps.reconviagen import framing
from steps.reconviagen.model import MemoryLevel, memory_levels
from steps.registration.global_icp import Similarity
from steps.runtime.attempts import Attempts
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import ModelVramOom
from tests.conftest import sixview
from tests.reconviagen.parts import environment, write_weights

GATE = ("--psnr-threshold", 12, "--ssim-threshold", 0.5)  # the stand-in makes a hull of boxes
SHORT = ("--structure-steps", 3, "--latent-steps", 2)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "all")


def job(out: Path, source: Path, folder: Path, *words: object, **more: str) -> dict[str, Any]:
    flags = ("--engine", "reconviagen", "--device", "cpu", "--weights", folder, *SHORT, *GATE, "--json", *words)
    done = sixview("run", source, "--out", out, *flags, env={**os.environ, **environment(**more)})
    assert "Traceback" not in done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_set: Callable[..., Path], given: Path) -> Path:
    out = tmp_path_factory.mktemp("job") / "out"
    summary = job(out, sample_set("duck", "--size", 192), given, "--refine")
    assert summary["status"] == "completed", summary["error"]
    return out


def model_json(out: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((out / ".sixview" / "reconviagen" / "mesh" / "model.json").read_text())
    return metadata


@pytest.mark.slow
def test_a_whole_job_ends_with_the_mesh_where_the_cameras_say(finished: Path) -> None:
    metadata = model_json(finished)
    assert (metadata["engine"], metadata["device"], metadata["device_name"]) == ("reconviagen", "cpu", "CPU")
    assert metadata["registration"]["iou"] > 0.8
    assert metadata["registration"]["explained"] > 0.9
    assert metadata["structure"]["steps"] == 3
    assert metadata["weights"]["pipeline"] == "Stable-X/trellis-vggt-v0-2 at " + "0" * 40
    assert metadata["rung"]["stood_on"] == {"batch": 6, "low_vram": False, "refine": True}


@pytest.mark.slow
def test_its_stages_are_reported_in_order(finished: Path) -> None:
    stages = [
        s["stage"] for s in json.loads((finished / ".sixview" / "outputs" / "reconviagen" / "stages.json").read_text())
    ]
    assert stages == ["weight_loading", "inference", "export"] * 2


@pytest.mark.slow
def test_the_report_shows_what_was_seen_and_what_was_made_up(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert "Seen and generated" in page
    assert "reconviagen (reconviagen)" in page
    assert "registration: explained" in page
    with zipfile.ZipFile(finished / "result.zip") as archive:
        assert "coverage.png" in {Path(name).name for name in archive.namelist()}


def failing(tmp_path: Path, duck: Path, folder: Path, *words: object, **more: str) -> dict[str, Any]:
    summary = job(tmp_path / "out", duck, folder, *words, **more)
    error: dict[str, Any] = summary["error"]
    return error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "extra", "words"),
    [("first.bias", "", "missing: Network.first.bias"), ("", "third.bias", "unexpected: Network.third.bias")],
)
def test_parameters_that_do_not_fit_are_named(without: str, extra: str, words: str, tmp_path: Path, duck: Path) -> None:
    error = failing(tmp_path, duck, write_weights(tmp_path / "weights", without, extra))
    assert (error["code"], error["details"]["pipeline_stage"]) == ("WEIGHTS_MISSING", "weight_loading")
    assert words in error["message"]


@pytest.mark.slow
def test_parameters_that_are_known_to_be_missing_are_not_missed(tmp_path: Path, duck: Path) -> None:
    folder = write_weights(tmp_path / "weights", "first.bias")
    manifest = json.loads((folder / weights_manifest.FILE).read_text())
    manifest["parts"]["vggt"]["may_lack"] = ["*.bias"]
    (folder / weights_manifest.FILE).write_text(json.dumps(manifest))
    assert job(tmp_path / "out", duck, folder)["error"] is None


@pytest.mark.slow
def test_a_file_that_is_not_the_manifests_stops_the_job_before_it_is_loaded(tmp_path: Path, duck: Path) -> None:
    folder = write_weights(tmp_path / "weights")
    path = folder / "vggt" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    error = failing(tmp_path, duck, folder)
    assert (error["code"], error["details"]["pipeline_stage"]) == ("WEIGHTS_MISSING", "weight_loading")
    assert error["details"]["faults"] == [{"file": "vggt/model.safetensors", "fault": "has another SHA-256"}]
    assert error["details"]["engine"] == "reconviagen"


@pytest.mark.slow
def test_a_missing_gpu_is_reported_by_the_models_own_torch(tmp_path: Path, scene_of_duck: Path, given: Path) -> None:
    code, record = step(tmp_path, scene_of_duck, given, "--device", "cuda")
    assert (code, record["code"], record["details"]["pipeline_stage"]) == (23, "GPU_UNAVAILABLE", "weight_loading")


@pytest.fixture(scope="module")
def scene_of_duck(duck: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scene") / "scene"
    words = ["--input", str(duck), "--out", str(out), "--outputs", str(out.with_suffix(".outputs"))]
    subprocess.run([sys.executable, "-m", "steps.validate", *words], check=True)
    return out


def step(tmp_path: Path, input_path: Path, folder: Path, *words: str, **more: str) -> tuple[int, dict[str, Any]]:
    """The step alone: its exit code and its record."""
    flags = [
        "--scene",
        str(input_path),
        "--weights",
        str(folder),
        "--engine",
        "reconviagen",
        "--out",
        str(tmp_path / "mesh"),
    ]
    flags += ["--outputs", str(tmp_path / "outputs"), "--structure-steps", "2", "--latent-steps", "2", *words]
    done = subprocess.run(
        [sys.executable, "-m", "steps.reconviagen", *flags], env={**os.environ, **environment(**more)}, check=False
    )
    failure = tmp_path / "outputs" / "failure.json"
    return done.returncode, json.loads(failure.read_text()) if failure.is_file() else {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "code", "stage", "oom"),
    [
        ("oom at load", "MODEL_VRAM_OOM", "weight_loading", "vram"),
        ("oom at inference", "MODEL_VRAM_OOM", "inference", "vram"),
        ("killed at inference", "MODEL_OOM", "inference", "ram"),
    ],
)
def test_out_of_memory_is_reported_with_its_kind_and_stage(
    moment: str, code: str, stage: str, oom: str, tmp_path: Path, scene_of_duck: Path, given: Path
) -> None:
    _, record = step(tmp_path, scene_of_duck, given, "--device", "cpu", STANDIN_FAILS=moment)
    details = record["details"]
    assert (record["code"], details["pipeline_stage"], details["oom_type"]) == (code, stage, oom)


@pytest.mark.slow
def test_the_memory_level_is_lowered_until_the_memory_suffices(tmp_path: Path, duck: Path, given: Path) -> None:
    """Encoding six views at a time runs out of memory here: the next attempt encodes one at a time."""
    summary = job(tmp_path / "out", duck, given, STANDIN_FAILS="oom at encoding 6")
    assert summary["error"] is None
    assert model_json(tmp_path / "out")["rung"]["stood_on"]["batch"] == 1
    attempts = json.loads((tmp_path / "out" / ".sixview" / "attempts" / "reconviagen.json").read_text())
    assert [a["outcome"] for a in attempts] == ["MODEL_VRAM_OOM", "completed"]


@pytest.mark.slow
def test_refinement_is_given_up_last(tmp_path: Path, duck: Path, given: Path) -> None:
    summary = job(tmp_path / "out", duck, given, "--refine", STANDIN_FAILS="oom at refine")
    assert summary["error"] is None
    assert model_json(tmp_path / "out")["rung"]["stood_on"] == {"batch": 1, "low_vram": True, "refine": False}


# -- its parts ----------------------------------------------------------------------------------------------------------


def parameters(**chosen: Any) -> Reconviagen:
    return Reconviagen(out=Path("x"), outputs=Path("x"), scene=Path("x"), **chosen)


def test_no_memory_level_takes_fewer_sampler_steps() -> None:
    levels = memory_levels(parameters(refine=True))
    assert levels == [
        MemoryLevel(6, False, True),
        MemoryLevel(1, False, True),
        MemoryLevel(1, True, True),
        MemoryLevel(1, True, False),
    ]
    assert memory_levels(parameters(low_vram=True, batch=1)) == [MemoryLevel(1, True, False)]


def test_each_attempt_is_one_level_below_those_that_failed_and_the_lowest_is_the_last() -> None:
    levels, book = memory_levels(parameters()), Attempts(None)
    for index, level in enumerate(levels):
        assert book.first(levels) == index
        book.earlier.append({**asdict(level), "outcome": ModelVramOom.code})
    with pytest.raises(ModelVramOom):
        book.first(levels)


def test_framed_pictures_and_cameras_belong_together(scene_of_duck: Path, tmp_path: Path) -> None:
    """A point of the object has the same colour in the view and in the framed picture, for any frame of the model."""
    views = scene.load(scene_of_duck).views
    pictures = [framing.frame_object(view, tmp_path) for view in views]
    to_scene = Similarity(1.7, np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]), np.array([0.1, -0.2, 0.3]))
    cameras = framing.cameras(views, pictures, to_scene)
    points = np.random.default_rng(1).uniform(-0.3, 0.3, (20, 3))
    for view, picture, extrinsic, intrinsic in zip(
        views, pictures, np.array(cameras["extrinsics"]), np.array(cameras["intrinsics"]), strict=True
    ):
        own = to_scene.inverse()(points)
        local = own @ extrinsic[:3, :3].T + extrinsic[:3, 3]
        share = local @ intrinsic.T
        pixels = share[:, :2] / share[:, 2:] * picture.side + [picture.left, picture.top]
        np.testing.assert_allclose(pixels, project(points, view.camera)[0], atol=1e-6)
