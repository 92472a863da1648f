"""Number of cores this process may use, from its CPU affinity and its cgroup's CPU quota. Standard library only."""

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
    """CPU quota of this process's cgroup and its parents, the least, in cores; infinite without one. A container's `limits.cpu`.
    With more threads than that the kernel throttles all of them for the rest of every period."""
    return min((_quota(folder) for folder in _groups(root, membership)), default=math.inf)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of this process's cgroup and its parents, for cgroup v1 and v2. In a container its own cgroup is the root, whatever
    path the host has for it."""
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
    """CPU quota of one cgroup, in cores: quota over period, from `cpu.max` (v2) or from two files (v1); infinite without one."""
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
