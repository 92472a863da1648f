"""The GPU that a step holds, as its supervisor tells it: of a pod, of a laptop, and of a step that was killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from steps.runtime import devices
from steps.runtime.devices import HeldGpu
from tests.runtime.test_supervisor import Trouble

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"
POD = {devices.IN_POD: "10.0.0.1", devices.GIVEN: "GPU-5a1e"}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A double of the driver: the names of the GPUs that it shows, to be filled by the test. Neither in a pod nor given any."""
    names: list[str] = []
    for variable in POD:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path,))
    monkeypatch.setattr(devices, "probe", lambda: {"gpus": [{"name": name} for name in names], "problem": ""})
    return names


def told(device: str, outputs: Path) -> tuple[str, float]:
    HeldGpu(device).write(outputs)
    return tuple_of(outputs)


def tuple_of(outputs: Path) -> tuple[str, float]:
    if not (outputs / "gpu").exists():
        return "", 0.0
    return (outputs / "gpu").read_text(), float((outputs / "gpu-held-seconds").read_text())


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        ("cuda", [H100], H100),
        ("auto", [H100], H100),
        ("cpu", [H100], ""),
        ("auto", [], ""),
        ("auto", [H100, L4], H100),
    ],
    ids=["cuda", "auto", "on the CPU", "no GPU", "the first of two"],
)
def test_on_one_machine_a_step_holds_the_gpu_that_it_may_compute_on(
    driver: list[str], tmp_path: Path, device: str, visible: list[str], name: str
) -> None:
    driver += visible
    held_name, held = told(device, tmp_path)
    assert held_name == name
    assert held == pytest.approx(devices.age_of("self") if name else 0.0, abs=0.5)


@pytest.mark.parametrize("device", ["cuda", "auto", "cpu"])
def test_a_pod_holds_the_gpu_that_it_was_given_from_its_container_s_start_on(
    driver: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    driver.append(H100)
    for variable, value in POD.items():
        monkeypatch.setenv(variable, value)
    assert told(device, tmp_path) == (H100, pytest.approx(devices.age_of("1"), abs=0.5))


@pytest.mark.parametrize("value", devices.NO_DEVICE)
def test_a_pod_that_was_given_none_holds_none_on_the_cpu(
    driver: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """As of a step without a GPU of its own on a node whose runtime shows every container all: our images set `all`."""
    driver += [H100, H100]
    monkeypatch.setenv(devices.IN_POD, "10.0.0.1")
    monkeypatch.setenv(devices.GIVEN, value)
    assert told("cpu", tmp_path) == ("", 0.0)
    assert told("auto", tmp_path)[0] == f"2 x {H100}"


def test_a_driver_that_never_answers_delays_no_step(
    driver: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = threading.Event()
    monkeypatch.setattr(devices, "probe", silent.wait)
    monkeypatch.setattr(devices, "ANSWER_SECONDS", 0.1)
    begun = time.monotonic()
    assert told("cuda", tmp_path) == ("", 0.0)
    assert time.monotonic() - begun < 1
    for variable, value in POD.items():
        monkeypatch.setenv(variable, value)
    assert told("cuda", tmp_path)[0] == "GPU-5a1e"  # the pod was given it all the same
    silent.set()


def test_a_driver_that_fails_breaks_no_step(driver: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("libnvidia-ml.so.1: version mismatch")

    monkeypatch.setattr(devices, "probe", fail)
    assert told("auto", tmp_path) == ("", 0.0)


def test_without_a_driver_nobody_is_asked(driver: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.append(H100)
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "nvidiactl",))
    held = HeldGpu("cuda")
    held.ask()
    assert held._asking is None
    assert told("cuda", tmp_path) == ("", 0.0)


# -- processes -----------------------------------------------------------------------------------------------------------


def test_the_age_of_a_process_is_the_time_since_its_start() -> None:
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    time.sleep(0.3)
    age = devices.age_of(str(child))
    assert 0.25 < age < time.monotonic() - begun + 0.05
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_process_s_name_may_have_spaces_and_brackets(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    ticks = round((time.clock_gettime(time.CLOCK_BOOTTIME) - 7) * os.sysconf("SC_CLK_TCK"))
    fields = ["S", *map(str, range(4, 22)), str(ticks), "0"]
    (tmp_path / "1" / "stat").write_text(f"1 (a ) b) {' '.join(fields)}\n")
    assert devices.age_of("1", tmp_path) == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("content", ["", "1 (x", "1 (x) S", f"1 (x) S{' 9' * 18} many"])
def test_where_no_start_can_be_read_the_age_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stat").write_text(content)
    assert devices.age_of("1", tmp_path) == 0.0


# -- the supervisor ------------------------------------------------------------------------------------------------------


def in_a_pod() -> dict[str, Any]:
    return {"env": {**os.environ, **POD}}


@pytest.mark.parametrize("kind", ["succeed", "bug", "killed", "crash"])
def test_however_a_step_ends_its_pod_s_gpu_and_time_are_told(tmp_path: Path, kind: str) -> None:
    trouble = Trouble(tmp_path)
    trouble.run(kind, **in_a_pod())
    name, held = tuple_of(trouble.outputs)
    assert name not in ("", "all")
    assert held == pytest.approx(devices.age_of("1"), abs=5)


def test_a_deadline_ends_a_step_whose_time_is_told(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    assert trouble.run("in_native_code", "--deadline-seconds", 1, **in_a_pod()) == 22
    assert tuple_of(trouble.outputs)[1] == pytest.approx(devices.age_of("1"), abs=5)


def test_flags_that_nobody_understands_cost_gpu_time_as_well(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    assert trouble.run("succeed", "--memory-limit-mib", "much", **in_a_pod()) == 10
    assert tuple_of(trouble.outputs)[1] > 0


def test_a_sigkill_of_everything_leaves_the_time_as_it_was_last_told(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    process = trouble.start("in_native_code", start_new_session=True, **in_a_pod())
    trouble.until_stage("inference")
    deadline = time.monotonic() + 20
    while not tuple_of(trouble.outputs)[1] and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert trouble.value("error-code") == "KILLED"
    assert tuple_of(trouble.outputs)[1] == pytest.approx(devices.age_of("1"), abs=10)


def test_a_step_on_the_cpu_holds_none_and_computes_none(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name not in POD}
    trouble.run("succeed", env=environment)
    assert [trouble.value(name) for name in ("gpu", "gpu-held-seconds", "gpu-busy-seconds")] == ["", "0", "0"]


def test_what_a_gpu_had_computed_by_the_last_stage_is_told_of_a_step_that_was_killed(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    trouble.run("killed_after_computing")
    assert trouble.value("error-code") == "KILLED"
    assert trouble.value("gpu-busy-seconds") == "2.500"


@pytest.mark.parametrize(
    ("held", "busy", "words"),
    [
        (41.2, 16.8, "held 41 s, computed 17 s"),
        (9.96, 9.94, "held 10 s, computed 9.9 s"),
        (7200, 0, "held 7200 s, computed 0 s"),
    ],
)
def test_seconds_have_a_decimal_where_it_says_something(held: float, busy: float, words: str) -> None:
    assert devices.gpu_text(held, busy) == words
