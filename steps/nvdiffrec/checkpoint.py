"""Checkpoints of an optimization: written periodically, read when the same step starts again.

The file may come from a store where others can write, so it holds numbers and plain values only, and no code (no pickle): an
archive of NumPy arrays (NPY in ZIP, each with its checksum), of which one, HEADER, is JSON as bytes: {"format", "key",
"state"}. In a state an array stands as {"array": its name}, a tensor as {"tensor": its name}, a mesh as {"mesh": its fields}, a
dict as {"dict": [[key, value], ...]}, a tuple as {"tuple": [...]}.
"""

from __future__ import annotations

import json
import math
import os
import time
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steps.compute.arrays import Array
from steps.io.mesh_files import Mesh

FORMAT = "sixview-checkpoint/2"
HEADER = "header"
MESH = [field.name for field in fields(Mesh) if field.name != "material"]  # what the passes start from has none
DAMAGED = "is damaged, or none at all"
# all that the standard library and NumPy raise for bytes that mean nothing
NONSENSE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    zipfile.BadZipFile,
)
State = dict[str, Any]
Arrays = dict[str, Array]


class Unusable(Exception):
    """A checkpoint, or a part of one, from which the work cannot be resumed."""


class Checkpoint:
    """One checkpoint file. path: None to keep none; key: digest of what the work depends on: a file with another key is not
    used; seconds: between two writes. note: after `load`, why an existing file was not used."""

    def __init__(self, path: Path | None, key: str, seconds: float) -> None:
        self.path, self.key, self.seconds = path, key, seconds
        self.note = ""
        self._last = time.monotonic()

    def load(self) -> State:
        """The saved state; {} where there is no checkpoint with this key."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            if self.path.is_dir():
                raise Unusable("is a folder")
            return read(self.path, self.key)
        except Unusable as problem:
            self.note = f"The checkpoint {self.path.name} {problem}: the work began anew."
        if self.path.is_dir():
            self.path = None  # a folder of other content: no checkpoint is kept
        return {}

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._last >= self.seconds

    def save(self, **state: Any) -> None:
        """Writes `state` atomically."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staging = self.path.with_name(f".{self.path.name}.partial")
        write(staging, self.key, state)
        os.replace(staging, self.path)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Deletes the checkpoint, after the work is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def write(path: Path, key: str, state: State) -> None:
    """Writes a checkpoint. state: tensors, arrays, meshes and JSON's own values in dicts, lists and tuples."""
    arrays: Arrays = {}
    header = {"format": FORMAT, "key": key, "state": _packed(state, arrays)}
    with open(path, "wb") as file:
        np.savez(file, **{HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]


def read(path: Path, key: str) -> State:
    """The state in a checkpoint. Raises Unusable where it is damaged, or has another key or format."""
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            if not stored or sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise Unusable(DAMAGED)  # written as it is: what would swell is none
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays[HEADER].tobytes())
            if header["format"] != FORMAT or header["key"] != key:
                raise Unusable("is of another version of the program, or of other work")
            state: State = _unpacked(header["state"], arrays)
    except NONSENSE as problem:
        raise Unusable(DAMAGED) from problem
    _check(state)
    return state


def _packed(value: Any, arrays: Arrays) -> Any:
    """`value` as JSON; its arrays are added to `arrays`."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = f"a{len(arrays)}"
        tensor = isinstance(value, torch.Tensor)
        arrays[name] = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return {"tensor" if tensor else "array": name}
    if isinstance(value, Mesh):
        assert value.material is None
        return {"mesh": {name: _packed(getattr(value, name), arrays) for name in MESH}}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_packed(item, arrays) for item in value]
    return value


def _unpacked(value: Any, arrays: Any) -> Any:
    """Inverse of `_packed`."""
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "tensor":
        return torch.from_numpy(arrays[content].copy())
    if kind == "mesh":
        return Mesh(**{name: _unpacked(content[name], arrays) for name in MESH})
    if kind == "dict":
        return {key: _unpacked(item, arrays) for key, item in content}
    if kind == "tuple":
        return tuple(_unpacked(item, arrays) for item in content)
    raise Unusable(DAMAGED)


# -- what is in it ------------------------------------------------------------------------------------------------------


def _check(state: Any) -> None:
    """Raises Unusable unless all parts have the expected types and shapes: native code reads them without checks."""
    if not isinstance(state, dict) or not {"start", "facts"} <= state.keys():
        raise Unusable("lacks its start")
    if ("shaped" in state) != ("first_pass" in state):
        raise Unusable("lacks a part of the first pass")
    for name, value in state.items():
        if not KINDS.get(name, _is_progress)(value):
            raise Unusable(f"has a part that does not fit, {name}")


def _is_mesh(mesh: Any) -> bool:
    if not isinstance(mesh, Mesh) or not all(isinstance(getattr(mesh, name), np.ndarray) for name in MESH):
        return False
    n, side, faces = mesh.vertices.shape[:1], mesh.texture.shape[:1], mesh.faces
    shapes = {"vertices": (*n, 3), "uv": (*n, 2), "normals": (*n, 3), "texture": (*side, *side, 3)}
    if any(not _is_floats(getattr(mesh, name), shape) for name, shape in shapes.items()):
        return False
    triangles = faces.dtype == np.int32 and faces.shape == (*faces.shape[:1], 3) and faces.size > 0
    return triangles and bool((faces >= 0).all()) and int(faces.max()) < n[0]


def _is_floats(array: Array, shape: tuple[int, ...]) -> bool:
    return array.dtype == np.float32 and array.shape == shape and array.size > 0 and bool(np.isfinite(array).all())


def _is_told(value: Any) -> bool:
    """Whether a value is plain JSON, as model.json needs."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_told(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_told, value))
    return value is None or isinstance(value, str | bool) or (_is_number(value) and math.isfinite(value))


def _are_facts(value: Any) -> bool:
    return isinstance(value, dict) and _is_told(value) and _is_number(value.get("voxel")) and value["voxel"] > 0


def _is_first_pass(value: Any) -> bool:
    return isinstance(value, dict) and _is_told(value)


def _is_progress(value: Any) -> bool:
    """Whether a value has the form of a pass's progress. Whether it matches the pass is checked by `same_structure`."""
    if not isinstance(value, dict) or value.keys() != {"iteration", "history", "tensors", "optimizer"}:
        return False
    history = value["history"]
    return isinstance(value["iteration"], int) and isinstance(history, list) and all(_is_number(x) for x in history)


KINDS = {"start": _is_mesh, "shaped": _is_mesh, "facts": _are_facts, "first_pass": _is_first_pass}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same_structure(saved: Any, own: Any) -> bool:
    """Whether two values have the same structure: keys, lengths, kinds, and of tensors shape and type."""
    if isinstance(own, torch.Tensor):
        return isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    if isinstance(own, dict):
        return (
            isinstance(saved, dict)
            and saved.keys() == own.keys()
            and all(same_structure(saved[k], own[k]) for k in own)
        )
    if isinstance(own, list | tuple):
        return type(saved) is type(own) and len(saved) == len(own) and all(map(same_structure, saved, own))
    return _is_number(saved) if _is_number(own) else type(saved) is type(own)
