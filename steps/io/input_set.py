"""An input set: a folder or a ZIP archive. Nothing is unpacked to disk, links are not followed, and every read is bounded.
Files that other programs leave beside the pictures are ignored; a file that looks like cameras counts wherever it lies."""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from steps.runtime.errors import BadInput, FileTooLarge, InvalidFileCount, InvalidFileFormat, ValidationFailed

FIELDS = ("multi_views", "depth_renders")
CAMERAS = "cameras.json"
MAX_BYTES = 20_000_000
MAX_CAMERAS_BYTES = 1_000_000
MAX_ENTRIES = 1000
_SIDE_FOLDERS = {
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "ground_truth",
}  # the last is what `sixview sample` knows of a set
_SIDE_FILES = {"thumbs.db", "desktop.ini", "icon\r"}
_SIDE_SUFFIXES = (
    ".meta",
    ".import",
    ".json",
    ".txt",
    ".xml",
    ".xmp",
    ".md",
    ".csv",
    ".yaml",
    ".yml",
    ".log",
    ".ini",
    ".bak",
    "~",
)
_CAMERA_NAME = re.compile(r"(cameras?|transforms?|rig)(\.json)?(\.txt|\.json)?")
_CAMERA_WORDS = (b"sixview-cameras/", b'"transform_matrix"', b'"camera_to_world"')
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Entry:
    """One file of the set. path: inside the set, `multi_views/front.png`; size: bytes as announced; problem: why it may
    not be read, if so; source: where it lies, if that is a file of its own."""

    path: PurePosixPath
    size: int
    opened: Callable[[int], bytes]
    problem: BadInput | None = None
    source: Path | None = None

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """The file's bytes. Raises FileTooLarge above `limit`, and the entry's own problem."""
        if self.problem:
            raise self.problem
        data = b"" if self.size > limit else self.opened(limit + 1)
        if max(self.size, len(data)) > limit:
            raise FileTooLarge(f"has {max(self.size, len(data)) / 1e6:.1f} MB; at most {limit / 1e6:.0f} MB are read")
        return data


@dataclass(frozen=True)
class InputSet:
    """pictures: the files in the two fields, paths `multi_views/front.png`; cameras: files that hold cameras, or by their names
    should, the one called cameras.json first; notes: what was left out."""

    pictures: list[Entry]
    cameras: list[Entry]
    notes: list[str] = field(default_factory=list)


def sanitize(name: object) -> str:
    """A name that is safe to print and to store as JSON, whatever bytes it has."""
    printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(name))
    return printable.encode("utf-8", "backslashreplace").decode()


def open_set(path: Path) -> InputSet:
    """The set in a folder or a .zip. Raises BadInput where there is none."""
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_zip(path)
    raise ValidationFailed(
        f"There is no input at {sanitize(path)}.", "Give a folder or a .zip with multi_views/ and depth_renders/."
    )


def _sorted(entries: Iterable[Entry], notes: list[str]) -> InputSet:
    """entries: files in the set's folder and in the folders directly inside."""
    own_entries = [e for e in entries if not _is_side_folder(e.path.parent)]
    pictures = [e for e in own_entries if e.path.parts[0] in FIELDS and not _is_side_file(e.path.name)]
    cameras = [e for e in own_entries if e not in pictures and _holds_cameras(e)]
    return InputSet(pictures, sorted(cameras, key=lambda e: (e.path.as_posix() != CAMERAS, e.path.as_posix())), notes)


def _is_side_folder(folder: PurePosixPath) -> bool:
    return any(part.lower() in _SIDE_FOLDERS or part.startswith(".") for part in folder.parts)


def _is_side_file(name: str) -> bool:
    lower = name.lower()
    return lower.startswith(".") or lower in _SIDE_FILES or lower.endswith(_SIDE_SUFFIXES)


def named_as_cameras(name: str) -> bool:
    """Whether a file's name is, or resembles, that of a camera file."""
    return _CAMERA_NAME.fullmatch(name.lower()) is not None


def _holds_cameras(entry: Entry) -> bool:
    """Whether an entry is a camera file, by its name, or beside the pictures by its content."""
    lower = entry.path.name.lower()
    if named_as_cameras(lower):
        return True
    if entry.problem or entry.size > MAX_CAMERAS_BYTES or not lower.endswith((".json", ".json.txt")):
        return False
    beside = len(entry.path.parts) == 1 or entry.path.parts[0] in FIELDS
    return beside and any(word in entry.opened(MAX_CAMERAS_BYTES).replace(b"\0", b"") for word in _CAMERA_WORDS)


# -- folders ------------------------------------------------------------------------------------------------------------


def _of_folder(root: Path) -> InputSet:
    paths = list(islice(sorted(root.iterdir()), 10 * MAX_ENTRIES))
    fields = {path.name.lower(): path for path in paths if path.name.lower() in FIELDS and path.name not in FIELDS}
    fields |= {path.name: path for path in paths if path.name in FIELDS}
    entries: list[Entry] = []
    for path in paths:
        if path.is_symlink() and path.name.lower() in FIELDS:
            raise ValidationFailed(
                f"{sanitize(path.name)} is a symbolic link.", "Give the folder itself: links are not followed."
            )
        if path.is_dir() and not path.is_symlink():
            name = path.name.lower() if path in fields.values() else path.name
            is_other_set = name not in FIELDS and any((path / f).is_dir() for f in FIELDS)
            entries += [] if is_other_set else _in_folder(path, name)
        else:
            entries.append(_file(path, PurePosixPath(path.name)))
    result = _sorted(entries, [])
    if not result.pictures and not all(f in fields for f in FIELDS):
        raise InvalidFileCount(f"{sanitize(root)} has no folders multi_views and depth_renders with pictures in them.")
    return result


def _in_folder(folder: Path, name: str) -> list[Entry]:
    """Files directly in a folder of the set; a folder named like a picture is an unreadable file."""
    if _is_side_folder(PurePosixPath(name)):
        return []
    paths = sorted(islice(folder.iterdir(), 10 * MAX_ENTRIES))
    files = [p for p in paths if p.is_symlink() or not p.is_dir() or p.suffix.lower() == ".png"]
    return [_file(p, PurePosixPath(name, p.name)) for p in files]


def _file(path: Path, name: PurePosixPath) -> Entry:
    mode = path.lstat()
    problem: BadInput | None = None
    if stat.S_ISLNK(mode.st_mode):
        problem = ValidationFailed("is a symbolic link", "Give the file itself: links are not followed.")
    elif not stat.S_ISREG(mode.st_mode):
        problem = InvalidFileFormat("is not a file")
    return Entry(name, mode.st_size, lambda limit: _read_head(path, limit), problem, path)


def _read_head(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ValidationFailed(f"cannot be read: {error.strerror}", "Check the file's permissions.") from None


# -- archives -----------------------------------------------------------------------------------------------------------


def _of_zip(path: Path) -> InputSet:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidFileFormat(
            f"{sanitize(path.name)} is not a readable ZIP archive ({error}).", "Give a folder or a valid .zip."
        ) from None
    entries = [(info, info.filename.replace("\\", "/")) for info in infos]  # some programs on Windows write them so
    entries = [(info, name) for info, name in entries if not name.endswith("/") and PurePosixPath(name).parts]
    members = [Entry(PurePosixPath(name), info.file_size, _member_reader(path, info)) for info, name in entries]
    for info, name in entries:
        _check_member(info, PurePosixPath(name))
    members = [m for m in members if not _is_side_folder(m.path.parent)]
    if len(members) > MAX_ENTRIES:
        raise ValidationFailed(
            f"{sanitize(path.name)} holds {len(members)} files; a set has twelve and a cameras.json."
        )
    root, others = _root([m.path for m in members])
    own = [m for m in members if m.path.is_relative_to(root) and not any(m.path.is_relative_to(o) for o in others)]
    notes = [
        f"The archive holds another set within this one, {sanitize(o)}, which was left out." for o in sorted(others)
    ]
    inside = [replace(m, path=_as_fields(m.path.relative_to(root))) for m in own]
    return _sorted([m for m in inside if len(m.path.parts) <= 2], notes)


def _as_fields(path: PurePosixPath) -> PurePosixPath:
    """The path with its field in lower case."""
    first, *rest = path.parts
    return PurePosixPath(first.lower(), *rest) if rest and first.lower() in FIELDS else path


def _check_member(info: zipfile.ZipInfo, name: PurePosixPath) -> None:
    if name.is_absolute() or ".." in name.parts or _DRIVE.match(name.parts[0]):
        raise ValidationFailed(
            f"The archive holds the path {sanitize(info.filename)}, which leads out of it.",
            "Pack the set's folder anew.",
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValidationFailed(
            f"The archive holds {sanitize(info.filename)} as a symbolic link.", "Pack the files themselves."
        )
    if info.flag_bits & 1:
        raise ValidationFailed("The archive is encrypted.", "Pack it without a password.")


def _root(names: list[PurePosixPath]) -> tuple[PurePosixPath, set[PurePosixPath]]:
    """The folder inside the archive that holds the set, since archives often wrap everything in one folder; and those of nested
    sets, such as backups."""
    roots = {PurePosixPath(*n.parts[:i]) for n in names for i, p in enumerate(n.parts[:-1]) if p.lower() in FIELDS}
    if not roots:
        raise InvalidFileCount("The archive has no folders multi_views and depth_renders with pictures in them.")
    root = min(roots, key=lambda r: len(r.parts))
    if not all(r.is_relative_to(root) for r in roots):
        root_names = ", ".join(sanitize(r) for r in sorted(roots)[:5])
        raise ValidationFailed(f"The archive holds more than one set: {root_names}.", "Pack one object per archive.")
    return root, roots - {root}


def _member_reader(path: Path, info: zipfile.ZipInfo) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as member:
                return member.read(limit)
        except Exception as error:  # zipfile raises whatever its decompressors do
            raise InvalidFileFormat(f"cannot be unpacked: {error}", "Pack the archive anew.") from None

    return read


# -- names --------------------------------------------------------------------------------------------------------------

_KIND = r"(?:view|depth|rgb|rgba|color|colour|image|img|render|z)"
_NUMBERED = re.compile(r"(view|depth)[ _.-]?(\d{1,6})", re.ASCII)


def view_index(field: str, name: str, view_names: tuple[str, ...]) -> int | None:
    """Index of the view in a file name, None without one: front.png, front0001.png (frame number), front_depth.png (kind);
    view_0.png, view_000.png, and depth_0.png in depth_renders. Leading folders are ignored."""
    pattern = rf"(?:{_KIND}[_.-])?({'|'.join(view_names)})(?:[_.-]{_KIND})?(?:[_.-]?\d{{1,6}})?"
    if match := re.fullmatch(pattern, _stem(name), re.ASCII):
        return view_names.index(match.group(1))
    number = number_of_name(field, name)
    return number if number is not None and number < len(view_names) else None


def number_of_name(field: str, name: str) -> int | None:
    """The number of view_0.png, or of depth_0.png in depth_renders."""
    numbered = _NUMBERED.fullmatch(_stem(name))
    if numbered is None or (numbered.group(1) == "depth" and field != "depth_renders"):
        return None
    return int(numbered.group(2))


def first_number(field: str, names: list[str], view_names: tuple[str, ...]) -> int:
    """First number, 0 or 1, of the numbered files of a folder: 1 where they are 1 to 6, each once, and none has a view's name."""
    numbers = [number_of_name(field, name) for name in names]
    if any(
        view_index(field, name, view_names) is not None for n, name in zip(numbers, names, strict=True) if n is None
    ):
        return 0
    return int(sorted(n for n in numbers if n is not None) == [i + 1 for i in range(len(view_names))])


def view_indices(field: str, names: list[str], view_names: tuple[str, ...]) -> list[int | None]:
    """Index of the view in each file name of a folder, as by `view_index`, also for numbers from 1."""
    if not first_number(field, names, view_names):
        return [view_index(field, name, view_names) for name in names]
    return [None if (n := number_of_name(field, name)) is None else n - 1 for name in names]


def _stem(name: str) -> str:
    return unicodedata.normalize("NFKC", PurePosixPath(name.replace("\\", "/")).stem).lower()
