"""Memory fallback of nvdiffrec: the order of levels, their estimated memory, and the level that an attempt starts at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import cupy
import pytest
import torch

from pipeline.local import runner
from pipeline.local.progress import Display
from pipeline.local.step_cache import Task
from steps.nvdiffrec import memory_levels
from steps.nvdiffrec.memory_levels import MemoryLevel
from steps.runtime import attempts
from steps.runtime.attempts import Attempts
from steps.runtime.errors import ModelVramOom
from steps.runtime.files import write_json

TOP = MemoryLevel(6, 1024, 64)
GIB = 1 << 30


def oom(level: MemoryLevel) -> dict[str, Any]:
    return {**asdict(level), "outcome": attempts.OOM, "peak_vram_mib": 1}


def after(*earlier: dict[str, Any]) -> Attempts:
    book = Attempts(None)
    book.earlier = list(earlier)
    return book


def test_levels_reduce_batch_then_resolution_then_the_lattice() -> None:
    levels = memory_levels.levels_of(6, 1024, 64)
    assert levels[:4] == [TOP, MemoryLevel(3, 1024, 64), MemoryLevel(1, 1024, 64), MemoryLevel(1, 512, 64)]
    assert levels[-1] == MemoryLevel(1, 128, 32) and len(set(levels)) == len(levels)


def test_each_memory_level_needs_less_than_the_one_above() -> None:
    needs = [memory_levels.estimate(level, 2048) for level in memory_levels.levels_of(6, 1024, 64)]
    assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs)


def test_the_next_attempt_is_one_level_below_the_last_that_ran_out_of_memory_whatever_was_stopped_between() -> None:
    levels = memory_levels.levels_of(6, 1024, 64)
    stopped = {**oom(levels[0]), "outcome": "stopped"}
    assert memory_levels.choose(levels, after(stopped, stopped), 2048, None)[0] == 0
    assert memory_levels.choose(levels, after(oom(levels[0]), stopped, oom(levels[1]), stopped), 2048, None)[0] == 2


def test_the_first_attempt_takes_the_highest_level_that_fits() -> None:
    levels = memory_levels.levels_of(6, 1024, 64)
    free = memory_levels.estimate(levels[2], 2048) * 1.2
    index, reason = memory_levels.choose(levels, after(), 2048, int(free))
    assert index == 2 and "free memory" in reason
    assert memory_levels.choose(levels, after(), 2048, 80 * GIB)[0] == 0


def test_exhausted_memory_levels_and_a_device_too_small_raise_model_vram_oom() -> None:
    levels = memory_levels.levels_of(2, 256, 32)
    with pytest.raises(ModelVramOom, match="Every memory level"):
        memory_levels.choose(levels, after(oom(levels[-1])), 2048, None)
    with pytest.raises(ModelVramOom, match="Even the least"):
        memory_levels.choose(levels, after(), 2048, 1 << 20)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), attempts.OOM),
        (cupy.cuda.memory.OutOfMemoryError(2, 1), attempts.OOM),
        (ValueError("x"), "stopped"),
    ],
)
def test_an_attempt_records_its_outcome_and_peak(tmp_path: Path, error: Exception, outcome: str) -> None:
    file = tmp_path / "attempts" / "nvdiffrec.json"
    file.parent.mkdir()
    write_json(file, [oom(TOP)])
    with (
        pytest.raises(type(error)),
        Attempts(file).recorded(MemoryLevel(3, 1024, 64), lambda: 7),
    ):
        assert Attempts(file).earlier[1]["outcome"] == "stopped"  # what a killed process leaves
        raise error
    assert [a["outcome"] for a in Attempts(file).earlier] == [attempts.OOM, outcome]
    assert Attempts(file).earlier[1]["peak_vram_mib"] == 7


def test_sixview_run_lowers_the_memory_level_until_the_model_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the step's process runs out of GPU memory at the first two levels."""
    job = runner.Job(runner.Options(tmp_path, tmp_path / "out", ("nvdiffrec",)), Display(quiet=True))
    file = tmp_path / "out" / ".sixview" / "attempts" / "nvdiffrec.json"
    file.parent.mkdir(parents=True)
    levels_tried: list[int] = []

    def do(task: Task) -> bool:
        book = Attempts(file)
        index, _ = memory_levels.choose(memory_levels.levels_of(6, 1024, 64), book, 2048, None)
        levels_tried.append(index)
        level = memory_levels.levels_of(6, 1024, 64)[index]
        write_json(file, [*book.earlier, oom(level) if index < 2 else {**asdict(level), "outcome": "completed"}])
        job.outcome.failure = ModelVramOom("CUDA out of memory.").record() if index < 2 else None
        return index >= 2

    monkeypatch.setattr(job, "do", do)
    assert job.made("nvdiffrec") and levels_tried == [0, 1, 2] and job.outcome.failure is None
