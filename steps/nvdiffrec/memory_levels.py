"""Memory fallback: the levels of settings to try, from the requested one down, where device memory does not suffice.

Batch first (which costs time only), then resolution, then the lattice."""

from __future__ import annotations

from dataclasses import dataclass

from steps.runtime.attempts import Attempts
from steps.runtime.errors import ModelVramOom

LEAST_RESOLUTION, LEAST_GRID = 128, 32
SAMPLES = 2  # per pixel and axis: not reduced, since fewer would bake aliasing into the texture
RESERVE = 0.9  # of the free memory: the rest is for what the allocator cannot use
PER_SAMPLE = 260  # bytes kept for the backward pass per sample of a view: `python -m tests.benchmarks gpu` compares
PER_TEXEL = 260  # three textures, their gradients and Adam's two moments, and the passing copies
PER_POINT = 240  # field, shift and colour of a lattice point with theirs, and its edges' numbers
OBJECT_SHARE = 0.6  # of a picture lies within the crop around the object


@dataclass(frozen=True)
class MemoryLevel:
    """One level. batch: views in memory at a time; resolution: longest side, pixels; grid: cells along the lattice's longest
    side."""

    batch: int
    resolution: int
    grid: int


@dataclass(frozen=True)
class LevelChoice:
    """The level of this attempt, the requested one, and the reason for the choice, a sentence for the report."""

    level: MemoryLevel
    requested: MemoryLevel
    reason: str


def levels_of(batch: int, resolution: int, grid: int) -> list[MemoryLevel]:
    """All levels from the requested one down: batch to 1, then resolution and grid to their minima."""
    levels = [MemoryLevel(batch, resolution, grid)]
    while levels[-1].batch > 1:
        levels.append(MemoryLevel(levels[-1].batch // 2, resolution, grid))
    while (last := levels[-1]).resolution // 2 >= LEAST_RESOLUTION or last.grid // 2 >= LEAST_GRID:
        if last.resolution // 2 >= LEAST_RESOLUTION:
            levels.append(MemoryLevel(1, last.resolution // 2, last.grid))
        if last.grid // 2 >= LEAST_GRID:
            levels.append(MemoryLevel(1, levels[-1].resolution, last.grid // 2))
    return levels


def estimate(level: MemoryLevel, texture_size: int) -> int:
    """Estimated peak device memory of a level, bytes. texture_size: side, texels."""
    samples = OBJECT_SHARE * (level.resolution * SAMPLES) ** 2
    return int(level.batch * samples * PER_SAMPLE + texture_size**2 * PER_TEXEL + level.grid**3 * PER_POINT)


def choose(levels: list[MemoryLevel], attempts: Attempts, texture_size: int, free: int | None) -> tuple[int, str]:
    """Index of the level to start at, and the reason. free: bytes free on the device, None where unknown. Raises ModelVramOom
    where every level has failed, or needs more than is free."""
    first = attempts.first(levels)
    reason = f"after {len(attempts.failed())} attempts that ran out of memory" if first else "as asked for"
    if free is None:
        return first, reason
    for index in range(first, len(levels)):
        if estimate(levels[index], texture_size) <= RESERVE * free:
            return index, reason if index == first else f"{reason}; the first that fits {free >> 20} MiB of free memory"
    needed_mib, free_mib = estimate(levels[-1], texture_size) >> 20, free >> 20
    raise ModelVramOom(
        f"Even the least the model can do needs about {needed_mib} MiB; the device has {free_mib} MiB free."
    )
