"""An input set as it arrives: a folder or a ZIP archive. Nothing is unpacked to disk, links are not followed, and every
file is read under a bound."""

from __future__ import annotations

import stat
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from steps.errors import BadInput, FileTooLarge, InvalidFileCount, InvalidFileFormat, ValidationFailed

FIELDS = ("multi_views", "depth_renders")
MAX_BYTES = 20_000_000
MAX_CAMERAS_BYTES = 1_000_000
MAX_ENTRIES = 1000
_NOISE = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Entry:
    """One file of the set. path: inside the set, `multi_views/front.png`; size: bytes as announced; problem: why it may
    not be read, if so."""

    path: PurePosixPath
    size: int
    opened: Callable[[int], bytes]
    problem: BadInput | None = None

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """The file's bytes. Raises FileTooLarge above `limit`, and the entry's own problem."""
        if self.problem:
            raise self.problem
        data = b"" if self.size > limit else self.opened(limit + 1)
        if max(self.size, len(data)) > limit:
            raise FileTooLarge(f"has {max(self.size, len(data)) / 1e6:.1f} MB; at most {limit / 1e6:.0f} MB are read")
        return data


def shown(name: object) -> str:
    """A name that is safe to print and to store as JSON, whatever bytes it was made of."""
    printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(name))
    return printable.encode("utf-8", "backslashreplace").decode()


def entries(path: Path) -> list[Entry]:
    """The files of the set, with paths that begin with multi_views/ or depth_renders/, or are `cameras.json`."""
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_zip(path)
    raise ValidationFailed(
        f"There is no input at {shown(path)}.", "Give a folder or a .zip with multi_views/ and depth_renders/."
    )


def _wanted(path: PurePosixPath) -> bool:
    noise = path.name.startswith(".") or path.name.lower() in _NOISE
    return not noise and (path.as_posix() == "cameras.json" or (len(path.parts) == 2 and path.parts[0] in FIELDS))


# -- folders ------------------------------------------------------------------------------------------------------------


def _of_folder(root: Path) -> list[Entry]:
    found = [root / "cameras.json"] if (root / "cameras.json").exists() else []
    for field in FIELDS:
        if (root / field).is_symlink():
            raise ValidationFailed(f"{field} is a symbolic link.", "Give the folder itself: links are not followed.")
        if (root / field).is_dir():
            found += sorted((root / field).iterdir())
    if not any(f.parent != root for f in found) and not all((root / field).is_dir() for field in FIELDS):
        raise InvalidFileCount(f"{shown(root)} has no folders multi_views and depth_renders with pictures in them.")
    return [_file(root, p) for p in found if _wanted(PurePosixPath(p.relative_to(root).as_posix()))]


def _file(root: Path, path: Path) -> Entry:
    mode = path.lstat()
    problem: BadInput | None = None
    if stat.S_ISLNK(mode.st_mode):
        problem = ValidationFailed("is a symbolic link", "Give the file itself: links are not followed.")
    elif not stat.S_ISREG(mode.st_mode):
        problem = InvalidFileFormat("is not a file")
    return Entry(
        PurePosixPath(path.relative_to(root).as_posix()), mode.st_size, lambda limit: _head(path, limit), problem
    )


def _head(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ValidationFailed(f"cannot be read: {error.strerror}", "Check the file's permissions.") from None


# -- archives -----------------------------------------------------------------------------------------------------------


def _of_zip(path: Path) -> list[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidFileFormat(
            f"{shown(path.name)} is not a readable ZIP archive ({error}).", "Give a folder or a valid .zip."
        ) from None
    if len(infos) > MAX_ENTRIES:
        raise ValidationFailed(f"{shown(path.name)} holds {len(infos)} files; a set has twelve and a cameras.json.")
    for info in infos:
        _check_member(info)
    root = _root([PurePosixPath(info.filename) for info in infos])
    inside = [
        (info, PurePosixPath(info.filename).relative_to(root))
        for info in infos
        if PurePosixPath(info.filename).is_relative_to(root)
    ]
    return [Entry(name, info.file_size, _member_reader(path, info)) for info, name in inside if _wanted(name)]


def _check_member(info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in name.parts[0]:
        raise ValidationFailed(
            f"The archive holds the path {shown(info.filename)}, which leads out of it.", "Pack the set's folder anew."
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValidationFailed(
            f"The archive holds {shown(info.filename)} as a symbolic link.", "Pack the files themselves."
        )
    if info.flag_bits & 1:
        raise ValidationFailed("The archive is encrypted.", "Pack it without a password.")


def _root(names: list[PurePosixPath]) -> PurePosixPath:
    """The folder inside the archive that holds the set: archives often wrap everything in one folder."""
    roots = {PurePosixPath(*n.parts[:i]) for n in names for i, part in enumerate(n.parts[:-1]) if part in FIELDS}
    if not roots:
        raise InvalidFileCount("The archive has no folders multi_views and depth_renders with pictures in them.")
    if len(roots) > 1:
        raise ValidationFailed("The archive holds more than one set.", "Pack one object per archive.")
    return roots.pop()


def _member_reader(path: Path, info: zipfile.ZipInfo) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as member:
                return member.read(limit)
        except Exception as error:  # zipfile raises whatever its decompressors do
            raise InvalidFileFormat(f"cannot be unpacked: {error}", "Pack the archive anew.") from None

    return read


# -- names --------------------------------------------------------------------------------------------------------------


def view_index(field: str, name: str, view_names: tuple[str, ...]) -> int | None:
    """Which view a file name stands for: front.png ..., view_0.png ..., view_00.png ..., depth_0.png ... in depth_renders."""
    stem = unicodedata.normalize("NFKC", PurePosixPath(name).stem).lower()
    if stem in view_names:
        return view_names.index(stem)
    prefix, _, number = stem.rpartition("_")
    allowed = ("view", "depth") if field == "depth_renders" else ("view",)
    if (
        prefix in allowed
        and number.isascii()
        and number.isdigit()
        and len(number) <= 2
        and int(number) < len(view_names)
    ):
        return int(number)
    return None
