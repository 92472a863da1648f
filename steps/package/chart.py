"""Chart of time and memory per stage as SVG: bars of seconds, peak memory in numbers."""

from __future__ import annotations

from typing import Any

from steps.package.evidence import StepRun

WIDTH, ROW, LABEL, RIGHT = 760, 24, 250, 150
COLOURS = {"weight_loading": "#9aa7b5", "inference": "#2f6fde", "export": "#5aa9a0"}


def svg(steps: list[StepRun]) -> str:
    """One row per stage."""
    rows = [(step, stage) for step in steps for stage in step.stages]
    longest = max((stage["seconds"] for _, stage in rows), default=0) or 1.0
    body = "".join(_row(i, step, stage, longest) for i, (step, stage) in enumerate(rows))
    height = ROW * max(1, len(rows)) + 4
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Seconds and memory per stage">{body}</svg>'


def _row(index: int, step: StepRun, stage: dict[str, Any], longest: float) -> str:
    y = index * ROW
    width = max(2.0, stage["seconds"] / longest * (WIDTH - LABEL - RIGHT))
    label = f"{step.name} · {stage['stage']}"
    figures = f"{stage['seconds']:.1f} s · {stage['peak_ram_mib']} MiB"
    return (
        f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{label}</text>'
        f'<rect x="{LABEL}" y="{y + 5}" width="{width:.1f}" height="14" rx="3" fill="{COLOURS.get(stage["stage"], "#c08a3e")}"/>'
        f'<text x="{LABEL + width + 8:.1f}" y="{y + 16}">{figures}</text>'
    )
