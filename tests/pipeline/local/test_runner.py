"""`sixview run` from end to end, on small samples."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline.local import runner
from pipeline.local.progress import Display
from steps.runtime.errors import by_code
from tests import kill
from tests.conftest import Finished, sixview

PREVIEWS = {f"{kind}_{i:02d}.png" for kind in ("textured", "wireframe") for i in range(6)}
MESHES = {"mesh.obj", "mesh.ply", "mesh.glb", "mesh.mtl", "texture.png"}


# -- what a job leaves ---------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_readme_promises(job: Finished) -> None:
    assert {p.name for p in job.out.iterdir()} == {"result.zip", "report", "reconviagen", "outputs.json", ".sixview"}
    model = job.out / "reconviagen"
    assert {p.name for p in model.iterdir()} == MESHES | {"quality.json", "previews"}
    assert {p.name for p in (model / "previews").iterdir()} >= PREVIEWS | {"turntable.webp"}


def test_the_archive_holds_exactly_the_promised_files(job: Finished) -> None:
    with zipfile.ZipFile(job.out / "result.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    expected = {f"reconviagen/{n}" for n in MESHES | {"quality.json"}} | {f"reconviagen/previews/{n}" for n in PREVIEWS}
    assert names == expected | {"report/index.html", "run.json", "manifest.json"}


def test_the_manifest_s_digests_match_the_archive(job: Finished) -> None:
    with zipfile.ZipFile(job.out / "result.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert set(manifest["files"]) == set(archive.namelist()) - {"manifest.json"}
        lines = []
        for name, entry in sorted(manifest["files"].items()):
            data = archive.read(name)
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])
            if name != "run.json" and not name.startswith("report/"):
                lines.append(f"{entry['sha256']}  {name}\n")
    assert (
        manifest["content_digest"]
        == hashlib.sha256("".join(lines).encode()).hexdigest()
        == job.summary["content_digest"]
    )
    assert manifest["missing"] == []


def test_engine_device_and_reason_stand_wherever_the_model_is_named(job: Finished) -> None:
    quality = json.loads((job.out / "reconviagen" / "quality.json").read_text())
    assert (quality["model"], quality["engine"], quality["device"]) == ("reconviagen", "fusion", "cpu")
    assert "no weights" in quality["settings"]["engine_reason"]
    assert "reconviagen (fusion)" in (job.out / "report" / "index.html").read_text()
    assert job.summary["models"]["reconviagen"]["engine"] == "fusion"


def test_the_report_is_one_page_without_scripts_or_outside_addresses(job: Finished) -> None:
    page = (job.out / "report" / "index.html").read_text()
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)
    assert (
        page.count("data:image/png;base64,") == 18 and page.count("data:image/webp;base64,") == 2
    )  # the turntable, and what was taken for the object
    assert "<svg" in page and "inference" in page and "passed" in page


def test_previews_are_pictures_and_the_turntable_moves(job: Finished) -> None:
    previews = job.out / "reconviagen" / "previews"
    for name in PREVIEWS:
        with Image.open(previews / name) as image:
            assert image.size == (512, 512) and len(image.convert("RGB").getcolors(1 << 20) or []) > 20
    with Image.open(previews / "turntable.webp") as image:
        assert image.is_animated and image.n_frames >= 24


def test_run_json_has_the_times_and_memory_of_every_stage(job: Finished) -> None:
    with zipfile.ZipFile(job.out / "result.zip") as archive:
        run = json.loads(archive.read("run.json"))
    assert set(run["steps"]) == {"validate", "reconviagen", "reconviagen.quality", "reconviagen.preview"}
    for step in run["steps"].values():
        assert float(step["seconds"]) > 0 and int(step["peak-ram-mib"]) > 10 and step["stages"]
    assert [s["stage"] for s in run["steps"]["reconviagen"]["stages"]] == ["weight_loading", "inference", "export"]


# -- the same again ------------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(job: Finished, duck: Path, tmp_path: Path) -> None:
    done = sixview("run", duck, "--out", tmp_path / "again", "--json")
    assert json.loads(done.stdout)["content_digest"] == job.summary["content_digest"]


def test_a_zip_gives_the_same_result_as_its_folder(job: Finished, duck: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "duck"), "zip", duck)
    done = sixview("run", archive, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["content_digest"] == job.summary["content_digest"]


@pytest.fixture
def copied(job: Finished, tmp_path: Path) -> Path:
    shutil.copytree(job.out, tmp_path / "out")
    return tmp_path / "out"


ALL = ["validate", "reconviagen", "reconviagen.quality", "reconviagen.preview"]


@pytest.mark.parametrize(
    ("flags", "reused"),
    [
        ([], ALL),
        (["--psnr-threshold", 21], [s for s in ALL if s != "reconviagen.quality"]),
        (["--faces", 5000], ["validate"]),
        (["--restart"], []),
    ],
    ids=["nothing changed", "another threshold", "another option of the model", "asked to forget"],
)
def test_only_what_depends_on_a_change_is_done_again(
    duck: Path, copied: Path, flags: list[object], reused: list[str]
) -> None:
    summary = json.loads(sixview("run", duck, "--out", copied, "--json", *flags).stdout)
    assert summary["steps"]["reused"] == reused and summary["status"] == "completed"


def test_a_changed_input_is_noticed(set_copy: Path, duck: Path, copied: Path) -> None:
    with Image.open(set_copy / "multi_views" / "front.png") as image:
        image.rotate(1).save(set_copy / "multi_views" / "front.png")
    assert json.loads(sixview("run", set_copy, "--out", copied, "--json").stdout)["steps"]["reused"] == []


def test_a_damaged_result_is_made_again(job: Finished, duck: Path, copied: Path) -> None:
    (copied / ".sixview" / "reconviagen" / "mesh" / "texture.png").write_bytes(b"damaged")
    summary = json.loads(sixview("run", duck, "--out", copied, "--json").stdout)
    assert summary["steps"]["reused"] == ["validate", "reconviagen.quality", "reconviagen.preview"]
    assert summary["content_digest"] == job.summary["content_digest"]


@pytest.mark.parametrize("number", range(6))
def test_a_run_killed_at_a_random_moment_ends_as_the_undisturbed_one(
    job: Finished, duck: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    where = kill.killed(duck, out, *kill.moment(number, seed=5, whole=float(job.summary["seconds"])))
    assert not kill.half_written(out), where
    assert kill.finished(duck, out)[0] == job.summary["content_digest"], where


def test_two_runs_in_one_folder_do_not_mix(job: Finished, duck: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(kill.command(duck, tmp_path / "out"), stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    second = sixview("run", duck, "--out", tmp_path / "out", "--json")
    assert json.loads(first.communicate(timeout=120)[0])["content_digest"] == job.summary["content_digest"]
    summary = json.loads(second.stdout)
    assert (
        summary.get("content_digest") == job.summary["content_digest"]
        or "Another sixview run" in summary["error"]["message"]
    )


# -- failures ------------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_job_as_interrupted(duck: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(kill.command(duck, tmp_path / "out"), stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    summary = json.loads(process.communicate(timeout=5)[0])
    assert process.returncode == 30 == by_code()["INTERRUPTED"].exit_code
    assert summary["error"]["code"] == "INTERRUPTED" and summary["result"] is None


def test_a_stop_between_two_steps_is_no_success(duck: Path, tmp_path: Path) -> None:
    between = runner.Job(runner.Options(input=duck, out=tmp_path, models=("reconviagen",)), Display(quiet=True))
    between.stopped = True
    summary, code = between.finish(1.0)
    assert (code, summary["status"], summary["error"]["code"]) == (30, "failed", "INTERRUPTED")


def test_bad_input_is_explained_to_a_person_and_to_a_program(set_copy: Path, tmp_path: Path) -> None:
    (set_copy / "multi_views" / "front.png").write_bytes(b"\xff\xd8\xff")
    person = sixview("run", set_copy, "--out", tmp_path / "out")
    program = sixview("run", set_copy, "--out", tmp_path / "out", "--json")
    assert person.returncode == program.returncode == 10
    assert (
        "INVALID_FILE_FORMAT" in person.stderr and "What to do:" in person.stderr and "Traceback" not in person.stderr
    )
    error = json.loads(program.stdout)["error"]
    assert error["details"]["file"] == "multi_views/front.png" and error["details"]["index"] == 0
    assert error["details"]["pipeline_stage"] == "validation"
    assert "INVALID_FILE_FORMAT" in (tmp_path / "out" / "report" / "index.html").read_text()
    assert not (tmp_path / "out" / "result.zip").exists()


@pytest.mark.parametrize(
    ("flags", "code", "stages"),
    [
        (["--engine", "reconviagen"], "WEIGHTS_MISSING", ("weight_loading",)),
        (["--engine", "reconviagen", "--weights", "/nowhere"], "WEIGHTS_MISSING", ("weight_loading",)),
        (
            ["--memory-limit-mib", 120],
            "MODEL_OOM",
            ("validation", "weight_loading", "inference"),
        ),  # of whatever grows first
    ],
)
def test_a_model_s_failure_ends_the_job_with_its_record_and_a_report(
    duck: Path, tmp_path: Path, flags: list[object], code: str, stages: tuple[str, ...]
) -> None:
    done = sixview("run", duck, "--out", tmp_path / "out", "--json", *flags)
    summary = json.loads(done.stdout)
    assert done.returncode == by_code()[code].exit_code
    assert summary["error"]["code"] == code
    assert summary["error"]["details"]["pipeline_stage"] in stages
    assert code in (tmp_path / "out" / "report" / "index.html").read_text()


def test_views_that_agree_on_nothing_are_refused_before_any_model_runs(set_copy: Path, tmp_path: Path) -> None:
    document = json.loads((set_copy / "cameras.json").read_text())
    document["views"][0]["camera_to_world"][0][3] = 3.0
    (set_copy / "cameras.json").write_text(json.dumps(document))
    summary = json.loads(sixview("run", set_copy, "--out", tmp_path / "out", "--json").stdout)
    assert summary["error"]["code"] == "VALIDATION_FAILED" and not summary["models"]


def test_an_old_result_never_stands_beside_a_new_failure(duck: Path, copied: Path) -> None:
    sixview("run", duck, "--out", copied, "--engine", "reconviagen")
    assert not (copied / "result.zip").exists()


def test_a_folder_of_other_files_is_not_touched(duck: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    done = sixview("run", duck, "--out", tmp_path)
    assert done.returncode == 10 and "no sixview run wrote" in done.stderr
    assert (tmp_path / "report" / "mine.txt").exists()


def test_a_missing_input_is_explained(tmp_path: Path) -> None:
    done = sixview("run", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.returncode == 10 and "There is no input at" in done.stderr


def test_missing_required_files_are_named_and_the_report_is_still_written(copied: Path, tmp_path: Path) -> None:
    (copied / ".sixview" / "reconviagen" / "quality" / "quality.json").unlink()
    words = ["--job", copied / ".sixview", "--out", tmp_path / "package", "--outputs", tmp_path / "outputs"]
    command = [sys.executable, "-m", "steps.package", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    record = json.loads((tmp_path / "outputs" / "failure.json").read_text())
    assert done.returncode == 13 and record["code"] == "INCOMPLETE_RESULTS"
    assert record["details"]["missing"] == ["reconviagen/quality.json"]
    assert (tmp_path / "package" / "report" / "index.html").exists()


def test_missing_previews_are_skipped_and_listed(copied: Path, tmp_path: Path) -> None:
    (copied / ".sixview" / "reconviagen" / "preview" / "wireframe_03.png").unlink()
    words = ["--job", copied / ".sixview", "--out", tmp_path / "package", "--outputs", tmp_path / "outputs"]
    subprocess.run([sys.executable, "-m", "steps.package", *map(str, words)], check=True)
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert manifest["missing"] == ["reconviagen/previews/wireframe_03.png"]


def test_two_models_stand_side_by_side_in_the_archive_and_the_report(copied: Path, tmp_path: Path) -> None:
    state = copied / ".sixview"
    shutil.copytree(state / "reconviagen", state / "other")
    words = [
        "--job",
        state,
        "--models",
        "reconviagen,other",
        "--out",
        tmp_path / "package",
        "--outputs",
        tmp_path / "outputs",
    ]
    subprocess.run([sys.executable, "-m", "steps.package", *map(str, words)], check=True)
    with zipfile.ZipFile(tmp_path / "package" / "result.zip") as archive:
        assert {"reconviagen/mesh.glb", "other/mesh.glb", "other/previews/textured_00.png"} <= set(archive.namelist())
    page = (tmp_path / "package" / "report" / "index.html").read_text()
    assert page.count("other (fusion)") >= 2 and page.count("data:image/webp") == 3


# -- options -------------------------------------------------------------------------------------------------------------


def test_resolution_texture_size_and_faces_are_obeyed_and_recorded(duck: Path, tmp_path: Path) -> None:
    flags = ["--resolution", 64, "--texture-size", 128, "--faces", 3000, "--grid", 64]
    summary = json.loads(sixview("run", duck, "--out", tmp_path / "out", "--json", *flags).stdout)
    quality = json.loads((tmp_path / "out" / "reconviagen" / "quality.json").read_text())
    assert summary["status"] == "completed"
    assert quality["settings"]["resolution"] == [64, 64] and max(quality["settings"]["grid"]) == 64
    assert quality["mesh"]["texture_size"] == 128 and 2000 < quality["mesh"]["faces"] <= 3000


@pytest.mark.parametrize("words", [["run", "x"], ["run", "x", "y", "--out", "z"], ["sample"], ["nonsense"]])
def test_a_wrong_command_line_is_a_usage_error(words: list[str]) -> None:
    done = sixview(*words)
    assert done.returncode == 2 and "Usage:" in done.stderr and "Traceback" not in done.stderr


def test_sample_refuses_what_it_cannot_make(tmp_path: Path) -> None:
    done = sixview("sample", tmp_path / "x", "--object", "unicorn")
    assert done.returncode == 10 and "mug, donut, duck, bowl, house" in done.stderr


def test_a_sample_is_six_views_six_depths_cameras_and_the_truth(sample_set: object, tmp_path: Path) -> None:
    folder = sample_set("house", "--views", "numbered", "--depth-bits", 8, "--held-out", 2)  # type: ignore[operator]
    assert {p.name for p in (folder / "multi_views").iterdir()} == {f"view_{i}.png" for i in range(6)}
    assert {p.name for p in (folder / "depth_renders").iterdir()} == {f"depth_{i}.png" for i in range(6)}
    with Image.open(folder / "depth_renders" / "depth_0.png") as image:
        assert image.mode == "L"
    truth = {p.name for p in (folder / "ground_truth").iterdir()}
    assert truth == {"mesh.ply", "held_out.json", *(f"held_0{i}{s}" for i in range(2) for s in (".png", "_depth.npy"))}
