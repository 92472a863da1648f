"""The manifest of a model's weights: files, checksums, sources, revisions and licences.

weights.json at the top of the folder:
    {"format": "sixview-weights/1",
     "parts": {NAME: {"folder", "source", "revision", "licence", "may_lack": [PATTERN], "may_add": [PATTERN]}},
     "files": [{"path", "part", "bytes", "sha256"}]}
may_lack and may_add: names of parameters (as fnmatch has them) that the model's code has and the file has not, or the other way
round, and that are known to do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.runtime.errors import WeightsMissing
from steps.runtime.files import read_json, sha256, write_json

FILE = "weights.json"
FORMAT = "sixview-weights/1"
# what the engine reconviagen is made of: the folder's name, where it comes from, and its terms as their owners publish them
PARTS = {
    "pipeline": ("Stable-X/trellis-vggt-v0-2", "see the source's model card; parts of its code are for research only"),
    "vggt": ("Stable-X/vggt-object-v0-1", "see the source's model card; VGGT's own weights are for research only"),
    "segmentation": ("ZhengPeng7/BiRefNet", "MIT"),
    "dinov2": ("facebookresearch/dinov2", "Apache-2.0"),
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fault:
    """path: of the file, from the weights' folder; what: is wrong with it."""

    path: str
    what: str


def lock(folder: Path, revisions: dict[str, str] | None = None) -> dict[str, Any]:
    """Writes the manifest of what is in `folder` now. revisions: of the parts' sources; those that an earlier manifest knows are
    kept. Raises WeightsMissing where a part is not there."""
    before = read_json(folder / FILE, {}).get("parts", {})
    _need_parts(folder)
    parts = {name: _part(name, before.get(name, {}), (revisions or {}).get(name)) for name in PARTS}
    manifest = {"format": FORMAT, "parts": parts, "files": [_file(folder, path) for path in _files(folder)]}
    write_json(folder / FILE, manifest)
    return manifest


def verify(folder: Path) -> list[Fault]:
    """Differences between the files and their manifest, empty for none. Raises WeightsMissing without a manifest."""
    listed = {item["path"]: item for item in manifest_of(folder)["files"]}
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    faults = [Fault(name, "is missing") for name in listed if name not in there]
    faults += [Fault(name, "is not in the manifest") for name in there if name not in listed]
    for name, path in there.items():
        if name in listed:
            faults += [Fault(name, what) for what in _differences(path, listed[name])]
    return sorted(faults, key=lambda fault: fault.path)


def check_weights(folder: Path) -> dict[str, Any]:
    """The manifest of weights that are all there and unchanged. Raises WeightsMissing, with every fault in its details."""
    _need_parts(folder)
    faults = verify(folder)
    if faults:
        fault_list = "; ".join(f"{f.path} {f.what}" for f in faults[:5]) + ("; …" if len(faults) > 5 else "")
        raise WeightsMissing(
            f"The weights in {folder} are not those of their manifest: {fault_list}.",
            "Copy the files named in the details again; if they are meant to be so, run `sixview weights lock` on the folder.",
            faults=[{"file": f.path, "fault": f.what} for f in faults],
        )
    return manifest_of(folder)


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(folder / FILE, {})
    if manifest.get("format") != FORMAT:
        raise WeightsMissing(
            f"The folder {folder} has no {FILE} of the format {FORMAT}.",
            "Put the parts into it (docs/models.md), then run `sixview weights lock` on it.",
        )
    return manifest


def _need_parts(folder: Path) -> None:
    missing = [name for name in PARTS if not (folder / name).is_dir()]
    if missing:
        raise WeightsMissing(
            f"The folder {folder} holds no weights of the engine reconviagen: missing {', '.join(missing)}.",
            "It needs one folder for each part: " + ", ".join(f"{n} ({s})" for n, (s, _) in PARTS.items()) + ".",
            missing=missing,
        )


def _part(name: str, before: dict[str, Any], revision: str | None) -> dict[str, Any]:
    source, licence = PARTS[name]
    known = {"source": source, "revision": UNKNOWN, "licence": licence, "may_lack": [], "may_add": []}
    return {"folder": name, **known, **before, **({"revision": revision} if revision else {})}


def _files(folder: Path) -> list[Path]:
    return sorted(path for name in PARTS for path in (folder / name).rglob("*") if path.is_file())


def _file(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    return {"path": name, "part": name.split("/")[0], "bytes": path.stat().st_size, "sha256": sha256(path)}


def _differences(path: Path, item: dict[str, Any]) -> list[str]:
    size = path.stat().st_size
    if size != item["bytes"]:
        return [f"has {size} bytes, not {item['bytes']}"]
    return [] if sha256(path) == item["sha256"] else ["has another SHA-256"]
