"""The manifest of the weights: missing, changed and additional files are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.io import weights_manifest
from steps.reconviagen.engines import choose
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import StepError, WeightsMissing
from steps.runtime.files import read_json, write_json
from tests.conftest import sixview
from tests.reconviagen.parts import environment, write_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights")


def test_a_locked_folder_verifies(folder: Path) -> None:
    assert weights_manifest.verify(folder) == []
    manifest = read_json(folder / "weights.json")
    assert {item["part"] for item in manifest["files"]} == set(weights_manifest.PARTS)
    assert all(len(item["sha256"]) == 64 for item in manifest["files"])
    assert manifest["parts"]["pipeline"]["revision"] == "0" * 40


def test_every_change_has_its_own_words(folder: Path) -> None:
    base = folder / "pipeline" / "ckpts"
    data = bytearray((base / "latent.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "latent.safetensors").write_bytes(data)
    (base / "structure.json").write_text("{}")
    (folder / "dinov2" / "config.json").unlink()
    (folder / "vggt" / "more.bin").write_bytes(b"x")
    assert [(fault.path, fault.what.split(",")[0]) for fault in weights_manifest.verify(folder)] == [
        ("dinov2/config.json", "is missing"),
        ("pipeline/ckpts/latent.safetensors", "has another SHA-256"),
        ("pipeline/ckpts/structure.json", "has 2 bytes"),
        ("vggt/more.bin", "is not in the manifest"),
    ]
    with pytest.raises(WeightsMissing) as failure:
        weights_manifest.check_weights(folder)
    assert len(failure.value.details["faults"]) == 4


def test_locking_again_keeps_what_is_known_of_the_sources(folder: Path) -> None:
    manifest = read_json(folder / "weights.json")
    manifest["parts"]["vggt"] |= {"licence": "ours", "may_lack": ["head.*"]}
    write_json(folder / "weights.json", manifest)
    again = weights_manifest.lock(folder, {"dinov2": "abc"})["parts"]
    assert (again["vggt"]["licence"], again["vggt"]["may_lack"]) == ("ours", ["head.*"])
    assert (again["pipeline"]["revision"], again["dinov2"]["revision"]) == ("0" * 40, "abc")


def test_the_command_says_what_is_wrong_and_what_to_do(folder: Path, tmp_path: Path) -> None:
    good = sixview("weights", "verify", folder)
    assert good.returncode == 0
    assert "all as in weights.json" in good.stdout
    (folder / "vggt" / "model.json").write_text("{}")
    bad = sixview("weights", "verify", folder)
    assert (bad.returncode, bad.stdout) == (14, "vggt/model.json: has 2 bytes, not 41\n")
    assert "sixview weights lock" in bad.stderr
    locked = sixview("weights", "lock", folder, "--revision", "vggt=1234")
    assert locked.returncode == 0
    assert "dinov2: its revision is not known" in locked.stdout
    (tmp_path / "empty").mkdir()
    assert "missing pipeline, vggt, segmentation, dinov2" in sixview("weights", "lock", tmp_path / "empty").stderr
    assert "there is no part x" in sixview("weights", "lock", folder, "--revision", "x=1").stderr


def asked(engine: str, device: str, folder: Path | None) -> Reconviagen:
    return Reconviagen(out=Path("x"), outputs=Path("x"), scene=Path("x"), engine=engine, device=device, weights=folder)


def test_with_weights_and_package_the_published_model_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    choice = choose(asked("reconviagen", "cpu", folder))
    assert (choice.engine, choice.device) == ("reconviagen", "cpu")
    assert choose(asked("auto", "cuda", folder)).device == "cuda"
    assert choose(asked("fusion", "cpu", folder)).engine == "fusion"
    assert (
        choose(asked("auto", "cpu", folder)).engine == "fusion"
    )  # it wants a GPU: on a CPU it runs only if it is named


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    """A pod has one where the chart has no claim; the report's words must not depend on that."""
    assert choose(asked("auto", "cpu", tmp_path)).reason == choose(asked("auto", "cpu", None)).reason


@pytest.mark.parametrize("engine", ["reconviagen", "auto"])
def test_without_the_package_nothing_else_stands_in_for_it(
    engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIXVIEW_RECONVIAGEN_PYTHON", raising=False)
    with pytest.raises(StepError) as failure:
        choose(asked(engine, "cuda", folder))
    assert failure.value.code == "MODEL_FAILED"
    assert "SIXVIEW_RECONVIAGEN_PYTHON" in failure.value.message
