"""The supervisor: every ending of a step leaves a failure record or a complete result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steps.runtime import supervisor
from steps.runtime.errors import by_code
from steps.runtime.memory import Cgroup, MemoryGuard, own_cgroups
from tests.conftest import need

MIB = 1 << 20


class Trouble:
    """Runs tests.runtime.trouble and reads what it left."""

    def __init__(self, folder: Path) -> None:
        self.out, self.outputs = folder / "out", folder / "outputs"

    def start(self, kind: str, *flags: object, **options: object) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-m",
            "tests.runtime.trouble",
            kind,
            "--out",
            self.out,
            "--outputs",
            self.outputs,
            *flags,
        ]
        return subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]

    def run(self, kind: str, *flags: object, **options: object) -> int:
        process = self.start(kind, *flags, **options)
        self.said = process.communicate(timeout=60)[1]
        return process.returncode

    def value(self, name: str) -> str:
        return (self.outputs / name).read_text()

    def until_stage(self, stage: str) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if (self.outputs / "stage").exists() and self.value("stage") == stage:
                return
            time.sleep(0.02)
        raise AssertionError(f"never reached {stage}")

    def assert_failed(self, code: str, oom: str = "none") -> dict[str, object]:
        record = json.loads(self.value("failure.json"))
        assert record["code"] == self.value("error-code") == code
        assert record["details"]["pipeline_stage"] == self.value("stage") == "inference"
        assert record["details"]["oom_type"] == self.value("oom-type") == oom
        assert record["message"] and record["suggestion"]
        assert not self.out.exists()
        assert not list(self.out.parent.glob(".*partial"))
        return record


@pytest.fixture
def trouble(tmp_path: Path) -> Trouble:
    return Trouble(tmp_path)


def test_success_puts_the_results_in_place_and_leaves_no_failure(trouble: Trouble) -> None:
    assert trouble.run("succeed") == 0
    assert (trouble.out / "result").read_text() == "done"
    assert trouble.value("psnr") == "30.5" and trouble.value("progress") == "1/2\n"
    assert trouble.value("error-code") == "" and trouble.value("oom-type") == "none"
    assert float(trouble.value("seconds")) > 0 and int(trouble.value("peak-ram-mib")) > 0
    assert [s["stage"] for s in json.loads(trouble.value("stages.json"))] == ["weight_loading", "inference"]
    assert not (trouble.outputs / "failure.json").exists()


def test_progress_also_goes_where_argo_looks(trouble: Trouble, tmp_path: Path) -> None:
    trouble.run("succeed", env={**os.environ, "ARGO_PROGRESS_FILE": str(tmp_path / "argo")})
    assert (tmp_path / "argo").read_text() == "1/2\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_even_native_code_within_two_seconds(trouble: Trouble, number: signal.Signals) -> None:
    process = trouble.start("in_native_code")
    trouble.until_stage("inference")
    process.send_signal(number)
    assert process.wait(timeout=2) == by_code()["INTERRUPTED"].exit_code
    trouble.assert_failed("INTERRUPTED")
    process.communicate()


def test_the_deadline_ends_native_code(trouble: Trouble) -> None:
    assert trouble.run("in_native_code", "--deadline-seconds", 1) == 22
    trouble.assert_failed("MODEL_TIMEOUT")


def test_the_memory_limit_ends_the_step_before_the_kernel_would(trouble: Trouble) -> None:
    assert trouble.run("eat_memory", "--memory-limit-mib", 200) == 21
    trouble.assert_failed("MODEL_OOM", oom="ram")


@pytest.mark.parametrize(
    ("kind", "code", "oom"),
    [
        ("memory_error", "MODEL_OOM", "ram"),
        ("vram", "MODEL_VRAM_OOM", "vram"),
        ("killed", "KILLED", "none"),
        ("crash", "MODEL_FAILED", "none"),
        ("bug", "MODEL_FAILED", "none"),
        ("diverge", "MODEL_CONVERGENCE_FAILED", "none"),
    ],
)
def test_every_end_has_its_code(trouble: Trouble, kind: str, code: str, oom: str) -> None:
    assert trouble.run(kind) == by_code()[code].exit_code
    trouble.assert_failed(code, oom)


def test_a_bug_keeps_its_traceback_in_the_log_and_out_of_the_record(trouble: Trouble) -> None:
    trouble.run("bug")
    record = trouble.assert_failed("MODEL_FAILED")
    assert "Traceback" in trouble.value("log.txt") and "Traceback" not in json.dumps(record)


def test_a_mesh_below_the_gate_is_kept(trouble: Trouble) -> None:
    assert trouble.run("below_the_gate") == 12
    assert (trouble.out / "kept").exists()
    assert json.loads(trouble.value("failure.json"))["details"]["psnr"] == {"actual": 1.0, "threshold": 20.0}


def test_a_sigkill_of_everything_leaves_the_last_stage_and_its_meaning(trouble: Trouble) -> None:
    process = trouble.start("in_native_code", start_new_session=True)
    trouble.until_stage("inference")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert trouble.value("stage") == "inference"
    assert trouble.value("error-code") == "KILLED"
    assert json.loads(trouble.value("failure.json"))["code"] == "KILLED"
    assert not trouble.out.exists()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_outlives_a_step_whose_parent_was_killed(trouble: Trouble) -> None:
    process = trouble.start("in_native_code", start_new_session=True)
    trouble.until_stage("inference")
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 2
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def test_a_step_s_own_children_end_with_it(trouble: Trouble) -> None:
    process = trouble.start("leave_a_child")
    trouble.until_stage("inference")
    while not (trouble.out.parent / "pid").exists():
        time.sleep(0.02)
    child = int((trouble.out.parent / "pid").read_text())
    process.terminate()
    process.communicate(timeout=2)
    assert process.returncode == 30
    assert not is_running(child)


FAMILY = {
    "end_well_with_a_family": 0,
    "crash_with_a_family": by_code()["MODEL_FAILED"].exit_code,
    "bug_with_a_family": by_code()["MODEL_FAILED"].exit_code,
    "killed_with_a_family": by_code()["KILLED"].exit_code,
}


def family(trouble: Trouble) -> list[int]:
    """Process ids that the step's child has started, see trouble.py."""
    path = trouble.out.parent / "family"
    wait_until(path.exists)
    pids = [int(line) for line in path.read_text().split()]
    assert len(pids) == 4
    return pids


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize("kind", FAMILY)
def test_what_a_child_has_started_ends_with_it_however_it_ends(trouble: Trouble, kind: str) -> None:
    """A grandchild, one in a session of its own and a daemon, all of which hold the pipe of the child's words and write to it."""
    process = trouble.start(kind)
    assert (process.communicate(timeout=20), process.returncode)[1] == FAMILY[kind]
    assert not [pid for pid in family(trouble) if is_running(pid)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_step_that_is_stopped_ends_all_that_it_has_started(trouble: Trouble, number: signal.Signals) -> None:
    process = trouble.start("wait_with_a_family")
    remaining = family(trouble)
    process.send_signal(number)
    process.communicate(timeout=15)
    assert process.returncode == by_code()["INTERRUPTED"].exit_code
    assert not [pid for pid in remaining if is_running(pid)]


def test_the_deadline_ends_all_that_the_step_has_started(trouble: Trouble) -> None:
    assert trouble.run("wait_with_a_family", "--deadline-seconds", 2) == by_code()["MODEL_TIMEOUT"].exit_code
    assert not [pid for pid in family(trouble) if is_running(pid)]


def test_processes_of_the_shell_that_became_the_step_are_spared(trouble: Trouble) -> None:
    words = f"-m tests.runtime.trouble end_well_with_a_family --out {trouble.out} --outputs {trouble.outputs}"
    script = f"sleep 30 >/dev/null 2>&1 & echo $! > {trouble.out.parent}/beside; exec {sys.executable} {words}"
    assert subprocess.run(["sh", "-c", script], timeout=20, check=False).returncode == 0
    beside = int((trouble.out.parent / "beside").read_text())
    assert is_running(beside)
    os.kill(beside, signal.SIGKILL)


def test_stages_that_are_damaged_do_not_cost_the_result(trouble: Trouble) -> None:
    assert trouble.run("damage_its_outputs") == 0
    assert (trouble.out / "result").read_text() == "done" and int(trouble.value("peak-ram-mib")) > 0


def test_a_folder_of_somebody_else_s_is_not_replaced(trouble: Trouble) -> None:
    trouble.out.mkdir()
    (trouble.out / "thesis.txt").write_text("years of work")
    assert trouble.run("succeed") == 10
    assert (trouble.out / "thesis.txt").exists() and "not empty" in trouble.said


def test_an_earlier_result_is_replaced_only_by_a_finished_one(trouble: Trouble) -> None:
    trouble.run("succeed")
    assert trouble.run("bug") == 1
    assert (trouble.out / "result").read_text() == "done"


# -- with root: real limits ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_leaves_room_for_the_record(trouble: Trouble, small_disk: Path) -> None:
    trouble.out, trouble.outputs = small_disk / "out", small_disk / "outputs"
    assert trouble.run("fill_disk") == 25
    trouble.assert_failed("DISK_FULL")


def test_a_mount_point_is_filled_not_replaced(trouble: Trouble, small_disk: Path) -> None:
    trouble.out = small_disk
    assert trouble.run("succeed") == 0
    assert (small_disk / "result").read_text() == "done"
    assert os.path.ismount(small_disk)


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of 256 MiB inside our own."""
    need(os.geteuid() == 0, "root, to make a cgroup")
    groups = own_cgroups()
    need(bool(groups) and os.access(groups[0].folder, os.W_OK), "a writable memory cgroup")
    folder = groups[0].folder / f"sixview-test-{os.getpid()}"
    try:
        folder.mkdir()
        limit = folder / ("memory.max" if groups[0].version == 2 else "memory.limit_in_bytes")
        limit.write_text(str(256 * MIB))
    except OSError as error:
        need(False, f"a memory controller that can be delegated ({error})")
    yield folder
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            return folder.rmdir()
        except OSError:
            time.sleep(0.05)


def enter(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def test_the_guard_sees_the_container_s_limit(trouble: Trouble, small_cgroup: Path) -> None:
    assert trouble.run("eat_memory", preexec_fn=lambda: enter(small_cgroup)) == 21
    record = trouble.assert_failed("MODEL_OOM", oom="ram")
    assert "256 MiB" in str(record["message"])


@pytest.mark.parametrize(("kills", "code"), [(0, "KILLED"), (1, "MODEL_OOM")])
def test_a_sigkill_is_for_want_of_memory_where_the_kernel_s_counter_has_moved(
    tmp_path: Path, kills: int, code: str
) -> None:
    for name, text in {"memory.max": "max", "memory.events": "oom 9\noom_kill 3"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    guard = MemoryGuard(0, [Cgroup(tmp_path, 2)])
    (tmp_path / "memory.events").write_text(f"oom 9\noom_kill {3 + kills}\n")
    record = supervisor._failure_record(None, signal.SIGKILL, tmp_path, guard)
    assert record is not None and record["code"] == code


def test_a_kill_by_the_kernel_is_told_from_its_counter(trouble: Trouble, small_cgroup: Path) -> None:
    code = trouble.run("gulp_memory", preexec_fn=lambda: enter(small_cgroup))
    assert trouble.value("error-code") in ("MODEL_OOM", "KILLED")
    if code == 21:
        trouble.assert_failed("MODEL_OOM", oom="ram")
    else:  # the kernel chose the watching parent too: what was written before the work began stands
        assert code == -signal.SIGKILL
