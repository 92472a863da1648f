"""Sets without a cameras.json: the rig is found, or it is said why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.errors import RigAmbiguous
from steps.formats import png
from steps.formats.depth_encoding import encode_linear
from steps.formats.scene import load
from steps.geometry.cameras import VIEW_NAMES, canonical_camera
from steps.geometry.rasterize import rasterize
from tests.benchmarks import captures_benchmark as captures
from tests.conftest import sixview

Array = np.ndarray[Any, Any]
SIDE = 256
SEEDS = range(100, 112)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[captures.Verdict]:
    """The small form of `python -m tests.benchmarks captures`."""
    before, captures.FOLDER = captures.FOLDER, tmp_path_factory.mktemp("captures")
    try:
        return [captures.judged(seed, SIDE) for seed in SEEDS]
    finally:
        captures.FOLDER = before


def test_no_rig_is_wrong_without_a_word(verdicts: list[captures.Verdict]) -> None:
    assert [v for v in verdicts if not v.refused and not v.right] == []


def test_nearly_every_rig_is_found(verdicts: list[captures.Verdict]) -> None:
    assert sum(v.right for v in verdicts) >= 11


def test_the_field_of_view_is_found(verdicts: list[captures.Verdict]) -> None:
    """At a quarter of the benchmark's pixels, so with twice its tolerance."""
    assert np.median([abs(v.off) for v in verdicts if v.right]) < 3
    assert max(abs(v.off) for v in verdicts if v.right) < 6


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture") / "set"
    sixview("sample", folder, "--object", "duck", "--capture", "real", "--size", str(SIDE), "--seed", "107")
    return folder


def test_a_real_capture_becomes_a_mesh_that_passes_with_room(capture: Path, tmp_path: Path) -> None:
    done = sixview("run", capture, "--out", tmp_path / "out", "--json")
    model = json.loads(done.stdout)["models"]["reconviagen"]
    assert model["psnr"] > 26 and model["ssim"] > 0.93
    report = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "The rig was found from the pictures" in report


def test_a_rig_is_shown_saved_and_given_again_for_the_same_scene(capture: Path, tmp_path: Path) -> None:
    saved, picture = tmp_path / "cameras.json", tmp_path / "rig.png"
    shown = sixview("rig", capture, "--save", saved, "--picture", picture)
    assert shown.returncode == 0 and "left means the" in shown.stdout
    assert png.decode(picture.read_bytes()).pixels.shape[:2] == (900, 900)
    scenes = []
    for flags in ([], ["--cameras", saved]):
        out = tmp_path / f"scene{len(scenes)}"
        words = ["--input", capture, "--out", out, "--outputs", tmp_path / f"outputs{len(scenes)}", *flags]
        subprocess.run(
            [sys.executable, "-m", "steps.validate", *map(str, words)], check=True, stderr=subprocess.DEVNULL
        )
        scenes.append(load(out))
    for a, b in zip(*(s.views for s in scenes), strict=True):
        assert np.allclose(a.camera.projection, b.camera.projection) and np.allclose(a.depth(), b.depth())
        assert np.array_equal(a.coverage(), b.coverage())


def test_the_nominal_rig_can_be_insisted_on(tmp_path: Path) -> None:
    source = tmp_path / "capture"
    sixview("sample", source, "--object", "duck", "--capture", "real", "--size", "64")
    words = ["--input", source, "--out", tmp_path / "scene", "--outputs", tmp_path / "outputs", "--rig", "nominal"]
    subprocess.run([sys.executable, "-m", "steps.validate", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
    assert json.loads((tmp_path / "scene" / "scene.json").read_text())["rig"] == "canonical"
    assert not (tmp_path / "scene" / "rig.json").exists()


def box_set(folder: Path) -> Path:
    """A cube with a colour of its own on each side: no view shows what another one does."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.45
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))], np.int32)
    random = np.random.default_rng(0)
    for part in ("multi_views", "depth_renders"):
        (folder / part).mkdir(parents=True)
    for name in VIEW_NAMES:
        camera = canonical_camera(name, SIDE, SIDE)
        depth = rasterize(corners, faces, camera).depth
        pattern = np.kron(random.random((8, 8, 3)), np.ones((SIDE // 8, SIDE // 8, 1)))
        colour = np.where(depth[..., None] > 0, pattern, 1.0)
        png.write(folder / "multi_views" / f"{name}.png", png.to_bytes(colour))
        # nearer is larger, so that it is not the nominal encoding
        png.write(folder / "depth_renders" / f"{name}.png", encode_linear(depth, 4.0, 1.0, 16))
    return folder


def test_what_the_pictures_cannot_tell_is_asked_for_and_any_answer_settles_it(tmp_path: Path) -> None:
    source = box_set(tmp_path / "box")
    done = sixview("run", source, "--out", tmp_path / "out", "--json")
    assert done.returncode == RigAmbiguous.exit_code
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "RIG_AMBIGUOUS" and error["details"]["pipeline_stage"] == "rig"
    hypotheses = error["details"]["hypotheses"]
    assert len(hypotheses) > 1 and len({h["in_words"] for h in hypotheses}) == len(hypotheses)
    answer = next((tmp_path / "out").rglob(hypotheses[1]["cameras"]))
    settled = sixview("run", source, "--out", tmp_path / "settled", "--cameras", answer)
    assert settled.returncode == 0, settled.stderr
