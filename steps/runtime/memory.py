"""Memory limit and usage of this container and process, from cgroup v1 and v2 and /proc. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a huge number
MARGIN = 0.04  # of the limit: the guard acts this much before the kernel would
LEAST_MARGIN = 32 * MIB


@dataclass(frozen=True)
class Cgroup:
    """One memory cgroup. folder: where its files lie; version: 1 or 2."""

    folder: Path
    version: int

    def limit(self) -> int | None:
        """Bytes, or None where there is no limit."""
        text = _read(self.folder / ("memory.max" if self.version == 2 else "memory.limit_in_bytes")).strip()
        return int(text) if text.isdigit() and int(text) < UNLIMITED else None

    def working_set(self) -> int:
        """Bytes that cannot be reclaimed at once: usage without the inactive page cache."""
        usage = _read(self.folder / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")).strip()
        cache = _number(self.folder / "memory.stat", "inactive_file" if self.version == 2 else "total_inactive_file")
        return max(0, int(usage or 0) - cache)

    def oom_kills(self) -> int:
        """How many processes of this group the kernel has killed for want of memory."""
        return _number(self.folder / ("memory.events" if self.version == 2 else "memory.oom_control"), "oom_kill")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path, key: str) -> int:
    match = re.search(rf"^{key} (\d+)$", _read(path), re.MULTILINE)
    return int(match[1]) if match else 0


def own_cgroups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Cgroup]:
    """This process's memory cgroup and those around it, innermost first. A container sees its own group at the root,
    whatever path the host gave it."""
    lines = [line.split(":", 2) for line in _read(membership).splitlines()]
    for number, controllers, path in lines:
        if "memory" in controllers.split(","):
            return _upwards(root / "memory", path, 1)
        if number == "0" and (root / "cgroup.controllers").exists():
            return _upwards(root, path, 2)
    return []


def _upwards(top: Path, path: str, version: int) -> list[Cgroup]:
    inner = top / path.lstrip("/")
    folders = [inner, *inner.parents] if inner.is_dir() else [top]
    return [Cgroup(folder, version) for folder in folders if folder.is_relative_to(top)]


class MemoryGuard:
    """Detects that a process is about to run out of memory.

    limit_mib: limit on the process's own resident memory, 0 for none; cgroups: see `own_cgroups`."""

    def __init__(self, limit_mib: int, cgroups: list[Cgroup]) -> None:
        self.limit_mib = limit_mib
        self.limits = [(group, limit) for group in cgroups if (limit := group.limit())]
        self.group = cgroups[0] if cgroups else None
        self.kills_before = self.group.oom_kills() if self.group else 0

    def limit_message(self, pid: int) -> str | None:
        """A sentence where the process or its cgroup is at its limit, else None."""
        resident = resident_bytes(pid) // MIB
        if self.limit_mib and resident > self.limit_mib:
            return f"The step uses {resident} MiB of memory; its limit is {self.limit_mib} MiB."
        for group, limit in self.limits:
            used = group.working_set()
            if used > limit - max(LEAST_MARGIN, int(limit * MARGIN)):
                return f"The container uses {used // MIB} of {limit // MIB} MiB of memory."
        return None

    def kernel_killed(self) -> bool:
        """Whether the kernel has killed a process of this cgroup since the guard was made."""
        return bool(self.group) and self.group.oom_kills() > self.kills_before  # type: ignore[union-attr]


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 where it cannot be told."""
    return _number_kib(Path(f"/proc/{pid}/status"), "VmRSS") * 1024


def read_and_reset_peak_mib() -> int:
    """Peak resident memory of this process since the last call; resets the kernel's counter where the system allows."""
    peak = _number_kib(Path("/proc/self/status"), "VmHWM") // 1024
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return peak


def _number_kib(path: Path, key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB$", _read(path), re.MULTILINE)
    return int(match[1]) if match else 0
