"""Processes below this one and in a session, found and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from steps.runtime import processes
from steps.runtime.processes import descendants, end_session
from tests.runtime.test_supervisor import is_running, wait_until


@pytest.fixture
def shell() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A shell in a session of its own, and a process that it has started, in another group."""
    script = "set -m; sleep 60 >/dev/null 2>&1 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        end_session(process.pid)


def test_descendants_are_listed_without_the_spared_ones_and_theirs(
    shell: tuple[subprocess.Popen[str], int],
) -> None:
    process, child = shell
    assert {process.pid, child} <= descendants(os.getpid())
    assert descendants(process.pid) == {child}
    assert not {process.pid, child} & descendants(os.getpid(), {process.pid})


def test_a_session_ends_whole_though_its_leader_was_killed(shell: tuple[subprocess.Popen[str], int]) -> None:
    """As `sixview run` ends what is left of a step whose own watcher was killed."""
    process, child = shell
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_running(child)
    assert end_session(process.pid)
    wait_until(lambda: not is_running(child), 5)


def test_what_cannot_be_ended_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GIVE_UP_SECONDS", 0.1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(os, "kill", lambda _pid, _number: None)  # as a device that does not answer has it
        assert not processes._end(lambda: {process.pid} if is_running(process.pid) else set())
