"""cgroup files, of both versions, as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

from steps.runtime.memory import Cgroup, MemoryGuard, own_cgroups, read_and_reset_peak_mib, resident_bytes

MIB = 1 << 20


def v2(folder: Path, used: int, limit: str, inactive: int = 0, kills: int = 0) -> Cgroup:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\nactive_file 7\ninactive_file {inactive}\n")
    (folder / "memory.events").write_text(f"low 0\noom 3\noom_kill {kills}\noom_group_kill 0\n")
    return Cgroup(folder, 2)


def test_a_group_without_a_limit_has_none(tmp_path: Path) -> None:
    assert v2(tmp_path, 5, "max").limit() is None
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert Cgroup(tmp_path, 1).limit() is None


def test_page_cache_that_can_be_dropped_does_not_count(tmp_path: Path) -> None:
    assert v2(tmp_path, 900 * MIB, str(1000 * MIB), inactive=600 * MIB).working_set() == 300 * MIB


def test_the_guard_reports_close_to_the_limit_and_not_before(tmp_path: Path) -> None:
    calm = MemoryGuard(0, [v2(tmp_path, 900 * MIB, str(1000 * MIB))])
    assert calm.limit_message(os.getpid()) is None
    tight = MemoryGuard(0, [v2(tmp_path, 970 * MIB, str(1000 * MIB))])
    assert "970 of 1000 MiB" in str(tight.limit_message(os.getpid()))


def test_the_limit_of_a_group_further_out_counts_too(tmp_path: Path) -> None:
    inner = v2(tmp_path / "a" / "b", 100 * MIB, "max")
    outer = v2(tmp_path / "a", 495 * MIB, str(500 * MIB))
    assert MemoryGuard(0, [inner, outer]).limit_message(os.getpid())


def test_a_kill_counts_only_if_it_came_after_the_start(tmp_path: Path) -> None:
    guard = MemoryGuard(0, [v2(tmp_path, 1, "max", kills=4)])
    assert not guard.kernel_killed()
    v2(tmp_path, 1, "max", kills=5)
    assert guard.kernel_killed()


def test_the_own_group_is_found_in_both_versions_and_in_a_container(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "self"
    (root / "kube" / "pod").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("memory\n")
    membership.write_text("0::/kube/pod\n")
    assert own_cgroups(root, membership)[0] == Cgroup(root / "kube" / "pod", 2)
    membership.write_text("0::/not/visible/here\n")
    assert own_cgroups(root, membership) == [Cgroup(root, 2)]
    (root / "memory" / "pod").mkdir(parents=True)
    membership.write_text("9:cpu:/\n4:memory:/pod\n0::/\n")
    assert own_cgroups(root, membership)[0] == Cgroup(root / "memory" / "pod", 1)


def test_a_process_s_own_memory_is_seen() -> None:
    assert resident_bytes(os.getpid()) > MIB
    read_and_reset_peak_mib()
    block = bytearray(64 * MIB)
    assert read_and_reset_peak_mib() >= len(block) // MIB
