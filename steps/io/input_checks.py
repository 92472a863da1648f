"""Reads and checks an input set; one error reports all faults."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steps.geometry.cameras import VIEW_NAMES
from steps.io import camera_import, input_set, orientation, png, png_chunks, unseen
from steps.io.cameras_json import Given
from steps.io.input_set import FIELDS, Entry, sanitize
from steps.runtime.errors import BadInput, FileTooLarge, InvalidFileCount, InvalidFileFormat, ValidationFailed

ORDER: tuple[type[BadInput], ...] = (InvalidFileCount, FileTooLarge, InvalidFileFormat, ValidationFailed)
ASPECT_TOLERANCE = 0.01
GREY = 2  # of 255: how far channels may differ in a depth render that was stored as a colour picture


@dataclass(frozen=True)
class Fault:
    """A fault of one file. field: multi_views, depth_renders or cameras; index: of the view, if known."""

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
    """Raises one BadInput for all faults, with the first of their codes in ORDER and details of each; nothing without faults."""
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
    """The twelve pictures, each list in the order of VIEW_NAMES. notes: what was decided while they were read."""

    views: list[png.Picture]
    depths: list[png.Picture]
    notes: list[str] = dataclasses.field(default_factory=list, kw_only=True)


def check_set(source: Path, cameras: Path | None = None) -> tuple[Pictures, Given | None]:
    """The twelve pictures of a folder or .zip, upright, and the cameras, if any. Raises one BadInput that lists every fault."""
    input_files = input_set.open_set(source)
    slots, faults, left_out = check_names(input_files.pictures)
    decoded, picture_faults = check_pictures(slots)
    picture_faults += [
        _fault(error, "depth_renders", i, slots["depth_renders"][i]) for i, error in unseen.faults(decoded).items()
    ]
    pictures, orientation_notes = orientation.upright(decoded)
    given, camera_notes, camera_faults = check_cameras(input_files.cameras, cameras, pictures)
    raise_all(faults + picture_faults + check_pairs(pictures) + camera_faults)
    by_field = [[pictures[field, i] for i in range(len(VIEW_NAMES))] for field in FIELDS]
    views, gamma_notes = for_display(by_field[0])
    return Pictures(
        views, by_field[1], notes=[*input_files.notes, *left_out, *orientation_notes, *gamma_notes, *camera_notes]
    ), given


def check_names(entries: list[Entry]) -> tuple[dict[str, dict[int, Entry]], list[Fault], list[str]]:
    """The file of each view of each field; faults of names; and notes on files left out."""
    slots: dict[str, dict[int, Entry]] = {field: {} for field in FIELDS}
    faults, notes = [], []
    for field in FIELDS:
        files = [e for e in entries if e.path.parts[0] == field]
        if others := _beside_six(field, files):
            files = [e for e in files if e not in others]
            notes.append(f"Left out, since the six PNGs are there: {', '.join(sanitize(e.path) for e in others)}.")
        if len(files) != len(VIEW_NAMES):
            wrong = InvalidFileCount(
                f"{field} holds {len(files)} files instead of {len(VIEW_NAMES)}{_numbers(field, files)}"
            )
            faults.append(Fault(wrong, field, None, ""))
        names = [entry.path.name for entry in files]
        if input_set.first_number(field, names, VIEW_NAMES):
            notes.append(_numbered_from_one_note(field, names))
        for entry, index in zip(files, input_set.view_indices(field, names, VIEW_NAMES), strict=True):
            if index is None:
                faults.append(_fault(ValidationFailed(_name_fault(field, entry), _naming(field)), field, None, entry))
            elif index in slots[field]:
                error = ValidationFailed(
                    f"stands for the view {VIEW_NAMES[index]}, as {sanitize(slots[field][index].path.name)} does",
                    _naming(field),
                )
                faults.append(_fault(error, field, index, entry))
            else:
                slots[field][index] = entry
    return slots, faults, notes


def _beside_six(field: str, files: list[Entry]) -> list[Entry]:
    """Files of other formats beside a PNG for each view, as programs write both."""
    pictures = [e for e in files if e.path.suffix.lower() == ".png"]
    indices = input_set.view_indices(field, [e.path.name for e in pictures], VIEW_NAMES)
    views = sorted(-1 if i is None else i for i in indices)
    return [e for e in files if e not in pictures] if views == list(range(len(VIEW_NAMES))) else []


def _naming(field: str) -> str:
    numbered = "view_0.png to view_5.png" + (" or depth_0.png to depth_5.png" if field == "depth_renders" else "")
    return (
        f"Name the six files front.png, back.png, left.png, right.png, top.png, bottom.png, or in that order {numbered}; "
        "they may count from 1 to 6, too."
    )


def _numbers(field: str, files: list[Entry]) -> str:
    numbers = [n for e in files if (n := input_set.number_of_name(field, e.path.name)) is not None]
    if len(numbers) < len(VIEW_NAMES):
        return ""
    return f", numbered from {min(numbers)} to {max(numbers)}: six are 0 to 5, or all of them 1 to 6"


def _name_fault(field: str, entry: Entry) -> str:
    """Message for a file name that identifies no view."""
    number = input_set.number_of_name(field, entry.path.name)
    if number is None:
        return "has a name that tells no view"
    return f"has the number {number}: six files are numbered 0 to 5, or all of them 1 to 6"


def _numbered_from_one_note(field: str, names: list[str]) -> str:
    order = ", ".join(f"{sanitize(n)} is {VIEW_NAMES[i]}" for i, n in enumerate(sorted(names, key=str.lower)))
    return f"The files in {field} count from one: {order}."


def _fault(error: BadInput, field: str, index: int | None, entry: Entry) -> Fault:
    return Fault(error, field, index, sanitize(entry.path.as_posix()))


def check_pictures(slots: dict[str, dict[int, Entry]]) -> tuple[dict[tuple[str, int], png.Picture], list[Fault]]:
    """Every picture that can be read, and why the others cannot. Two files are read at a time."""
    slot_entries = [(field, index, entry) for field, files in slots.items() for index, entry in sorted(files.items())]
    with ThreadPoolExecutor(2) as pool:  # zlib works without the GIL; more threads would hold more files at a time
        results = list(pool.map(lambda slot: _read(slot[0], slot[2]), slot_entries))
    pictures = {
        (field, index): p
        for (field, index, _), p in zip(slot_entries, results, strict=True)
        if isinstance(p, png.Picture)
    }
    return pictures, [
        _fault(p, *slot) for slot, p in zip(slot_entries, results, strict=True) if isinstance(p, BadInput)
    ]


def _read(field: str, entry: Entry) -> png.Picture | BadInput:
    try:
        picture = png.decode(entry.read())
        return depth_of(picture) if field == "depth_renders" else picture
    except BadInput as error:
        return error


def depth_of(picture: png.Picture) -> png.Picture:
    """A depth render as [H, W, 1], or [H, W, 2] with alpha; RGB must be grey. Raises ValidationFailed."""
    channels = picture.pixels.shape[2] - (picture.alpha is not None)
    colours = picture.pixels[..., :channels]
    apart = np.ptp(colours, axis=2).max() if channels > 1 else 0
    if apart > GREY * picture.maximum / 255:
        raise ValidationFailed(
            "is a colour picture, not a depth render",
            "Put depth renders into depth_renders/ and views into multi_views/; were they swapped? Depth drawn with a colour "
            "map cannot be read: save it as grey.",
        )
    counts = np.median(colours, axis=2).astype(colours.dtype) if apart else colours[..., 0]
    alpha = [picture.pixels[..., -1]] if picture.alpha is not None else []
    return replace(picture, pixels=np.stack([counts, *alpha], axis=2))


def for_display(views: list[png.Picture]) -> tuple[list[png.Picture], list[str]]:
    """The views as 8-bit sRGB, and notes on conversions."""
    gammas = {name: v.gamma for name, v in zip(VIEW_NAMES, views, strict=True) if _is_unlike_a_display(v)}
    names = ", ".join(f"{name} {gamma:g}" for name, gamma in gammas.items())
    note = f"Colours were brought to sRGB's curve, since the files say that theirs is another one (gAMA: {names})."
    return [_displayed(v) for v in views], [note] if gammas else []


def _is_unlike_a_display(picture: png.Picture) -> bool:
    return picture.gamma is not None and abs(picture.gamma - png_chunks.DISPLAY) > png_chunks.LIKE_DISPLAY


def _displayed(picture: png.Picture) -> png.Picture:
    channels = picture.pixels.shape[2] - (picture.alpha is not None)
    pixels, maximum = picture.pixels, picture.maximum
    if _is_unlike_a_display(picture):
        assert picture.gamma is not None
        colours = png_chunks.for_display(pixels[..., :channels], maximum, picture.gamma)
        pixels = np.dstack([colours, pixels[..., channels:]])
    eight = pixels if maximum == 255 else np.rint(pixels / 257.0).astype(np.uint8)
    return png.Picture(eight, 255)


def check_pairs(pictures: dict[tuple[str, int], png.Picture]) -> list[Fault]:
    """Faults of views whose depth render has another aspect ratio."""
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
) -> tuple[Given | None, list[str], list[Fault]]:
    """The cameras of the file given on the command line, else of the set, None without any; notes; and faults. entries: files in
    the set that have cameras, by content or by name."""
    views = [pictures.get(("multi_views", i)) for i in range(len(VIEW_NAMES))]
    sizes = [(p.pixels.shape[1], p.pixels.shape[0]) for p in views if p is not None]
    known = sizes if len(sizes) == len(VIEW_NAMES) else None
    paths = [sanitize(e.path.as_posix()) for e in entries]
    try:
        if cameras is not None:
            return camera_import.read(cameras, known), _not_read(sanitize(cameras.name), paths), []
        if not entries:
            return None, [], []
        if len(entries) > 1 and paths[0] != input_set.CAMERAS:
            raise ValidationFailed(
                f"and {', '.join(paths[1:])} might both be the cameras",
                "Call the one that holds them cameras.json, beside multi_views; or name it with --cameras.",
            )
        given = camera_import.parse(entries[0].read(input_set.MAX_CAMERAS_BYTES), known)
        return given, _not_read(paths[0], paths[1:]) + _misplaced(paths[0]), []
    except BadInput as error:
        return None, [], [Fault(error, "cameras", None, sanitize(cameras.name) if cameras else paths[0])]


def _not_read(used: str, others: list[str]) -> list[str]:
    return [f"The cameras are those of {used}; not read: {', '.join(others)}."] if others else []


def _misplaced(place: str) -> list[str]:
    if place == input_set.CAMERAS:
        return []
    return [
        f"The cameras were read from {place}; the place where they are looked for is cameras.json beside multi_views."
    ]
