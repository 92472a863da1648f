"""Sets without a cameras.json: estimated rigs, and errors where they are ambiguous."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.ndimage import gaussian_filter

from steps.calibration.hypotheses import PRESETS
from steps.geometry.cameras import VIEW_NAMES, Camera, canonical_camera
from steps.io import png
from steps.io.depth_encoding import encode_linear
from steps.io.scene import load
from steps.raster.rasterize import rasterize
from steps.runtime.errors import RigAmbiguous
from steps.sample import capture_depth
from steps.sample.objects import OBJECTS
from steps.sample.render import build, render
from tests.benchmarks import captures_benchmark as captures
from tests.conftest import sixview

SIDE = 256
SEEDS = range(100, 108)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[captures.Verdict]:
    """The small form of `python -m tests.benchmarks captures`: each curve of depth once."""
    before, captures.FOLDER = captures.FOLDER, tmp_path_factory.mktemp("captures")
    try:
        every = zip(SEEDS, capture_depth.CURVES, strict=True)
        return [captures.judge_capture(seed, captures.Kind(SIDE, tuple(OBJECTS)), curve) for seed, curve in every]
    finally:
        captures.FOLDER = before


def test_no_wrong_rig_is_without_a_warning(verdicts: list[captures.Verdict]) -> None:
    assert [v for v in verdicts if v.silent] == []


def test_nearly_every_rig_is_found(verdicts: list[captures.Verdict]) -> None:
    assert sum(v.right for v in verdicts) >= 7


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
    done = subprocess.run([sys.executable, "-m", "steps.validate", *map(str, words)], stderr=subprocess.DEVNULL)
    assert done.returncode == 10  # no other is looked for, and this one does not fit a capture
    assert "(canonical)" in json.loads((tmp_path / "outputs" / "failure.json").read_text())["message"]


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


def test_an_ambiguous_rig_lists_its_hypotheses_and_any_answer_resolves_it(tmp_path: Path) -> None:
    source = box_set(tmp_path / "box")
    done = sixview("run", source, "--out", tmp_path / "out", "--json")
    assert done.returncode == RigAmbiguous.exit_code
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "RIG_AMBIGUOUS" and error["details"]["pipeline_stage"] == "rig"
    hypotheses = error["details"]["hypotheses"]
    assert len(hypotheses) > 1 and len({h["in_words"] for h in hypotheses}) == len(hypotheses)
    report = (tmp_path / "out" / "report" / "index.html").read_text()
    for hypothesis in hypotheses:
        assert next((tmp_path / "out").rglob(hypothesis["picture"])).stat().st_size > 10_000
        assert hypothesis["in_words"].replace("'", "&#39;") in report
    assert report.count('src="data:image/png') == len(hypotheses)
    answer = next((tmp_path / "out").rglob(hypotheses[1]["cameras"]))
    settled = sixview("run", source, "--out", tmp_path / "settled", "--cameras", answer)
    assert settled.returncode == 0, settled.stderr
    (source / "cameras.json").write_text(hypotheses[1]["line"])
    scene = validated(source, tmp_path / "by_line")
    reading = {key: hypotheses[1][key] for key in ("left_is", "top_turned", "bottom_turned")}
    assert json.loads((scene / "rig.json").read_text())["reading"] == reading


def validated(source: Path, out: Path, *flags: object) -> Path:
    """The scene that validate makes."""
    words = ["--input", source, "--out", out, "--outputs", out.with_suffix(".outputs"), *flags]
    done = subprocess.run(
        [sys.executable, "-m", "steps.validate", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (out.with_suffix(".outputs") / "message").read_text()
    return out


def test_a_given_field_of_view_is_not_estimated(capture: Path, tmp_path: Path) -> None:
    lens = tmp_path / "lens.json"
    lens.write_text(json.dumps({"format": "sixview-cameras/1", "rig": {"field_of_view": 52}}))
    scene = validated(capture, tmp_path / "scene", "--cameras", lens)
    metadata = json.loads((scene / "rig.json").read_text())
    assert (metadata["field_of_view"], metadata["field_of_view_error"]) == (52.0, 0.0)
    assert "field of view 52 degrees, as given" in json.loads((scene / "scene.json").read_text())["notes"][0]


# -- cameras of others --------------------------------------------------------------------------------------------------


def preset_set(folder: Path, preset: str, angle: float) -> list[Camera]:
    """The duck as a generator of six views has it, 8 bits of depth of an unknown encoding. Returns the cameras."""
    truth = build(OBJECTS["duck"], 100)
    for part in ("multi_views", "depth_renders"):
        (folder / part).mkdir(parents=True)
    tangent = np.tan(np.radians(angle / 2)) if angle else 1 / 300
    cameras = []
    for index, axes in enumerate(PRESETS[preset].axes):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes.T, axes[2] * 1.1 / tangent
        focal = SIDE / 2 / tangent
        camera = Camera(f"view_{index}", pose, focal, focal, SIDE / 2, SIDE / 2, SIDE, SIDE)
        picture, depth = render(truth, camera, 4)
        distance = 1.1 / tangent
        png.write(folder / "multi_views" / f"view_{index}.png", png.to_bytes(picture))
        png.write(
            folder / "depth_renders" / f"depth_{index}.png", encode_linear(depth, distance + 1, distance - 1.1, 8)
        )
        cameras.append(camera)
    return cameras


@pytest.mark.parametrize(
    ("preset", "angle"), [("zero123plus-v1.1", 40.0), ("zero123plus-v1.2", 30.0), ("wonder3d", 0.0)]
)
def test_the_views_of_a_generator_are_known_by_its_name(tmp_path: Path, preset: str, angle: float) -> None:
    preset_set(tmp_path / "set", preset, angle)
    scene = validated(tmp_path / "set", tmp_path / "scene", "--rig", preset)
    metadata = json.loads((scene / "rig.json").read_text())
    assert metadata["reading"] == {"preset": preset} and metadata["larger_is"] == "nearer"
    assert metadata["field_of_view"] == pytest.approx(angle, abs=2)
    assert not [n for n in json.loads((scene / "scene.json").read_text())["notes"] if "WARNING" in n]


def test_cameras_without_an_encoding_get_the_one_that_the_depth_agrees_in(tmp_path: Path) -> None:
    """Here NeRF's; COLMAP's and a cameras.json without depth take the same way."""
    cameras = preset_set(tmp_path / "set", "zero123plus-v1.2", 30.0)
    z_up = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    frames = [{"file_path": f"{c.name}.png", "transform_matrix": (z_up @ c.camera_to_world).tolist()} for c in cameras]
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": np.radians(30), "frames": frames}))
    scene = load(validated(tmp_path / "set", tmp_path / "scene", "--cameras", tmp_path / "transforms.json"))
    truth = build(OBJECTS["duck"], 100)
    for view, camera in zip(scene.views, cameras, strict=True):
        exact = rasterize(truth.vertices, truth.faces, camera).depth
        both = (exact > 0) & (view.depth() > 0)
        assert np.abs(exact - scene.frame.scale * view.depth())[both].mean() < 0.03
    assert "encoding was found" in scene.metadata["notes"][0]


# -- backgrounds --------------------------------------------------------------------------------------------------------


def test_any_uniform_background_is_recognized_and_a_shadow_on_it_is_not_the_object(tmp_path: Path) -> None:
    sixview("sample", tmp_path / "set", "--object", "duck", "--size", str(SIDE))
    behind = np.array([0.35, 0.55, 0.5])
    coverage = {}
    for path in (tmp_path / "set" / "multi_views").iterdir():
        rgba = np.asarray(Image.open(path), np.float64) / 255
        alpha = rgba[..., 3:]
        shadow = 1 - 0.3 * gaussian_filter(np.roll(alpha, SIDE // 20, axis=0), (SIDE / 30, SIDE / 30, 0))
        png.write(path, png.to_bytes(rgba[..., :3] * alpha + behind * shadow * (1 - alpha)))
        coverage[path.stem] = alpha[..., 0]
    scene = load(validated(tmp_path / "set", tmp_path / "scene"))
    assert scene.background == pytest.approx(behind, abs=0.02)
    for view in scene.views:
        mask, true = view.coverage() > 0.5, coverage[view.camera.name] > 0.5
        assert (mask & true).sum() / (mask | true).sum() > 0.985


def test_white_parts_before_white_keep_the_outline_that_depth_gives_them(tmp_path: Path) -> None:
    source = tmp_path / "ball.ply"
    trimesh.creation.icosphere(4).export(source)
    sixview("sample", tmp_path / "set", "--object", source, "--size", str(SIDE), "--background", "white")
    for path in (tmp_path / "set" / "multi_views").iterdir():
        png.write(path, np.full((SIDE, SIDE, 3), 252, np.uint8))
    scene = load(validated(tmp_path / "set", tmp_path / "scene"))
    for view in scene.views:
        assert np.array_equal(view.coverage() > 0.5, view.depth() > 0)
