"""Every kernel's results on a device against the CPU's, over the scenes, in growing sides.

`run` starts two processes one after the other, `python -m tests.compute.comparison PLACE FOLDER SIDE ...`: one with the compiled
kernels of the CPU, which leaves its results in the folder, and one for the device, which compares its own with them and ends at
the first that is wrong. Each prints a line of JSON as it goes, so that it is known where one was that crashed or hung."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.compute.arrays import Array
from tests.compute import scenes
from tests.compute.launches import Launches

ROOT = Path(__file__).parents[2]
# in the simulator Python runs kernels, and so whatever they call
ENVIRONMENT = {"simulator": {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}}
# of the largest value of a result, at least of 1. On a GPU multiplications and additions are fused, and sums of float32 come in
# no fixed order
LIMITS = {"simulator": 1e-5, "cuda": 1e-4}
# of a result's elements may be apart on a GPU: a pixel's centre on an edge may fall to either side
APART = {"simulator": 0.0, "cuda": 1e-5}
LAUNCHED = "launched.pickle"
TOO_LONG = "it took too long"


@dataclass(frozen=True)
class Compared:
    """A result of a scene against the CPU's. kernels: those that ran for it; largest: difference; apart: elements that differ by
    more than the limit; right: whether these are few enough; problem: why there is nothing to compare."""

    scene: str
    side: int
    result: str = ""
    kernels: tuple[str, ...] = ()
    largest: float = 0.0
    limit: float = 0.0
    apart: int = 0
    right: bool = False
    problem: str = ""


class WrongKernel:
    """A double of a kernel that is wrong from a side on: for the tests of what looks for wrong kernels."""

    def __init__(self, kernel: str, least_side: int) -> None:
        self.kernel, self.least_side, self.side = kernel, least_side, 0

    def spoil(self, kernel: str, arguments: tuple[Any, ...]) -> None:
        """Adds 1 to the last array that the kernel was given."""
        if kernel == self.kernel and self.side >= self.least_side:
            flat = [a for argument in arguments for a in (argument if isinstance(argument, tuple) else (argument,))]
            flat[-1][...] += 1


def run(place: str, sides: Sequence[int], folder: Path, double: str = "", seconds: float = 600.0) -> Iterator[Compared]:
    """Compares a place with the CPU. Ends after the first result that is wrong, or where a process ends before its time, as
    the result's problem says. folder: for the results of the CPU, and LAUNCHED. double: what WrongKernel plays, as KERNEL@SIDE.
    seconds: for both processes together."""
    ends = time.monotonic() + seconds
    for at in ("cpu", place):
        begun = Compared("", 0)
        for line in _lines(at, sides, folder, double, ends):
            if "ended" in line:
                yield dataclasses.replace(begun, problem=f"{at}: {line['ended']}")
                return
            begun = Compared(**{**line, "kernels": tuple(line["kernels"])})
            if begun.result:
                yield begun
            if begun.result and not begun.right:
                return


def _lines(place: str, sides: Sequence[int], folder: Path, double: str, ends: float) -> Iterator[dict[str, Any]]:
    """What a process prints; last of all its problem, where it has one."""
    words = [place, str(folder), *map(str, sides), *(["--double", double] if double else [])]
    command = [sys.executable, "-W", "ignore", "-m", "tests.compute.comparison", *words]
    environment = {**os.environ, **ENVIRONMENT.get(place, {})}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=ROOT
        ) as process,
    ):
        clock = threading.Timer(max(0.0, ends - time.monotonic()), process.kill)
        clock.start()
        try:
            yield from (json.loads(line) for line in process.stdout or ())
            code = process.wait()
        finally:
            clock.cancel()
            process.kill()  # where nobody asked for all lines
        if code:
            errors.seek(0)
            said = errors.read().strip().splitlines() or [f"exit code {code}"]
            yield {"ended": TOO_LONG if time.monotonic() >= ends else said[-1]}


# -- in a process of its own --------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compute.comparison")
    parser.add_argument("place", choices=scenes.PLACES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sides", type=int, nargs="+")
    parser.add_argument(
        "--double", default="@0", help="a kernel that is made wrong, and from which side on: KERNEL@SIDE"
    )
    given = parser.parse_args()
    kernel, _, least = given.double.partition("@")
    wrong, launches = WrongKernel(kernel, int(least)), Launches(given.place == "simulator")
    launches.after = wrong.spoil
    launches.watch()
    at = scenes.PLACES[given.place]()
    for side in given.sides:
        wrong.side = side
        for scene in scenes.SCENES:
            print(json.dumps(dataclasses.asdict(Compared(scene, side))), flush=True)
            if given.place == "cpu":
                _save(scene, at, side, given.folder)
            elif not _compare(scene, at, side, given, launches):
                return
    if launches.with_types:
        (given.folder / LAUNCHED).write_bytes(pickle.dumps(list(dict.fromkeys(launches.seen))))


def _file(folder: Path, scene: str, side: int) -> Path:
    return folder / f"{scene}_{side}.npz"


def _save(scene: str, at: scenes.Place, side: int, folder: Path) -> None:
    results: dict[str, Any] = {name: scenes.host(array) for name, array in scenes.SCENES[scene](at, side)}
    np.savez(_file(folder, scene, side), **results)


def _compare(scene: str, at: scenes.Place, side: int, given: argparse.Namespace, launches: Launches) -> bool:
    """Prints each result's comparison, up to the first that is wrong. Returns whether all are right."""
    kernels: tuple[str, ...] = ()
    launches.take()
    with np.load(_file(given.folder, scene, side)) as expected:
        for name, array in scenes.SCENES[scene](at, side):
            found = scenes.host(array)  # waits for the device
            kernels = tuple(launches.take()) or kernels  # of several results that come together
            one = dataclasses.replace(compared(expected[name], found, given.place), scene=scene, side=side)
            print(json.dumps(dataclasses.asdict(dataclasses.replace(one, result=name, kernels=kernels))), flush=True)
            if not one.right:
                return False
    return True


def compared(expected: Array, found: Array, place: str) -> Compared:
    """One result against the CPU's; what is no number is apart from everything."""
    if expected.shape != found.shape:
        return Compared("", 0, problem=f"It is {found.shape}, and {expected.shape} on the CPU.")
    if not expected.size:
        return Compared("", 0, right=True)
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(found, np.float64) - expected)
    limit = LIMITS[place] * max(1.0, float(np.abs(expected).max()))
    apart = int((~(difference <= limit)).sum())
    largest = float(difference.max())
    return Compared("", 0, "", (), largest, limit, apart, apart <= APART[place] * expected.size)


if __name__ == "__main__":
    main()
