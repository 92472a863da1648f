"""How many cores this process may use: its affinity and its cgroup's share of the processors. Standard library only."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def core_count() -> int:
    """The number of cores this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(allowed, _own_quota()))


@functools.cache
def _own_quota() -> float:
    return cpu_quota()


def cpu_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """The processors that this process's cgroup, and those around it, may use on average; infinite where nothing limits them.
    More threads than that are all stopped together for the rest of every period. A container's `limits.cpu` becomes this."""
    return min((_quota(folder) for folder in _groups(root, membership)), default=math.inf)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it, of both versions. A container sees its own group at the top,
    whatever path the host gave it."""
    for line in _read(membership).splitlines():
        number, controllers, path = line.split(":", 2)
        tops = (
            [root] if number == "0" else [root / "cpu", root / controllers] if "cpu" in controllers.split(",") else []
        )
        for top in tops:
            inner = top / path.lstrip("/")
            folders = [inner, *inner.parents] if inner.is_dir() else [top]
            yield from (folder for folder in folders if folder.is_relative_to(top))


def _quota(folder: Path) -> float:
    """What one cgroup allows: `cpu.max` holds quota and period in version 2, two files do in version 1."""
    words = _read(folder / "cpu.max").split() or [
        _read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # else "max", -1, or no file
        return int(words[0]) / int(words[1])
    return math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
