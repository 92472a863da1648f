"""What a finished step is kept by, and how its results appear under their final names."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steps.io.input_set import FIELDS
from steps.runtime.contract import Step
from steps.runtime.files import program, sha256, tree_digests

_PLACE = {
    "out",
    "outputs",
    "deadline_seconds",
    "memory_limit_mib",
    "scene",
    "mesh",
    "job",
    "input",
    "cameras",
    "held_out",
    "attempts",
    "checkpoint",
    "checkpoint_seconds",
}  # not part of a key


@dataclass(frozen=True)
class Task:
    """One step of the plan. name: `reconviagen.quality`; step: `quality`; reads: what its key depends on."""

    name: str
    step: str
    parameters: Step
    reads: tuple[Path, ...]


def key_of(task: Task) -> str:
    """Changes whenever the program, the task's options or anything it reads changes."""
    chosen = {k: str(v) for k, v in asdict(task.parameters).items() if k not in _PLACE}
    content = [program(), task.step, sorted(chosen.items()), [_digest(path) for path in task.reads]]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _digest(path: Path) -> object:
    """What a file, or an input set or result folder, holds."""
    if path.is_file():
        return sha256(path)
    if any((path / name).is_dir() for name in FIELDS):  # an input folder: only what is read of it
        files = [path / "cameras.json", *(p for name in FIELDS for p in sorted((path / name).glob("*")))]
        return [(p.relative_to(path).as_posix(), sha256(p)) for p in files if p.is_file()]
    return tree_digests(path) if path.is_dir() else None


def is_done(done: dict[str, Any], key: str, out: Path) -> bool:
    return done.get("key") == key and out.is_dir() and done.get("results") == tree_digests(out)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(source: Path, target: Path) -> None:
    """Makes `source`, a file or a folder, appear under `target` in one step; links where the file system can, else copies."""
    if not source.exists():
        remove(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.partial")
    remove(fresh)
    if source.is_dir():
        shutil.copytree(source, fresh, copy_function=_link)
        remove(target)
    else:
        _link(str(source), str(fresh))
    os.replace(fresh, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
