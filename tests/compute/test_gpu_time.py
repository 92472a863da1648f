"""How the time in which a GPU computed is summed, with a double in place of CUDA's events: there is no GPU here."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from steps.compute.gpu_time import MOST_PENDING, GpuTimer


class Gpu:
    """A double of a GPU with one stream: `clock` in ms is when it has done what it was given, `now` how far it has come."""

    def __init__(self) -> None:
        self.clock = self.now = 0.0
        self.events = 0
        self.streams: list[tuple[Any, ...]] = []
        self.is_broken = False

    def event(self) -> Any:
        return EventDouble(self)

    def run(self, milliseconds: float) -> None:
        """Gives it a kernel, for which nobody waits."""
        self.clock += milliseconds

    def finish(self) -> None:
        self.now = self.clock


class EventDouble:
    """A CUDA event, as numba-cuda has it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at = gpu, -1.0
        gpu.events += 1

    def record(self, *stream: Any) -> None:
        self._check()
        self.gpu.streams.append(stream)
        self.at = self.gpu.clock

    def query(self) -> bool:
        self._check()
        return self.at <= self.gpu.now

    def synchronize(self) -> None:
        self._check()
        self.gpu.now = max(self.gpu.now, self.at)

    def elapsed_time(self, later: EventDouble) -> float:
        self._check()
        assert self.query() and later.query(), "an event that has not passed has no time"
        return later.at - self.at

    def _check(self) -> None:
        if self.gpu.is_broken:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")


def kernel() -> Any:
    """A double of one that is compiled already."""
    return types.SimpleNamespace(overloads={"a signature": "code"})


STREAM = ("torch's",)


def launch(timer: GpuTimer, gpu: Gpu, milliseconds: float, compiles: bool = False) -> None:
    one = kernel()
    with timer.measured(one, STREAM):
        if compiles:
            one.overloads["another"] = "code"
            gpu.run(2000)  # the stream idles while the compiler works
        gpu.run(milliseconds)


def test_the_time_is_that_of_the_kernels_and_not_of_what_lies_between() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    launch(timer, gpu, 1500)
    gpu.run(700)  # of somebody else, or nothing at all
    launch(timer, gpu, 250)
    gpu.finish()
    assert timer.busy_seconds() == 1.75


def test_nobody_waits_for_what_still_runs_unless_asked_to() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    launch(timer, gpu, 1000)
    gpu.finish()
    launch(timer, gpu, 500)
    assert timer.busy_seconds() == 1.0 and gpu.now == 1000
    assert timer.busy_seconds(wait=True) == 1.5 and gpu.now == 1500
    assert timer.busy_seconds() == 1.5


def test_a_launch_that_compiles_its_kernel_is_left_out() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    launch(timer, gpu, 100, compiles=True)
    launch(timer, gpu, 100)
    assert timer.busy_seconds(wait=True) == pytest.approx(0.1)


def test_a_launch_that_fails_is_none() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    with pytest.raises(TypeError), timer.measured(kernel(), STREAM):
        raise TypeError("no such signature")
    launch(timer, gpu, 300)
    assert timer.busy_seconds(wait=True) == pytest.approx(0.3)


def test_an_iteration_counts_torch_s_kernels_too_and_ours_once() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    with timer.span(STREAM):
        gpu.run(400)  # torch's
        launch(timer, gpu, 100)
        gpu.run(500)
    launch(timer, gpu, 50)
    assert timer.busy_seconds(wait=True) == pytest.approx(1.05)


def test_within_an_iteration_torch_s_own_thread_may_launch() -> None:
    """As its backward pass does, for which the iteration's thread waits."""
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    with timer.span(STREAM):
        backward = threading.Thread(target=launch, args=(timer, gpu, 100))
        backward.start()
        backward.join(5)
        assert not backward.is_alive()
    assert timer.busy_seconds(wait=True) == pytest.approx(0.1)


def test_an_iteration_that_compiles_or_fails_is_left_out_and_the_next_one_is_not() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    with timer.span(STREAM):
        launch(timer, gpu, 100, compiles=True)
    with pytest.raises(MemoryError), timer.span(STREAM):
        gpu.run(100)
        raise MemoryError
    with timer.span(STREAM):
        gpu.run(200)
    launch(timer, gpu, 10)
    assert timer.busy_seconds(wait=True) == pytest.approx(0.21)


def test_threads_share_one_sum() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: launch(timer, gpu, 1), range(400)))
    assert timer.busy_seconds(wait=True) == pytest.approx(0.4)


def test_ten_thousand_launches_keep_a_few_events() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    for _ in range(10 * MOST_PENDING):
        launch(timer, gpu, 0.5)
        gpu.finish()
    assert gpu.events <= 2 * (MOST_PENDING + 1)
    assert timer.busy_seconds() == pytest.approx(10 * MOST_PENDING * 0.5e-3)


def test_after_an_error_of_the_gpu_what_was_summed_stands_and_nothing_else_fails() -> None:
    gpu = Gpu()
    timer = GpuTimer(gpu.event)
    launch(timer, gpu, 600)
    gpu.finish()
    assert timer.busy_seconds() == 0.6
    launch(timer, gpu, 600)
    gpu.is_broken = True
    assert timer.busy_seconds() == timer.busy_seconds(wait=True) == 0.6
    events = gpu.events
    launch(timer, gpu, 600)
    assert gpu.events == events and timer.busy_seconds() == 0.6


def test_what_another_process_measured_is_added() -> None:
    timer = GpuTimer(Gpu().event)
    timer.add(12.5)
    assert timer.busy_seconds() == 12.5


def test_the_launch_layer_measures_each_launch_on_the_stream_that_it_is_launched_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steps.compute import cuda, gpu_time, launch

    gpu, launched = Gpu(), []

    class GridDouble:
        overloads: ClassVar[dict[str, str]] = {"a signature": "code"}

        def __getitem__(self, configuration: tuple[Any, ...]) -> Any:
            def run(*arguments: Any) -> None:
                launched.append((configuration, arguments))
                gpu.run(40)

            return run

    class OnGpu:
        shape, __cuda_array_interface__ = (300,), None

    timer, array = GpuTimer(gpu.event), OnGpu()
    monkeypatch.setattr(cuda, "IS_SIMULATOR", False)
    monkeypatch.setattr(cuda, "grid_of", lambda _kernel, _dimensions: GridDouble())
    monkeypatch.setattr(cuda, "stream", lambda: STREAM)
    monkeypatch.setattr(cuda, "device_array", lambda argument: argument)
    monkeypatch.setattr(gpu_time, "_timer", timer)
    for _ in range(3):
        launch.launch(lambda *_: None, (300,), array, 0.5)
    assert launched == 3 * [(((3,), (128,), *STREAM), (300, (array, 0.5)))]
    assert gpu.streams == 6 * [STREAM]
    assert timer.busy_seconds(wait=True) == pytest.approx(0.12)


def test_on_a_cpu_nothing_of_cuda_is_loaded_and_no_time_passes() -> None:
    code = """
from steps.compute import gpu_time
import sys
with gpu_time.iteration("cpu"): pass
print(gpu_time.busy_seconds(), [m for m in sys.modules if m.startswith(("numba", "torch"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["0.0", "[]\n"]
