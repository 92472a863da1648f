"""The memory ladder: what is given up, and in which order, when a device's memory does not suffice.

Batch first (it costs time only), then resolution, then the lattice."""

from __future__ import annotations

from dataclasses import dataclass

from steps.runtime.attempts import Attempts
from steps.runtime.errors import ModelVramOom

LEAST_RESOLUTION, LEAST_GRID = 128, 32
SAMPLES = 2  # per pixel and axis: more rungs of it would only move the jaggies into the texture
RESERVE = 0.9  # of the free memory: the rest is for what the allocator cannot use
PER_SAMPLE = 260  # bytes kept for the backward pass per sample of a view: `python -m tests.benchmarks gpu` compares
PER_TEXEL = 260  # three textures, their gradients and Adam's two moments, and the passing copies
PER_POINT = 240  # field, shift and colour of a lattice point with theirs, and its edges' numbers
SHARE = 0.6  # of a picture lies around the object


@dataclass(frozen=True)
class Rung:
    """batch: views in memory at a time; resolution: longest side in pixels; grid: cells along the lattice's longest side."""

    batch: int
    resolution: int
    grid: int


def rungs(batch: int, resolution: int, grid: int) -> list[Rung]:
    """From what was asked for down to the least that is worth trying."""
    found = [Rung(batch, resolution, grid)]
    while found[-1].batch > 1:
        found.append(Rung(found[-1].batch // 2, resolution, grid))
    while (last := found[-1]).resolution // 2 >= LEAST_RESOLUTION or last.grid // 2 >= LEAST_GRID:
        if last.resolution // 2 >= LEAST_RESOLUTION:
            found.append(Rung(1, last.resolution // 2, last.grid))
        if last.grid // 2 >= LEAST_GRID:
            found.append(Rung(1, found[-1].resolution, last.grid // 2))
    return found


def estimate(rung: Rung, texture_size: int) -> int:
    """Bytes that a rung needs at its worst moment."""
    samples = SHARE * (rung.resolution * SAMPLES) ** 2
    return int(rung.batch * samples * PER_SAMPLE + texture_size**2 * PER_TEXEL + rung.grid**3 * PER_POINT)


def choose(ladder: list[Rung], attempts: Attempts, texture_size: int, free: int | None) -> tuple[int, str]:
    """Which rung to stand on, and why. free: bytes free on the device, None where that cannot be told.

    Raises ModelVramOom where none is left."""
    first = attempts.first(ladder)
    reason = f"after {len(attempts.failed())} attempts that ran out of memory" if first else "as asked for"
    if free is None:
        return first, reason
    for index in range(first, len(ladder)):
        if estimate(ladder[index], texture_size) <= RESERVE * free:
            return index, reason if index == first else f"{reason}; the first that fits {free >> 20} MiB of free memory"
    need, have = estimate(ladder[-1], texture_size) >> 20, free >> 20
    raise ModelVramOom(f"Even the least the model can do needs about {need} MiB; the device has {have} MiB free.")
