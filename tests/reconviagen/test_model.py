"""Protocol between the step and the model's program: events, failure records, and the end of either process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.compute import gpu_time
from steps.reconviagen import adapter, model
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import ModelFailed, ModelVramOom
from steps.runtime.files import read_text
from steps.runtime.reporter import Reporter
from tests.reconviagen.parts import environment, write_weights
from tests.runtime.test_supervisor import is_running, wait_until

START = """
import json, os, sys, time
from pathlib import Path
out = Path(json.loads(Path(sys.argv[1]).read_text())["out"])
"""
FAMILY = """
child = os.fork()
(out / "pids").write_text(f"{os.getpid()} {child}") if child else None
"""
WAIT = "time.sleep(60)"
Program = Callable[[str], model.Model]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """program(source): a conversation with a program of that source in the published model's place."""
    weights = write_weights(tmp_path / "weights")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)

    def make(source: str) -> model.Model:
        adapter = tmp_path / "program.py"
        adapter.write_text(START + source)
        monkeypatch.setattr(model, "ADAPTER", adapter)
        (tmp_path / "outputs").mkdir()
        place = tmp_path / "outputs"
        parameters = Reconviagen(out=place, outputs=place, scene=place, weights=weights)
        reporter = Reporter(place, "weight_loading")
        return model.Model(parameters, "cpu", model.memory_levels(parameters)[0], [], tmp_path / "work", reporter)

    return make


def pids(work: Path) -> list[int]:
    return [int(pid) for pid in (work / "pids").read_text().split()]


def test_an_exception_while_it_works_ends_the_program_and_what_that_has_started(program: Program) -> None:
    published = program(f"{FAMILY}{WAIT}")

    def full(_heard: int, _first: int, _last: int) -> int:
        if (published.folder / "pids").exists() and len((published.folder / "pids").read_text().split()) == 2:
            raise OSError("No space left on device")
        return 0

    published._relay_events = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space"):
        published.generated()
    wait_until(lambda: not any(map(is_running, pids(published.folder))), 5)


def test_what_the_program_leaves_behind_ends_with_it(program: Program) -> None:
    """A remaining child process would keep the device's memory."""
    published = program(f"{FAMILY}time.sleep(0 if child else 60)\nsys.exit(1)")
    with pytest.raises(ModelFailed):
        published.generated()
    wait_until(lambda: not any(map(is_running, pids(published.folder))), 5)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[" * 100_000,
        "7",
        "{}",
        json.dumps({"stage": "breakfast"}),
        json.dumps({"stage": ["inference"]}),
        json.dumps({"done": 1}),
        json.dumps({"done": 1, "total": 0}),
        json.dumps({"done": "1", "total": "2"}),
        json.dumps({"done": 9, "total": 2}),
        "\0\udcff",
    ],
)
def test_lines_that_are_no_events_are_dropped(line: str) -> None:
    assert model.event(line) == ("", 0, 0)


def test_events_are_passed_on_and_a_half_written_one_waits(program: Program) -> None:
    events = [{"stage": "inference"}, {"done": 1, "total": 2}]
    lines = "".join(json.dumps(event) + "\n" for event in events) + '{"stage": "exp'
    published = program(f"(out / 'events.jsonl').write_text({lines!r}); sys.exit(1)")
    with pytest.raises(ModelFailed, match="exit code 1"):
        published.generated()
    outputs = published.reporter.outputs
    assert (outputs / "stage").read_text() == "inference" and (outputs / "progress").read_text() == "30/100\n"


@pytest.mark.parametrize("record", ["{", "7", {"code": "MADE_UP", "message": "x", "details": {}}, {"code": ["x"]}])
def test_a_malformed_failure_record_is_model_failed(program: Program, record: object) -> None:
    text = record if isinstance(record, str) else json.dumps(record)
    published = program(f"(out / 'failure.json').write_text({text!r}); print('last words'); sys.exit(20)")
    with pytest.raises(ModelFailed) as failure:
        published.generated()
    assert "exit code 20" in failure.value.message and failure.value.details["last_words"] == ["last words"]


def test_details_may_have_any_name(program: Program) -> None:
    record = {"code": "MODEL_VRAM_OOM", "message": "Too much.", "details": {"message": "more", "suggestion": "less"}}
    published = program(f"(out / 'failure.json').write_text({json.dumps(record)!r}); sys.exit(20)")
    with pytest.raises(ModelVramOom) as failure:
        published.generated()
    assert failure.value.message == "Too much." and failure.value.details == record["details"]


class TorchDouble:
    """Torch on a GPU whose stream takes 1500 ms for what is computed between two events."""

    class cuda:  # noqa: N801 - as torch has it
        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                pass

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, _later: object) -> float:
                return 1500.0


def test_the_program_measures_how_long_a_gpu_computed_for_it(tmp_path: Path) -> None:
    for device in ("cuda", "cpu"):
        (tmp_path / device).mkdir()
        with adapter.gpu_timed({"device": device, "out": tmp_path / device}, TorchDouble):
            pass
    assert json.loads((tmp_path / "cuda" / "gpu_seconds.json").read_text()) == 1.5
    assert not list((tmp_path / "cpu").iterdir())


@pytest.mark.parametrize(("content", "seconds"), [("12.5", "12.500"), ("{", ""), ('"x"', "")])
def test_and_the_step_tells_it(program: Program, monkeypatch: pytest.MonkeyPatch, content: str, seconds: str) -> None:
    timer = gpu_time.GpuTimer(lambda: None)
    monkeypatch.setattr(gpu_time, "add", timer.add)
    monkeypatch.setattr(gpu_time, "busy_seconds", timer.busy_seconds)
    published = program(f"(out / 'gpu_seconds.json').write_text({content!r})")
    with pytest.raises(FileNotFoundError, match=r"mesh\.npz"):  # this program makes none
        published.generated()
    published.reporter.stage("export")
    assert read_text(published.reporter.outputs / "gpu-busy-seconds") == seconds


def test_a_sigkill_of_the_step_ends_the_published_model_s_program(tmp_path: Path) -> None:
    """Outside a container nothing else would end it and free the device."""
    weights = write_weights(tmp_path / "weights")
    parts = {part: part for part in ("pipeline", "vggt", "segmentation", "dinov2")}
    job = {"task": "generate", "out": str(tmp_path / "work"), "weights": str(weights), "parts": parts, "images": []}
    job |= {
        "device": "cpu",
        "seed": 0,
        "batch": 1,
        "low_vram": False,
        "structure": {"steps": 1},
        "latent": {"steps": 1},
    }
    (tmp_path / "job.json").write_text(json.dumps({**job, "may_lack": {}, "may_add": {}}))
    step = f"""
import json, os, subprocess, sys, time
from pathlib import Path
from steps.reconviagen import model
place = Path({str(tmp_path / "job.json")!r})
place.write_text(json.dumps(json.loads(place.read_text()) | {{"parent": os.getpid()}}))
child = subprocess.Popen([sys.executable, model.ADAPTER, place], env=model.environment())
print(child.pid, flush=True)
time.sleep(60)
"""
    surroundings = {**os.environ, **environment(STANDIN_FAILS="waits at load")}
    with subprocess.Popen([sys.executable, "-c", step], stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        assert process.stdout is not None
        adapter = int(process.stdout.readline())
        wait_until((tmp_path / "work" / "events.jsonl").exists)
        time.sleep(0.2)
        assert is_running(adapter)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(adapter), 5)
