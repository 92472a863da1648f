"""Textured meshes as OBJ + MTL, PLY and GLB. All three hold the same vertices and refer to, or embed, the same PNG.

Written here rather than by a mesh library so that the same mesh always gives the same bytes and the texture is encoded
once. Specifications: Wavefront OBJ and MTL (1992); PLY (Turk 1994) with MeshLab's `TextureFile` comment and s, t per
vertex; glTF 2.0 (Khronos).
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.compute.arrays import Array
from steps.compute.device import to_device
from steps.geometry.frame import Frame
from steps.geometry.pbr import Material
from steps.geometry.uv_mesh import UvMesh
from steps.io.png import to_bytes, write
from steps.runtime.errors import IncompleteResults, InvalidFileFormat, ModelConvergenceFailed

TEXTURE, ORM, NORMAL = "texture.png", "texture_orm.png", "texture_normal.png"
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_FLOAT, _UNSIGNED = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_OWN = Frame()  # the user's own frame


@dataclass(frozen=True)
class Mesh:
    """vertices: (n, 3) float32, in the local frame; faces: (m, 3) int32; uv: (n, 2) float32, origin bottom left; normals: (n, 3)
    float32; texture: [S, S, 3] float32 in [0, 1]; material: what a surface has beside its colour, where a model estimates it."""

    vertices: Array
    faces: Array
    uv: Array
    normals: Array
    texture: Array
    material: Material | None = None

    @property
    def geometry(self) -> UvMesh:
        """The mesh without its textures."""
        return UvMesh(self.vertices, self.faces, self.uv, self.normals)

    def on(self, device: str) -> Mesh:
        """The mesh on `cpu` or `cuda`, where kernels do not check indices. Raises ValueError for one with a `fault_of`."""
        if device != "cpu" and (fault := fault_of(self)):
            raise ValueError(f"The mesh {fault}.")
        vertices, faces, uv, normals, texture = (
            to_device(a, device) for a in (self.vertices, self.faces, self.uv, self.normals, self.texture)
        )
        return Mesh(vertices, faces, uv, normals, texture, self.material and self.material.on(device))


def save(folder: Path, mesh: Mesh, frame: Frame = _OWN) -> None:
    """Writes mesh.obj, mesh.mtl, mesh.ply, mesh.glb and texture.png into `folder`, with a material also texture_orm.png and
    texture_normal.png. frame: the mesh's. Raises ModelConvergenceFailed for a mesh with a `fault_of`."""
    if fault := fault_of(mesh):
        raise ModelConvergenceFailed(f"The mesh that was made {fault}.")
    for name, image in _images(mesh).items():
        write(folder / name, to_bytes(image))
    _write_obj(folder, mesh, frame)
    _write_ply(folder / "mesh.ply", mesh, frame)
    write_glb(folder / "mesh.glb", mesh, [(folder / name).read_bytes() for name in _images(mesh)], frame)


def as_stored(mesh: Mesh, frame: Frame) -> Mesh:
    """The mesh after a round trip through `save` and `load`, so that what is scored is what users get."""
    return replace(mesh, vertices=frame.from_stored(frame.to_stored(mesh.vertices), frame.origin))


def fault_of(mesh: Mesh) -> str | None:
    """Why a mesh cannot be rendered (no faces, non-finite values, indices out of range); None where it can."""
    count = len(mesh.vertices)
    if not len(mesh.faces):
        return "has no faces"
    if not 0 <= mesh.faces.min() <= mesh.faces.max() < count:
        return f"has faces that name vertices {mesh.faces.min()} to {mesh.faces.max()} of {count}"
    arrays = {"vertices": mesh.vertices, "texture coordinates": mesh.uv, "normals": mesh.normals}
    if mesh.material:
        arrays["tangents"] = mesh.material.tangents
    for name, array in arrays.items():
        if len(array) != count:
            return f"has {len(array)} {name} for {count} vertices"
        if wrong := int((~np.isfinite(array)).any(axis=1).sum()):
            return f"has {wrong} of {count} {name} that are not finite numbers"
    return None


def _images(mesh: Mesh) -> dict[str, Array]:
    """The mesh's textures by file name."""
    more = {ORM: mesh.material.orm, NORMAL: mesh.material.normal} if mesh.material else {}
    return {TEXTURE: mesh.texture, **more}


def save_glb(path: Path, mesh: Mesh, frame: Frame = _OWN) -> None:
    """Writes only the GLB."""
    encoded = []
    for image in _images(mesh).values():
        buffer = io.BytesIO()
        Image.fromarray(to_bytes(image)).save(buffer, "png")
        encoded.append(buffer.getvalue())
    write_glb(path, mesh, encoded, frame)


def load(folder: Path, frame: Frame = _OWN) -> Mesh:
    """The mesh in `folder`, read back from its GLB into `frame`. Raises IncompleteResults where there is none, InvalidFileFormat
    where it cannot be drawn."""
    path = folder / "mesh.glb"
    if not path.is_file():
        raise IncompleteResults(f"There is no {path.name} in {folder}.", missing=[path.name])
    return load_glb(path, frame)


# -- OBJ ----------------------------------------------------------------------------------------------------------------


def _write_obj(folder: Path, mesh: Mesh, frame: Frame) -> None:
    corners = (mesh.faces + 1).repeat(3, axis=1).reshape(-1, 9)
    with open(folder / "mesh.obj", "w") as file:
        file.write("mtllib mesh.mtl\no object\n")
        np.savetxt(file, frame.points_out(mesh.vertices), _digits(frame))
        np.savetxt(file, mesh.uv, "vt %.7g %.7g")
        np.savetxt(file, mesh.normals, "vn %.5g %.5g %.5g")
        file.write("usemtl material\ns 1\n")
        np.savetxt(file, corners, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    (folder / "mesh.mtl").write_text("\n".join([*_MTL, *(_MTL_PBR if mesh.material else []), ""]))


def _digits(frame: Frame) -> str:
    """printf format of an OBJ's vertices with float32 precision: with fewer digits vertices might coincide and open the mesh."""
    more = int(np.ceil(np.log10(max(map(abs, frame.offset)) / frame.scale))) if frame.is_far else 0
    return "v" + f" %.{min(9 + more, 17)}g" * 3


# no ambient colour: viewers of the VTK family (ParaView, F3D) add it to the lit texture, and white burns photographs out
_MTL = ["newmtl material", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1", f"map_Kd {TEXTURE}"]
# the customary extension of MTL (Clara.io): roughness, metalness and tangent-space normals
_MTL_PBR = [f"map_Pr -imfchan g {ORM}", f"map_Pm -imfchan b {ORM}", f"norm {NORMAL}"]

# -- PLY ----------------------------------------------------------------------------------------------------------------


def _write_ply(path: Path, mesh: Mesh, frame: Frame) -> None:
    kind, name = ("<f8", "double") if frame.is_far else ("<f4", "float")
    rows = np.empty(len(mesh.vertices), [("place", kind, 3), ("normal", "<f4", 3), ("uv", "<f4", 2)])
    rows["place"], rows["normal"], rows["uv"] = frame.points_out(mesh.vertices), mesh.normals, mesh.uv
    properties = [f"{name} {n}" for n in "xyz"] + [f"float {n}" for n in ("nx", "ny", "nz", "s", "t")]
    write_ply(path, properties, rows, mesh.faces, f"TextureFile {TEXTURE}")


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


def write_glb(path: Path, mesh: Mesh, images: list[bytes], frame: Frame = _OWN) -> None:
    """images: the textures as PNG files, in the order of `_images`."""
    flipped = np.stack([mesh.uv[:, 0], 1.0 - mesh.uv[:, 1]], axis=1)  # glTF counts rows from the top
    arrays = {"POSITION": frame.to_stored(mesh.vertices), "NORMAL": mesh.normals, "TEXCOORD_0": flipped}
    if mesh.material:
        arrays["TANGENT"] = mesh.material.tangents
    parts = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
    parts["indices"] = mesh.faces.astype("<u4")
    blobs = [part.tobytes() for part in parts.values()] + images
    offsets = np.cumsum([0] + [_padding(len(blob)) for blob in blobs])
    body = b"".join(blob.ljust(_padding(len(blob)), b"\0") for blob in blobs)
    document = _gltf(parts, mesh.material, [len(b) for b in blobs], offsets.tolist())
    if any(frame.origin):
        document["nodes"][0]["translation"] = list(frame.origin)
    text = json.dumps(document, separators=(",", ":")).encode()
    text = text.ljust(_padding(len(text)), b" ")
    header = struct.pack("<III", 0x46546C67, 2, 12 + 8 + len(text) + 8 + len(body))
    path.write_bytes(header + struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(body), _BIN) + body)


def _padding(size: int) -> int:
    return (size + 3) // 4 * 4


def _gltf(parts: dict[str, Array], material: Material | None, sizes: list[int], offsets: list[int]) -> dict[str, Any]:
    targets = [_ARRAY_BUFFER] * (len(parts) - 1) + [_ELEMENT_BUFFER]
    views: list[dict[str, Any]] = [
        {"buffer": 0, "byteOffset": o, "byteLength": s} for o, s in zip(offsets, sizes, strict=False)
    ]
    for view, target in zip(views, targets, strict=False):
        view["target"] = target
    accessors = [_accessor(i, name, part) for i, (name, part) in enumerate(parts.items())]
    accessors[0].update(min=parts["POSITION"].min(axis=0).tolist(), max=parts["POSITION"].max(axis=0).tolist())
    attributes = {name: i for i, name in enumerate(parts) if name != "indices"}
    count = len(sizes) - len(parts)
    return {
        "asset": {"version": "2.0", "generator": "sixview"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": len(attributes), "material": 0}]}],
        **_materials(material),
        "textures": [{"source": i, "sampler": 0} for i in range(count)],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": len(parts) + i, "mimeType": "image/png"} for i in range(count)],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offsets[-1]}],
    }


def _accessor(view: int, name: str, part: Array) -> dict[str, Any]:
    if name == "indices":
        return {"bufferView": view, "componentType": _UNSIGNED, "count": int(part.size), "type": "SCALAR"}
    return {"bufferView": view, "componentType": _FLOAT, "count": len(part), "type": f"VEC{part.shape[1]}"}


def _materials(material: Material | None) -> dict[str, Any]:
    surface: dict[str, Any] = {"baseColorTexture": {"index": 0}}
    if material is None:
        surface |= {"metallicFactor": 0, "roughnessFactor": 1}
        return {"materials": [{"name": "material", "pbrMetallicRoughness": surface}]}
    surface["metallicRoughnessTexture"] = {"index": 1}
    extension = {"KHR_materials_specular": {"specularFactor": material.specular}}
    material_json = {
        "name": "material",
        "pbrMetallicRoughness": surface,
        "normalTexture": {"index": 2},
        "extensions": extension,
    }
    # estimated light of the views, as far as it is separable from colour: nine coefficients per channel
    material_json["extras"] = {"light": [[float(v) for v in row] for row in material.light]}
    return {"extensionsUsed": ["KHR_materials_specular"], "materials": [material_json]}


def load_glb(path: Path, frame: Frame = _OWN) -> Mesh:
    """Reads what `write_glb` wrote into `frame`: one primitive, tightly packed, PNGs inside. Raises InvalidFileFormat, with the
    file's name, where it is something else or holds a mesh that cannot be drawn."""
    data = path.read_bytes()
    try:
        mesh = _parse(data, frame)
    except (ValueError, LookupError, TypeError, RecursionError, struct.error, OSError) as error:
        raise InvalidFileFormat(f"{path.name} is damaged, or not a GLB of this program: {error}", _ANEW) from None
    if fault := fault_of(mesh):
        raise InvalidFileFormat(f"{path.name} {fault}.", _ANEW)
    return mesh


_ANEW = "Make the mesh anew: run the step again that wrote it."


def _parse(data: bytes, frame: Frame) -> Mesh:
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

    def image(index: int) -> Array:
        with Image.open(io.BytesIO(view(document["images"][index]["bufferView"]))) as opened:
            return np.asarray(opened.convert("RGB"), np.float32) / np.float32(255)

    attributes, about = primitive["attributes"], document["materials"][0]
    uv = array(attributes["TEXCOORD_0"], 2) * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
    material = None
    if "TANGENT" in attributes:
        specular = about["extensions"]["KHR_materials_specular"]["specularFactor"]
        light = np.array(about["extras"]["light"], np.float32)
        material = Material(image(1), image(2), array(attributes["TANGENT"], 4), specular, light)
    faces = array(primitive["indices"], 3).astype(np.int32)
    x, y, z = map(float, document["nodes"][0].get("translation", (0, 0, 0)))
    vertices = frame.from_stored(array(attributes["POSITION"], 3), (x, y, z))
    return Mesh(vertices, faces, uv, array(attributes["NORMAL"], 3), image(0), material)
