"""Metrics and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from steps.compute.arrays import Array
from steps.geometry.image_ops import BEST_PSNR, iou, psnr
from steps.quality import metrics
from steps.quality.run import failure
from steps.runtime.errors import QualityThresholdFailed, by_code
from tests.conftest import Finished

SCHEMA = Path(__file__).parents[2] / "steps" / "quality" / "quality.schema.json"


def noisy(sigma: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    reference = rng.random((128, 128, 3)).astype(np.float32)
    return reference, reference + rng.normal(scale=sigma, size=reference.shape).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.1])
def test_psnr_of_gaussian_noise_is_minus_twenty_log_sigma(sigma: float) -> None:
    assert psnr(*noisy(sigma)) == pytest.approx(-20 * np.log10(sigma), abs=0.1)


def test_identical_pictures_have_the_best_scores() -> None:
    reference, _ = noisy(0.1)
    everywhere = np.ones(reference.shape[:2], bool)
    assert psnr(reference, reference) == BEST_PSNR
    assert metrics.ssim(reference, reference, everywhere) == (pytest.approx(1), pytest.approx(1))


def test_leaving_out_what_is_equal_does_not_change_the_similarity() -> None:
    reference, picture = noisy(0.05)
    picture[:, :50], picture[90:] = reference[:, :50], reference[90:]
    expected, pixels = structural_similarity(reference, picture, channel_axis=-1, data_range=1.0, full=True)
    where = np.zeros(reference.shape[:2], bool)
    where[40:100, 30:80] = True
    assert metrics.ssim(reference, picture, where) == (
        pytest.approx(expected, abs=1e-6),
        pytest.approx(pixels[where].mean(), abs=1e-6),
    )


def test_a_mask_hides_what_is_outside_it() -> None:
    reference, picture = noisy(0.01)
    where = np.zeros(reference.shape[:2], bool)
    where[:64] = True
    picture[64:] = 0
    assert psnr(reference, picture, where) == pytest.approx(40, abs=0.2) and psnr(reference, picture) < 10


def test_intersection_over_union() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(a, b) == 0
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(1 / 3)


def test_quality_json_fits_its_schema_and_starts_with_what_matters(job: Finished) -> None:
    report = json.loads((job.out / "reconviagen" / "quality.json").read_text())
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    assert list(report)[1:11] == [
        "model",
        "engine",
        "device",
        "psnr",
        "ssim",
        "passed",
        "thresholds",
        "object",
        "blank",
        "views",
    ]


def test_a_mesh_is_better_than_a_blank_picture_and_close_to_the_truth(job: Finished) -> None:
    report = json.loads((job.out / "reconviagen" / "quality.json").read_text())
    assert report["psnr"] > 31 > 20 > report["blank"]["psnr"]
    assert report["ssim"] > 0.98 and report["object"]["psnr"] > 27
    assert report["mesh"]["watertight"] and report["mesh"]["oriented"] and report["mesh"]["vertex_manifold"]
    assert report["mesh"]["crossing_faces"] == 0
    assert all(view["iou"] > 0.98 and view["depth_error"]["median"] < 0.005 for view in report["views"])


def test_a_gate_that_fails_repeats_the_cause_that_validate_knew(job: Finished) -> None:
    report = json.loads((job.out / "reconviagen" / "quality.json").read_text())
    report["thresholds"]["psnr"] = 90.0
    assert failure(report).suggestion == QualityThresholdFailed.advice
    cause = "The pictures of front and top are exchanged: exchanging them mends it."
    report["judgement"]["agreement"]["cause"] = cause
    error = failure(report)
    assert error.message.endswith(f"is below 90. {cause}")
    assert error.suggestion.startswith(cause) and "Otherwise: look at the pictures" in error.suggestion


def test_the_gate_s_record_has_actual_and_threshold_of_each(job: Finished, duck: Path, tmp_path: Path) -> None:
    from tests.conftest import sixview

    done = sixview("run", duck, "--out", tmp_path / "out", "--json", "--psnr-threshold", 90, "--ssim-threshold", 0.5)
    summary = json.loads(done.stdout)
    assert done.returncode == by_code()["QUALITY_THRESHOLD_FAILED"].exit_code == summary["exit_code"]
    details = summary["error"]["details"]
    assert details["psnr"] == {"actual": pytest.approx(job.summary["models"]["reconviagen"]["psnr"]), "threshold": 90}
    assert details["ssim"]["actual"] > details["ssim"]["threshold"] == 0.5
    assert "PSNR" in summary["error"]["message"] and "SSIM" not in summary["error"]["message"]
    kept = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert {"result.zip", "report/index.html", "reconviagen/mesh.glb", "reconviagen/previews/textured_05.png"} <= kept
    assert "QUALITY_THRESHOLD_FAILED" in (tmp_path / "out" / "report" / "index.html").read_text()
