"""Textured meshes as OBJ + MTL, PLY and GLB. All three hold the same vertices and refer to, or embed, the same PNG.

Written here rather than by a mesh library so that the same mesh always gives the same bytes and the texture is encoded
once. Specifications: Wavefront OBJ and MTL (1992); PLY (Turk 1994) with MeshLab's `TextureFile` comment and s, t per
vertex; glTF 2.0 (Khronos).
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steps.errors import IncompleteResults
from steps.formats.png import to_bytes, write

Array = NDArray[Any]
TEXTURE = "texture.png"
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_FLOAT, _UNSIGNED = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


@dataclass(frozen=True)
class Mesh:
    """vertices: (n, 3) float32; faces: (m, 3) int32; uv: (n, 2) float32, origin bottom left; normals: (n, 3) float32;
    texture: [S, S, 3] float32 in [0, 1]."""

    vertices: Array
    faces: Array
    uv: Array
    normals: Array
    texture: Array


def save(folder: Path, mesh: Mesh) -> None:
    """Writes mesh.obj, mesh.mtl, mesh.ply, mesh.glb and texture.png into `folder`."""
    write(folder / TEXTURE, to_bytes(mesh.texture))
    _write_obj(folder, mesh)
    _write_ply(folder / "mesh.ply", mesh)
    _write_glb(folder / "mesh.glb", mesh, (folder / TEXTURE).read_bytes())


def load(folder: Path) -> Mesh:
    """The mesh in `folder`, read back from its GLB. Raises IncompleteResults where there is none."""
    path = folder / "mesh.glb"
    if not path.is_file():
        raise IncompleteResults(f"There is no {path.name} in {folder}.", missing=[path.name])
    return _read_glb(path)


# -- OBJ ----------------------------------------------------------------------------------------------------------------


def _write_obj(folder: Path, mesh: Mesh) -> None:
    corners = (mesh.faces + 1).repeat(3, axis=1).reshape(-1, 9)
    with open(folder / "mesh.obj", "w") as file:
        file.write("mtllib mesh.mtl\no object\n")
        np.savetxt(file, mesh.vertices, "v %.7g %.7g %.7g")
        np.savetxt(file, mesh.uv, "vt %.7g %.7g")
        np.savetxt(file, mesh.normals, "vn %.5g %.5g %.5g")
        file.write("usemtl material\ns 1\n")
        np.savetxt(file, corners, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    (folder / "mesh.mtl").write_text(f"newmtl material\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd {TEXTURE}\n")


# -- PLY ----------------------------------------------------------------------------------------------------------------


def _write_ply(path: Path, mesh: Mesh) -> None:
    names = ["x", "y", "z", "nx", "ny", "nz", "s", "t"]
    rows = np.hstack([mesh.vertices, mesh.normals, mesh.uv]).astype("<f4")
    write_ply(path, [f"float {name}" for name in names], rows, mesh.faces, f"TextureFile {TEXTURE}")


def write_ply(path: Path, properties: list[str], rows: Array, faces: Array, comment: str = "") -> None:
    """A binary PLY. properties: type and name of each vertex property; rows: (n,) or (n, k) packed in that order; faces:
    (m, 3) int."""
    listed = np.empty(len(faces), [("count", "u1"), ("index", "<i4", 3)])
    listed["count"], listed["index"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", *([f"comment {comment}"] if comment else [])]
    header += [f"element vertex {len(rows)}", *(f"property {p}" for p in properties)]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + rows.tobytes() + listed.tobytes())


# -- GLB ----------------------------------------------------------------------------------------------------------------


def _write_glb(path: Path, mesh: Mesh, texture: bytes) -> None:
    flipped = np.stack([mesh.uv[:, 0], 1.0 - mesh.uv[:, 1]], axis=1)  # glTF counts rows from the top
    parts = [mesh.vertices.astype("<f4"), mesh.normals.astype("<f4"), flipped.astype("<f4"), mesh.faces.astype("<u4")]
    blobs = [part.tobytes() for part in parts] + [texture]
    offsets = np.cumsum([0] + [_padded(len(blob)) for blob in blobs])
    body = b"".join(blob.ljust(_padded(len(blob)), b"\0") for blob in blobs)
    text = json.dumps(_gltf(parts, [len(b) for b in blobs], offsets.tolist()), separators=(",", ":")).encode()
    text = text.ljust(_padded(len(text)), b" ")
    header = struct.pack("<III", 0x46546C67, 2, 12 + 8 + len(text) + 8 + len(body))
    path.write_bytes(header + struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(body), _BIN) + body)


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4


def _gltf(parts: list[Array], sizes: list[int], offsets: list[int]) -> dict[str, Any]:
    targets = [_ARRAY_BUFFER] * 3 + [_ELEMENT_BUFFER]
    views: list[dict[str, Any]] = [
        {"buffer": 0, "byteOffset": o, "byteLength": s} for o, s in zip(offsets, sizes, strict=False)
    ]
    for view, target in zip(views, targets, strict=False):
        view["target"] = target
    kinds = [("VEC3", _FLOAT), ("VEC3", _FLOAT), ("VEC2", _FLOAT), ("SCALAR", _UNSIGNED)]
    accessors: list[dict[str, Any]] = [
        {
            "bufferView": i,
            "componentType": component,
            "count": int(part.size if kind == "SCALAR" else len(part)),
            "type": kind,
        }
        for i, (part, (kind, component)) in enumerate(zip(parts, kinds, strict=True))
    ]
    accessors[0].update(min=parts[0].min(axis=0).tolist(), max=parts[0].max(axis=0).tolist())
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    return {
        "asset": {"version": "2.0", "generator": "sixview"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"name": "material", "pbrMetallicRoughness": surface}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offsets[-1]}],
    }


def _read_glb(path: Path) -> Mesh:
    """Reads what `_write_glb` wrote: one primitive, tightly packed, one PNG inside."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + length])
    body = memoryview(data)[28 + length :]
    primitive = document["meshes"][0]["primitives"][0]

    def view(index: int) -> memoryview:
        entry = document["bufferViews"][index]
        return body[entry["byteOffset"] : entry["byteOffset"] + entry["byteLength"]]

    def array(index: int, columns: int) -> Array:
        accessor = document["accessors"][index]
        dtype = "<f4" if accessor["componentType"] == _FLOAT else "<u4"
        return np.frombuffer(view(accessor["bufferView"]), dtype).reshape(-1, columns)

    attributes = primitive["attributes"]
    uv = array(attributes["TEXCOORD_0"], 2) * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
    with Image.open(io.BytesIO(view(document["images"][0]["bufferView"]))) as image:
        texture = np.asarray(image.convert("RGB"), np.float32) / 255.0
    faces = array(primitive["indices"], 3).astype(np.int32)
    return Mesh(array(attributes["POSITION"], 3), faces, uv, array(attributes["NORMAL"], 3), texture)
