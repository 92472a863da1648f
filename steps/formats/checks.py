"""The checks of an input set: all faults are found, none is fatal to finding the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import BadInput, FileTooLarge, InvalidFileCount, InvalidFileFormat, ValidationFailed
from steps.formats import camera_files, cameras_json, inputs, png
from steps.formats.cameras_json import Given
from steps.formats.inputs import FIELDS, Entry, shown
from steps.geometry.cameras import VIEW_NAMES

ORDER: tuple[type[BadInput], ...] = (InvalidFileCount, FileTooLarge, InvalidFileFormat, ValidationFailed)
ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one file. field: multi_views, depth_renders or cameras; index: of the view, if known."""

    error: BadInput
    field: str
    index: int | None
    file: str

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.error.code,
            "field": self.field,
            "index": self.index,
            "file": self.file,
            "message": self.error.message,
            "suggestion": self.error.suggestion,
        }

    def sentence(self) -> str:
        return f"{self.file} {self.error.message}".strip() if self.file else self.error.message


def raise_all(faults: list[Fault]) -> None:
    """Raises one error for all faults: its code is the first of ORDER among theirs, its details list every one."""
    if not faults:
        return
    first = min(faults, key=lambda fault: next(i for i, kind in enumerate(ORDER) if isinstance(fault.error, kind)))
    more = f" ({len(faults) - 1} more: see the details)" if len(faults) > 1 else ""
    raise type(first.error)(
        first.sentence().rstrip(".") + "." + more,
        first.error.suggestion,
        field=first.field,
        index=first.index,
        file=first.file,
        faults=[fault.to_json() for fault in faults],
    )


@dataclass(frozen=True)
class Pictures:
    """The twelve pictures, each list in the order of VIEW_NAMES."""

    views: list[png.Picture]
    depths: list[png.Picture]


def check_set(source: Path, cameras: Path | None = None) -> tuple[Pictures, Given | None]:
    """The twelve pictures of a folder or .zip, and the cameras, if any were given. Raises one BadInput that lists every fault."""
    entries = inputs.entries(source)
    slots, faults = check_names([e for e in entries if e.path.name != "cameras.json"])
    pictures, more = check_pictures(slots)
    given, camera_faults = check_cameras(entries, cameras, pictures)
    raise_all(faults + more + check_pairs(pictures) + camera_faults)
    by_field = [[pictures[field, i] for i in range(len(VIEW_NAMES))] for field in FIELDS]
    return Pictures(*by_field), given


def check_names(entries: list[Entry]) -> tuple[dict[str, dict[int, Entry]], list[Fault]]:
    """Which file is which view of which field."""
    slots: dict[str, dict[int, Entry]] = {field: {} for field in FIELDS}
    faults = []
    for field in FIELDS:
        files = [e for e in entries if e.path.parts[0] == field]
        if len(files) != len(VIEW_NAMES):
            faults.append(
                Fault(
                    InvalidFileCount(f"{field} holds {len(files)} files instead of {len(VIEW_NAMES)}"), field, None, ""
                )
            )
        for entry in files:
            index = inputs.view_index(field, entry.path.name, VIEW_NAMES)
            if index is None:
                faults.append(
                    _fault(ValidationFailed("has a name that tells no view", _naming(field)), field, None, entry)
                )
            elif index in slots[field]:
                error = ValidationFailed(
                    f"stands for the view {VIEW_NAMES[index]}, as {shown(slots[field][index].path.name)} does",
                    _naming(field),
                )
                faults.append(_fault(error, field, index, entry))
            else:
                slots[field][index] = entry
    return slots, faults


def _naming(field: str) -> str:
    numbered = "view_0.png to view_5.png" + (" or depth_0.png to depth_5.png" if field == "depth_renders" else "")
    return f"Name the six files front.png, back.png, left.png, right.png, top.png, bottom.png, or in that order {numbered}."


def _fault(error: BadInput, field: str, index: int | None, entry: Entry) -> Fault:
    return Fault(error, field, index, shown(entry.path.as_posix()))


def check_pictures(slots: dict[str, dict[int, Entry]]) -> tuple[dict[tuple[str, int], png.Picture], list[Fault]]:
    """Every picture that can be read, and why the others cannot. Two files are read at a time."""
    places = [(field, index, entry) for field, files in slots.items() for index, entry in sorted(files.items())]
    with ThreadPoolExecutor(2) as pool:  # zlib works without the GIL; more threads would hold more files at a time
        found = list(pool.map(lambda place: _read(place[0], place[2]), places))
    pictures = {
        (field, index): p for (field, index, _), p in zip(places, found, strict=True) if isinstance(p, png.Picture)
    }
    return pictures, [_fault(p, *place) for place, p in zip(places, found, strict=True) if isinstance(p, BadInput)]


def _read(field: str, entry: Entry) -> png.Picture | BadInput:
    try:
        picture = png.decode(entry.read())
        if field == "depth_renders":
            check_depth(picture)
        return picture
    except BadInput as error:
        return error


def check_depth(picture: png.Picture) -> None:
    """A depth render is grey and not all one value."""
    if not picture.is_grey:
        raise ValidationFailed(
            "is a colour picture, not a depth render",
            "Put depth renders into depth_renders/ and views into multi_views/; were they swapped?",
        )
    counts = picture.pixels[..., 0]
    if int(counts.min()) == int(counts.max()):
        raise ValidationFailed("has the same value everywhere: it holds no depth", "Render the depth again.")


def check_pairs(pictures: dict[tuple[str, int], png.Picture]) -> list[Fault]:
    """View and depth of one camera show the same frame, so they have the same proportions."""
    faults = []
    for index, name in enumerate(VIEW_NAMES):
        view, depth = pictures.get(("multi_views", index)), pictures.get(("depth_renders", index))
        if view is None or depth is None:
            continue
        (h, w), (dh, dw) = view.pixels.shape[:2], depth.pixels.shape[:2]
        if abs(w * dh - h * dw) > ASPECT_TOLERANCE * w * dh:
            text = f"has {dw} x {dh} pixels, while the view has {w} x {h}: their proportions differ"
            error = ValidationFailed(
                text, "Render view and depth with the same camera; sizes may differ, proportions may not."
            )
            faults.append(Fault(error, "depth_renders", index, f"depth_renders/{name}"))
    return faults


def check_cameras(
    entries: list[Entry], cameras: Path | None, pictures: dict[tuple[str, int], png.Picture]
) -> tuple[Given | None, list[Fault]]:
    """The cameras of a file, else the set's own, if any."""
    own = [e for e in entries if e.path.as_posix() == "cameras.json"]
    views = [pictures.get(("multi_views", i)) for i in range(len(VIEW_NAMES))]
    sizes = [(p.pixels.shape[1], p.pixels.shape[0]) for p in views if p is not None]
    try:
        if cameras is not None:
            return camera_files.read(cameras, sizes if len(sizes) == len(VIEW_NAMES) else None), []
        return (cameras_json.parse(own[0].read(inputs.MAX_CAMERAS_BYTES)) if own else None), []
    except BadInput as error:
        return None, [Fault(error, "cameras", None, shown(cameras.name) if cameras else "cameras.json")]
