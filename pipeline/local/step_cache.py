"""Cache keys of steps, and publication of results by hard links."""

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

EXCLUDED_FIELDS = {
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
    """One run of a step. name: `reconviagen.quality`; step: `quality`; reads: input files and folders, part of the cache key."""

    name: str
    step: str
    parameters: Step
    reads: tuple[Path, ...]


def cache_key(task: Task) -> str:
    """SHA-256 of the program, the task's options and the digests of its inputs."""
    options = {k: str(v) for k, v in asdict(task.parameters).items() if k not in EXCLUDED_FIELDS}
    content = [program(), task.step, sorted(options.items()), [_digest(path) for path in task.reads]]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _digest(path: Path) -> object:
    """Digest of a file, an input set or a result folder; None where it is missing."""
    if path.is_file():
        return sha256(path)
    if any((path / name).is_dir() for name in FIELDS):  # an input set: only the files that are read
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
    """Replaces `target` by `source`, a file or folder, with hard links or, where not supported, copies. Atomic for files."""
    if not source.exists():
        remove(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.partial")
    remove(staging)
    if source.is_dir():
        shutil.copytree(source, staging, copy_function=_link)
        remove(target)
    else:
        _link(str(source), str(staging))
    os.replace(staging, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
