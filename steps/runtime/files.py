"""Atomic files, digests, folders moved into place. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes `data` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically, keys in their order, one trailing newline."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, default: Any = None) -> Any:
    """The file's value, or `default` where it is missing or damaged, or of another kind than `default`."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return default
    return value if default is None or isinstance(value, type(default)) else default


def read_text(path: Path, default: str = "") -> str:
    """The file's text without white space around it, or `default` where it is missing or no text."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return default


def program() -> str:
    """Hex digest of the steps' own source: another version may give other results."""
    root = Path(__file__).parents[1]
    sources = {p.relative_to(root).as_posix(): sha256(p) for p in sorted(root.rglob("*.py"))}
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def sha256(source: Path | IO[bytes]) -> str:
    """Hex digest of a file, or of what is left of a stream, read in pieces."""
    if isinstance(source, Path):
        with open(source, "rb") as file:
            return sha256(file)
    return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]  # IO lacks readinto, its binary kinds have it


def tree_digests(folder: Path) -> dict[str, str]:
    """Digest of every file under `folder`, by its path relative to it, sorted."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def move_into_place(source: Path, target: Path) -> None:
    """Makes the folder `source` appear as `target`, replacing what was there. A mount point cannot be replaced: there the
    entries are moved one by one."""
    if os.path.ismount(target):
        for old in target.iterdir():
            if old != source:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        for entry in source.iterdir():
            os.replace(entry, target / entry.name)
        source.rmdir()
        return
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(target, replaced)
    os.replace(source, target)
    shutil.rmtree(replaced, ignore_errors=True)
