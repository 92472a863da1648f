"""The GPU time of a job: how long its pods held a GPU, and for how much of that it computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.clients.reading import mapping, seconds, text
from pipeline.jobs.nodes import Node, outputs, step_name
from steps.runtime.devices import gpu_text

MAX_NAME = 200  # characters
MAX_STEPS = 20

GpuTime = dict[str, Any]


def of_nodes(steps: list[Node]) -> GpuTime | None:
    """name (of the GPU, or of several), held_seconds, busy_seconds, and both of each step (`steps`): sums over all attempts that
    have ended and could save their outputs. None where no step held a GPU."""
    rows = [(step_name(node), outputs(node)) for node in steps]
    return _summed([(step, o.get("gpu"), o.get("gpu-held-seconds"), o.get("gpu-busy-seconds")) for step, o in rows])


def of_record(content: Any) -> GpuTime | None:
    """The same from a job's record, whatever stands there."""
    record = mapping(content)
    steps = [(text(step, MAX_NAME), mapping(times)) for step, times in list(mapping(record.get("steps")).items())]
    rows = [(step, record.get("name"), t.get("held_seconds"), t.get("busy_seconds")) for step, t in steps[:MAX_STEPS]]
    return _summed(rows)


def _summed(rows: list[tuple[str, Any, Any, Any]]) -> GpuTime | None:
    """rows: step, name of its GPU, seconds held, seconds busy."""
    steps: dict[str, dict[str, float]] = {}
    names: dict[str, None] = {}
    for step, name, held, busy in rows:
        if held_seconds := seconds(held):
            names[text(name, MAX_NAME)] = None
            before = steps.setdefault(step, {"held_seconds": 0.0, "busy_seconds": 0.0})
            before["held_seconds"] = round(before["held_seconds"] + held_seconds, 3)
            before["busy_seconds"] = round(before["busy_seconds"] + seconds(busy), 3)
    if not steps:
        return None
    sums = {key: round(sum(times[key] for times in steps.values()), 3) for key in ("held_seconds", "busy_seconds")}
    return {"name": ", ".join(filter(None, names)), **sums, "steps": steps}


def lines(gpu: Mapping[str, Any] | None) -> list[str]:
    """For people: the sum, then each step. Nothing where no step held a GPU."""
    if gpu is None:
        return []
    steps = [
        f"  {step}: {gpu_text(times['held_seconds'], times['busy_seconds'])}" for step, times in gpu["steps"].items()
    ]
    return [f"GPU:      {gpu_text(gpu['held_seconds'], gpu['busy_seconds'])} ({gpu['name'] or 'unnamed'})", *steps]
