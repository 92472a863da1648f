"""Every kernel against its CPU result, over the scenes of tests/compute in growing sides, up to the first that is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.compute import comparison
from tests.compute.comparison import Compared
from tests.compute.launches import ONLY_ON_A_CPU, launched_in_steps
from tests.gpu.kit import Kit

SIDES, REHEARSED_SIDES = (20, 80, 320, 640), (5,)
MOST_SECONDS = 180.0  # most of it compiling; a kernel that hangs must leave time for the rest
HEADER = ("scene", "side", "results", "kernels", "largest difference", "of the limit, %", "elements apart", "verdict")


def section(kit: Kit) -> None:
    """Rows by side, the smallest first: what is wrong is shown in its smallest case."""
    place, sides = ("simulator", REHEARSED_SIDES) if kit.rehearsal else ("cuda", SIDES)
    groups: dict[tuple[int, str], list[Compared]] = {}
    with tempfile.TemporaryDirectory(dir=kit.folder) as folder:
        for one in comparison.run(place, sides, Path(folder), kit.double, min(MOST_SECONDS, kit.left())):
            if one.problem.endswith(comparison.TOO_LONG):
                kit.skipped.append(f"kernels, {sentence(one)}")
                break
            groups.setdefault((one.side, one.scene), []).append(one)
            if not one.right:
                kit.wrong.append(sentence(one))
    kit.table("Kernels against the CPU", HEADER, [row(found) for found in groups.values()])
    ran = {kernel for found in groups.values() for one in found for kernel in one.kernels}
    if left := launched_in_steps() - ONLY_ON_A_CPU - ran:
        kit.run.note(f"Kernels that were not run: {', '.join(sorted(left))}.")
    else:
        kit.run.note(f"All {len(ran)} kernels that the steps launch on a GPU were run.")


def row(found: list[Compared]) -> list[object]:
    """A scene at one side."""
    kernels = {kernel for one in found for kernel in one.kernels}
    largest = max(one.largest for one in found)
    share = max(100 * one.largest / one.limit if one.limit else 0.0 for one in found)
    verdict = "right" if all(one.right for one in found) else "WRONG"
    apart = sum(one.apart for one in found)
    return [found[0].scene, found[0].side, len(found), len(kernels), largest, share, apart, verdict]


def sentence(one: Compared) -> str:
    """What is wrong, where, and which kernels ran for it."""
    where = f"{one.result or 'some result'} of the scene {one.scene or '(before the first)'} at side {one.side}"
    said = one.problem or f"{one.apart} elements differ, by {one.largest:.3g} at most, where {one.limit:.3g} may be"
    return f"{where}: {said}. Kernels that ran for it: {', '.join(one.kernels) or 'unknown'}."
