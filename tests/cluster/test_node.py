"""The node itself: reused, replaced, and removed completely. Runs last, since it ends the cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster import node
from tests.cluster.places import NODE
from tests.conftest import need

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.alone]


@pytest.fixture(autouse=True)
def ours() -> None:
    need(node.namespace_pid() is not None, "a cluster of its own, and not somebody's that KUBECONFIG names")


def test_a_node_that_is_up_is_taken_over() -> None:
    before = node.namespace_pid()
    node.up()
    assert node.namespace_pid() == before


def test_a_node_that_is_not_well_any_more_is_replaced() -> None:
    """As one that an older checkout left behind, or that is half dead."""
    before = node.namespace_pid()
    (NODE / "key").write_text("of another time")
    node.up()
    assert node.namespace_pid() not in (None, before)
    assert node.is_well()


def test_down_leaves_nothing_behind() -> None:
    settings = {name: (Path("/proc/sys") / name).read_text() for name in node.SYSCTLS}
    saved = node.read_json(NODE / "sysctls.json", {})
    node.down()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(NODE) not in processes
    assert str(NODE) not in Path("/proc/mounts").read_text()
    assert "sixview0" not in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    assert "10.244." not in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout
    assert "KUBE" not in subprocess.run(["iptables", "-S"], capture_output=True, text=True).stdout
    assert not list(node.CGROUPS.glob(f"*/{node.CGROUP}"))
    assert not NODE.exists()
    assert {name: (Path("/proc/sys") / name).read_text() for name in node.SYSCTLS} == saved
    assert set(saved) == set(settings)
    node.down()  # where nothing runs, nothing happens
