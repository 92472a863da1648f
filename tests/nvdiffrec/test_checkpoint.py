"""The checkpoint file, also damaged or written by others: it holds data only and is validated."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from steps.io.mesh_files import Mesh
from steps.nvdiffrec import checkpoint, reconstruct, run
from steps.nvdiffrec.checkpoint import Checkpoint
from steps.nvdiffrec.memory_levels import MemoryLevel
from steps.runtime.contract import Nvdiffrec

KEY = "of this work"


def mesh() -> Mesh:
    corners = np.eye(4, 3, dtype=np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], np.int32)
    return Mesh(corners, faces, corners[:, :2].copy(), corners + 1, np.full((8, 8, 3), 0.5, np.float32))


class Pass:
    """A minimal optimization with the attributes of a pass that a checkpoint uses."""

    def __init__(self) -> None:
        tensors = {"offsets": torch.zeros((4, 3)), "light": torch.ones(3)}
        self.state = SimpleNamespace(tensors=lambda: tensors)
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        groups = [{"params": [t], "lr": 0.1, "rate": 0.1, "name": name} for name, t in tensors.items()]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def step(self, _iteration: int = 0) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(((tensor - 2) ** 2).sum() for tensor in self.state.tensors().values())
        loss.backward()  # type: ignore[union-attr]
        self.optimizer.step()
        return float(loss.detach())  # type: ignore[union-attr]


def progress() -> dict[str, Any]:
    optimization = Pass()
    return {"iteration": 2, "history": [optimization.step(), optimization.step()], **reconstruct.snapshot(optimization)}


def state() -> dict[str, Any]:
    metadata = {"voxel": 0.01, "grid": [3, 4, 5], "seen": 0.5, "texture_size": 8}
    first = {"skipped": "close enough", "start_iou": 0.99}
    return {"start": mesh(), "facts": metadata, "shaped": mesh(), "first_pass": first, "plain_state": progress()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Checkpoint(tmp_path / "checkpoint.pt", KEY, 0).save(**state())
    return tmp_path / "checkpoint.pt"


def loaded(path: Path, key: str = KEY) -> tuple[dict[str, Any], str]:
    checkpoint_read = Checkpoint(path, key, 0)
    return checkpoint_read.load(), checkpoint_read.note


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, Mesh):
        return isinstance(b, Mesh) and all(same(getattr(a, name), getattr(b, name)) for name in checkpoint.MESH)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_was_saved_is_loaded_to_the_last_bit(saved: Path) -> None:
    checkpoint_read, note = loaded(saved)
    assert same(checkpoint_read, state()) and note == ""


def test_without_a_checkpoint_load_is_empty_and_has_no_note(tmp_path: Path) -> None:
    assert loaded(tmp_path / "checkpoint.pt") == ({}, "")


# -- nothing of it is run -----------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def pickled(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps({"key": KEY, "start": evil}))


def by_torch(path: Path, evil: Evil) -> None:
    torch.save({"key": KEY, "start": evil}, path)


def by_torch_of_old(path: Path, evil: Evil) -> None:
    torch.save({"key": KEY, "start": evil}, path, _use_new_zipfile_serialization=False)


def as_an_object_array(path: Path, evil: Evil) -> None:
    with open(path, "wb") as file:
        np.savez(file, header=np.array([evil], object))


def beside_a_good_header(path: Path, evil: Evil) -> None:
    Checkpoint(path, KEY, 0).save(**state())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with open(path, "wb") as file:
        np.save(file, np.array([evil], object), allow_pickle=True)
    members["a0.npy"] = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("put", [pickled, by_torch, by_torch_of_old, as_an_object_array, beside_a_good_header])
def test_no_pickle_is_ever_run(tmp_path: Path, put: Callable[[Path, Evil], None]) -> None:
    witness = tmp_path / "it was run"
    put(tmp_path / "checkpoint.pt", Evil(witness))
    checkpoint_read, note = loaded(tmp_path / "checkpoint.pt")
    assert checkpoint_read == {} and "checkpoint.pt is damaged, or none at all" in note
    assert not witness.exists()


# -- damaged ------------------------------------------------------------------------------------------------------------


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def one_bit(data: bytes) -> bytes:
    at = data.index(np.float32(0.5).tobytes() * 4)  # in the middle of a texture
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def a_hole(data: bytes) -> bytes:
    at = data.index(np.float32(0.5).tobytes() * 4)
    return data[:at] + bytes(64) + data[at + 64 :]


def nothing(_: bytes) -> bytes:
    return b""


def a_picture(_: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.mark.parametrize("spoil", [zeros, half, one_bit, a_hole, nothing, a_picture])
def test_a_damaged_checkpoint_is_noted_and_not_used(saved: Path, spoil: Callable[[bytes], bytes]) -> None:
    saved.write_bytes(spoil(saved.read_bytes()))
    assert loaded(saved) == ({}, "The checkpoint checkpoint.pt is damaged, or none at all: the work began anew.")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=some.floats(0, 1), byte=some.integers(0, 255), length=some.integers(1, 300))
def test_whatever_is_written_over_it_is_either_noticed_or_harmless(
    saved: Path, at: float, byte: int, length: int
) -> None:
    Checkpoint(saved, KEY, 0).save(**state())
    data = bytearray(saved.read_bytes())
    first = int(at * (len(data) - 1))
    data[first : first + length] = bytes([byte]) * len(data[first : first + length])
    saved.write_bytes(data)
    checkpoint_read, note = loaded(saved)
    assert (checkpoint_read == {} and note) or same(checkpoint_read, state())


def test_a_checkpoint_with_another_key_is_not_used(saved: Path) -> None:
    checkpoint_read, note = loaded(saved, "of other work")
    assert checkpoint_read == {} and "of another version of the program, or of other work" in note


def test_another_version_of_the_format_is_not_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", "sixview-checkpoint/3")
    assert "of another version" in loaded(saved)[1]


def test_a_zip_bomb_is_not_decompressed(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert "damaged, or none at all" in loaded(saved)[1]


def test_an_array_header_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as archive, archive.open("header.npy", "w") as member:
        shape = {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
        np.lib.format.write_array_header_1_0(member, shape)
        member.write(b"{}")
    assert "damaged, or none at all" in loaded(tmp_path / "checkpoint.pt")[1]


def test_a_folder_in_its_place_is_left_alone_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    (tmp_path / "checkpoint.pt" / "thesis.txt").write_text("years of work")
    checkpoint_read = Checkpoint(tmp_path / "checkpoint.pt", KEY, 0)
    assert checkpoint_read.load() == {} and "is a folder" in checkpoint_read.note
    checkpoint_read.save(**state())
    checkpoint_read.clear()
    assert not checkpoint_read.due() and (tmp_path / "checkpoint.pt" / "thesis.txt").exists()


def test_the_file_that_was_of_no_use_is_replaced_by_the_next(saved: Path) -> None:
    saved.write_bytes(b"damaged")
    checkpoint_read = Checkpoint(saved, KEY, 0)
    assert checkpoint_read.load() == {}
    checkpoint_read.save(**state())
    assert same(loaded(saved)[0], state())


# -- whole, and not what the work takes it for --------------------------------------------------------------------------


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in state().items() if name not in names}


def with_mesh(**parts: Any) -> dict[str, Any]:
    return {**state(), "start": replace(mesh(), **parts)}


OTHER: dict[str, dict[str, Any]] = {
    "no start": without("start"),
    "no facts": without("facts"),
    "half a first pass": without("first_pass"),
    "faces beyond the vertices": with_mesh(faces=mesh().faces + 1),
    "negative faces": with_mesh(faces=mesh().faces - 1),
    "no faces": with_mesh(faces=mesh().faces[:0]),
    "faces of four": with_mesh(faces=np.zeros((4, 4), np.int32)),
    "a single number for faces": with_mesh(faces=np.array(0, np.int32)),
    "vertices in the plane": with_mesh(vertices=mesh().vertices[:, :2]),
    "a vertex that is no number": with_mesh(vertices=mesh().vertices * np.float32(np.nan)),
    "vertices of another type": with_mesh(vertices=mesh().vertices.astype(np.float64)),
    "texture that is not square": with_mesh(texture=mesh().texture[:4]),
    "no texture": with_mesh(texture=np.zeros((0, 0, 3), np.float32)),
    "texture coordinates of others": with_mesh(uv=mesh().uv[:3]),
    "a tensor for vertices": with_mesh(vertices=torch.zeros((4, 3))),
    "a list for a mesh": {**state(), "start": [1, 2]},
    "a voxel without size": {**state(), "facts": {"voxel": 0.0}},
    "facts that no JSON can hold": {**state(), "facts": {"voxel": 0.1, "more": float("nan")}},
    "a name for progress": {**state(), "plain_state": "far"},
    "progress in halves": {**state(), "plain_state": {**progress(), "iteration": 1.5}},
    "words for losses": {**state(), "plain_state": {**progress(), "history": ["low"]}},
}


@pytest.mark.parametrize("what", OTHER)
def test_parts_that_are_not_what_they_should_be_are_noticed(tmp_path: Path, what: str) -> None:
    Checkpoint(tmp_path / "checkpoint.pt", KEY, 0).save(**OTHER[what])
    checkpoint_read, note = loaded(tmp_path / "checkpoint.pt")
    assert checkpoint_read == {} and note.endswith("the work began anew.")


def moments(name: str, value: Any) -> dict[str, Any]:
    changed = progress()
    changed["optimizer"]["state"][0][name] = value
    return changed


MISFITS: dict[str, dict[str, Any]] = {
    "one number for all vertices": {**progress(), "tensors": {"offsets": torch.zeros(()), "light": torch.ones(3)}},
    "more vertices": {**progress(), "tensors": {"offsets": torch.zeros((5, 3)), "light": torch.ones(3)}},
    "another type": {**progress(), "tensors": {"offsets": torch.zeros((4, 3)).double(), "light": torch.ones(3)}},
    "a tensor too few": {**progress(), "tensors": {"offsets": torch.zeros((4, 3))}},
    "no tensors": {**progress(), "tensors": None},
    "moments of another shape": moments("exp_avg", torch.zeros(())),
    "moments missing": moments("exp_avg_sq", None),
    "moments of a tensor that is not there": {
        **progress(),
        "optimizer": {**progress()["optimizer"], "state": {7: progress()["optimizer"]["state"][0]}},
    },
    "no optimizer": {**progress(), "optimizer": {}},
    "fewer groups": {**progress(), "optimizer": {**progress()["optimizer"], "param_groups": []}},
    "beyond the end": {**progress(), "iteration": 9},
    "before the beginning": {**progress(), "iteration": -1},
}


def iterated(saved: dict[str, Any]) -> tuple[list[float], int, list[str]]:
    """The losses of four iterations, how many ran, and what was noted."""
    notes: list[str] = []
    clock = SimpleNamespace(tick=lambda _=1: None, reporter=SimpleNamespace(note=notes.append))
    job: Any = SimpleNamespace(saved=saved, clock=clock, checkpoint=SimpleNamespace(due=lambda: False), device="cpu")
    optimization = Pass()
    ran = reconstruct._iterate(job, optimization, "plain_state", 4, optimization.step, restart=-1)
    return job.saved["plain_state"]["history"], ran, notes


def test_a_pass_goes_on_from_what_was_saved() -> None:
    assert iterated({"plain_state": progress()}) == (iterated({})[0], 4, [])


@pytest.mark.parametrize("what", MISFITS)
def test_progress_of_another_pass_is_noted_and_the_pass_restarts(what: str) -> None:
    history, ran, notes = iterated({"plain_state": MISFITS[what]})
    assert (history, ran) == iterated({})[:2]
    assert notes == ["The checkpoint's plain_state does not fit this pass: it began anew."]


# -- its key ------------------------------------------------------------------------------------------------------------


def test_the_key_changes_with_program_libraries_options_and_memory_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Nvdiffrec(out=tmp_path, outputs=tmp_path, scene=tmp_path / "scene")
    keys = {run.checkpoint_key(asked, MemoryLevel(1, 128, 32)), run.checkpoint_key(asked, MemoryLevel(1, 64, 32))}
    keys.add(run.checkpoint_key(replace(asked, seed=1), MemoryLevel(1, 128, 32)))
    for place, name, value in (
        (run, "program", lambda: "another"),
        (torch, "__version__", "0"),
        (np, "__version__", "0"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, value)
            keys.add(run.checkpoint_key(asked, MemoryLevel(1, 128, 32)))
    assert len(keys) == 6
    assert run.checkpoint_key(replace(asked, checkpoint_seconds=1.0), MemoryLevel(1, 128, 32)) in keys
