"""Machine code of every kernel without a GPU: `python -m tests.compute.machine_code` prints registers and spills.

numba compiles a kernel to PTX for the oldest architecture, and CUDA's `ptxas` assembles that for each. The kernels and
the types of their arguments are those that the scenes launch in numba's simulator."""

from __future__ import annotations

import functools
import importlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.compute import comparison
from tests.compute.launches import Launched

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")  # T4; A100; H100 and H200; RTX 50
OLDEST = (7, 5)
LEAST_SIDE = 5  # of scenes that only have to launch every kernel
USED = re.compile(r"Used (\d+) registers")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True)
class Code:
    """A kernel assembled for an architecture. registers: of a thread; spilled: bytes of spill stores and loads."""

    kernel: str
    architecture: str
    registers: int
    spilled: int
    is_atomic: bool


def assembler() -> str | None:
    """ptxas, of PyPI's wheels or of an installed CUDA; None without it."""
    try:
        folders = list(importlib.import_module("nvidia").__path__)
    except ModuleNotFoundError:
        folders = []
    found = [str(path) for folder in folders for path in sorted(Path(folder).glob("*/bin/ptxas"))]
    return found[0] if found else shutil.which("ptxas")


def of_launched(pickled: Path) -> list[Code]:
    """Of the kernels in a file that comparison.run left, in a process of its own, in which numba asks no driver."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.compute.machine_code", "--json", str(pickled)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=comparison.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [Code(**one) for one in json.loads(done.stdout)]


def codes(launched: list[Launched]) -> Iterator[Code]:
    for one in launched:
        text = ptx(one)
        is_atomic = "atom." in text or "red." in text
        for architecture in ARCHITECTURES:
            yield Code(one.kernel, architecture, *registers_and_spills(assembled(text, architecture)), is_atomic)


def ptx(launched: Launched) -> str:
    """A kernel's PTX, as `launch` has it compiled."""
    cuda, grid_of = _compiler()
    module, _, name = launched.kernel.rpartition(".")
    grid = grid_of(getattr(importlib.import_module(module), name), launched.dimensions)
    types_of_arguments = (numba_types().int64,) * launched.dimensions + (numba_types().Tuple(launched.arguments),)
    text, _ = cuda.compile(grid.py_func, types_of_arguments, device=False, cc=OLDEST, abi="numba")
    return str(text)


def numba_types():  # type: ignore[no-untyped-def]
    from numba import types

    return types


@functools.cache
def _compiler():  # type: ignore[no-untyped-def]
    """numba.cuda and `grid_of`, without a driver that says which device there is."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda

    device = types.SimpleNamespace(compute_capability=OLDEST)
    dispatcher.get_current_device = lambda: device  # device functions ask for it
    from steps.compute.cuda import grid_of
    from steps.raster import keys  # noqa: F401, what its kernels do otherwise on CUDA

    warnings.simplefilter("ignore")
    return cuda, grid_of


def assembled(text: str, architecture: str) -> str:
    """What ptxas says of PTX as it assembles it."""
    program = assembler()
    assert program, "There is no ptxas: the extra `test` has it."
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text)
        command = [program, "-v", "-arch", architecture, str(source), "-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def registers_and_spills(said: str) -> tuple[int, int]:
    """Registers of a thread, and bytes of spill stores and loads, of all functions that ptxas tells of."""
    spills = sum(int(stores) + int(loads) for stores, loads in SPILLS.findall(said))
    return max(map(int, USED.findall(said))), spills


def table(found: list[Code]) -> str:
    """A line for each kernel, in Markdown: registers by architecture, with bytes spilled where there are some."""
    lines = [f"| kernel | {' | '.join(ARCHITECTURES)} |", "|---" * (1 + len(ARCHITECTURES)) + "|"]
    for kernel in dict.fromkeys(one.kernel for one in found):
        cells = [
            f"{one.registers}, {one.spilled} B spilled" if one.spilled else str(one.registers)
            for one in found
            if one.kernel == kernel
        ]
        lines.append(f"| {kernel} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--json"]:
        launched = pickle.loads(Path(sys.argv[2]).read_bytes())
        print(json.dumps([asdict(code) for code in codes(launched)]))
        return
    with tempfile.TemporaryDirectory() as folder:
        wrong = [one for one in comparison.run("simulator", [LEAST_SIDE], Path(folder)) if not one.right]
        assert not wrong, wrong
        print(table(of_launched(Path(folder) / comparison.LAUNCHED)))


if __name__ == "__main__":
    main()
