"""The GPU kit: every kernel, whole jobs, their times and nvdiffrec's memory on an NVIDIA GPU, against the CPU.

    python -m tests.gpu                  on a machine with a GPU: prints tables, writes gpu.json and gpu.md to --out
    python -m tests.gpu carry DIR        lays the wheels that such a machine lacks into DIR, from PyPI
    python -m tests.gpu rehearse         the kit itself, without a GPU: in numba's simulator, and on the CPU

Exit code 0: all that ran is right. 1: something is not. 2: there is no GPU, or a package is missing."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.gpu import wheels

MINUTES = 8.0


def main() -> int:
    given = parser().parse_args()
    if given.what == "carry":
        return wheels.carry(given.folder)
    with wheels.unpacked(given.wheels) as folder:
        if missing := wheels.missing():
            return refused(
                f"Python does not find {', '.join(missing)}: see `python -m tests.gpu carry DIR` and --wheels."
            )
        wheels.give_to_children(folder)
        return measure(given)


def measure(given: argparse.Namespace) -> int:
    from tests.gpu import kit  # only now are its packages there

    if unknown := set(given.only or ()) - set(kit.SECTIONS):
        return refused(f"There is no section {', '.join(sorted(unknown))}: there are {', '.join(kit.SECTIONS)}.")
    rehearsal = given.what == "rehearse"
    if not rehearsal and (problem := kit.no_gpu()):
        return refused(problem)
    run = kit.Run("gpu", smallest=rehearsal)
    run.start["commit"] = given.commit or run.start["commit"]
    command = " ".join(["python -m tests.gpu", *sys.argv[1:]])
    ends = time.monotonic() + 60 * given.minutes
    one = kit.Kit(run, rehearsal, given.out.absolute(), ends, command, given.double)
    code = kit.measure(one, [name for name in kit.SECTIONS if name in (given.only or kit.SECTIONS)])
    print(f"\nrecord: {given.out / 'gpu.json'}, as a page: {given.out / 'gpu.md'}", flush=True)
    return code


def refused(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("what", nargs="?", default="measure", choices=("measure", "rehearse", "carry"))
    made.add_argument("folder", nargs="?", type=Path, default=Path("out/wheels"), help="of carry")
    made.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for gpu.json, gpu.md and all else")
    made.add_argument(
        "--wheels",
        type=Path,
        default=os.environ.get(wheels.VARIABLE),
        help=f"folder that carry filled; also from {wheels.VARIABLE}",
    )
    made.add_argument(
        "--only", action="append", metavar="SECTION", help="kernels, jobs, times or nvdiffrec; may be repeated"
    )
    made.add_argument("--minutes", type=float, default=MINUTES, help="what no longer fits is not run (default: 8)")
    made.add_argument("--commit", default="", help="the commit that is measured, where there is no git to ask")
    made.add_argument(
        "--double", default="", metavar="KERNEL@SIDE", help="for the kit's own test: a kernel that a double makes wrong"
    )
    return made


if __name__ == "__main__":
    raise SystemExit(main())
