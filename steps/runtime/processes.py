"""Descendant processes, listed through /proc, and how to end them all. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_SECONDS = 0.005
GIVE_UP_SECONDS = 5.0  # a process that waits for a device cannot even be killed


@dataclass(frozen=True)
class Process:
    """One process of /proc. alive: neither zombie nor dead."""

    pid: int
    parent: int
    session: int
    alive: bool


def processes() -> list[Process]:
    """Every process that /proc shows; none where there is no /proc."""
    result = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            result.append(Process(int(entry.name), int(parent), int(session), state not in "ZX"))
    return result


def descendants(of: int, spared: Collection[int] = ()) -> set[int]:
    """Process ids of all descendants, zombies included, without `spared` and their descendants."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    pids: set[int] = set()
    waiting = [of]
    while waiting:
        below = [pid for pid in children.get(waiting.pop(), []) if pid not in spared]
        pids.update(below)
        waiting += below
    return pids


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends, whatever session it has made for itself."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals) -> None:
    """Has the kernel send this process a signal when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_descendants(spared: Collection[int] = ()) -> bool:
    """Kills and reaps all descendants but `spared` and theirs. Complete after `adopt_orphans`, since none can be reparented
    elsewhere. Returns whether all have ended."""
    return _end(lambda: descendants(os.getpid(), spared))


def end_session(session: int) -> bool:
    """Kills all that is left of a session. Returns whether all have ended."""
    return _end(lambda: {p.pid for p in processes() if p.session == session and p.alive})


def _end(remaining: Callable[[], set[int]]) -> bool:
    """Repeats until none is left, since a process may fork before it is killed."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while True:
        for pid in (pids := remaining()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if not pids or time.monotonic() > give_up:
            return not pids
        time.sleep(POLL_SECONDS)
