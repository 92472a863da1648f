"""Core count from CPU quotas of cgroup v1 and v2."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from steps.compute import cores


def quota_told(folder: Path, membership: str, **files: str) -> float:
    (folder / "self").write_text(membership)
    for path, text in files.items():
        file = folder / "cgroup" / path.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return cores.cpu_quota(folder / "cgroup", folder / "self")


def test_cgroup_v2_quota_is_read_from_cpu_max(tmp_path: Path) -> None:
    assert quota_told(tmp_path, "0::/kube/pod\n", kube__pod__cpu_max="150000 100000\n") == 1.5


def test_the_smallest_quota_of_all_parent_cgroups_counts(tmp_path: Path) -> None:
    files = {"kube__pod__cpu_max": "max 100000\n", "kube__cpu_max": "300000 100000\n", "cpu_max": "max 100000\n"}
    assert quota_told(tmp_path, "0::/kube/pod\n", **files) == 3.0


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    assert quota_told(tmp_path, "0::/not/visible/here\n", cpu_max="50000 100000\n") == 0.5


@pytest.mark.parametrize("path", ["/kubepods/pod7", "/"])
def test_cgroup_v1_quota_is_read_from_two_files(tmp_path: Path, path: str) -> None:
    top = "cpu__kubepods__pod7__" if path != "/" else "cpu__"
    files = {f"{top}cfs_quota_us": "200000\n", f"{top}cfs_period_us": "100000\n"}
    assert quota_told(tmp_path, f"4:cpu,cpuacct:{path}\n2:memory:/\n0::/\n", **files) == 2.0


def test_version_one_s_folder_may_have_all_its_controllers_names(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__cfs_quota_us": "100000\n", "cpu,cpuacct__cfs_period_us": "50000\n"}
    assert quota_told(tmp_path, "4:cpu,cpuacct:/\n", **files) == 2.0


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense", "0 0", "100000 0"])
def test_missing_and_malformed_limits_are_no_limit(tmp_path: Path, text: str) -> None:
    assert quota_told(tmp_path, "0::/\n", cpu_max=text) == math.inf


def test_no_limit_of_version_one_is_minus_one(tmp_path: Path) -> None:
    files = {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}
    assert quota_told(tmp_path, "4:cpu:/\n", **files) == math.inf


@pytest.mark.parametrize(("quota", "count"), [(0.3, 1), (1.0, 1), (1.2, 2), (math.inf, 64), (1000.0, 64)])
def test_part_of_a_core_is_one(monkeypatch: pytest.MonkeyPatch, quota: float, count: int) -> None:
    monkeypatch.setattr(cores, "_own_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert cores.core_count() == count
