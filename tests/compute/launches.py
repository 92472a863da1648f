"""What `launch` runs on CUDA: the kernels, and the types of what they are given."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types

from steps.compute import launch

STEPS = Path(__file__).parents[2] / "steps"
ONLY_ON_A_CPU = {"steps.raster.rasterize._draw_rows", "steps.raster.antialias._walk_lines"}  # keys.py is there instead
LAUNCHERS = {"launch", "launch_by_one", "launch_sums"}


@dataclass(frozen=True)
class Launched:
    """A kernel's name, with its module's; dimensions of its grid; types of its arguments, as numba has them."""

    kernel: str
    dimensions: int
    arguments: tuple[Any, ...]


@dataclass
class Launches:
    """The launches on CUDA since `watch`. with_types: whether with the types of the arguments; after: called with a
    kernel's name and arguments when it has been launched."""

    with_types: bool = False
    after: Callable[[str, tuple[Any, ...]], None] = lambda _kernel, _arguments: None
    seen: list[Launched] = field(default_factory=list)

    def watch(self) -> None:
        """From now on, in this process."""
        plain = launch._launch_on_cuda

        def watched(kernel: Any, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            name = name_of(kernel)
            of_arguments = tuple(map(type_of, arguments)) if self.with_types else ()
            self.seen.append(Launched(name, len(shape), of_arguments))
            plain(kernel, shape, arguments)
            self.after(name, arguments)

        launch._launch_on_cuda = watched

    def take(self) -> list[str]:
        """The names of the kernels since the last call, each once."""
        names = list(dict.fromkeys(one.kernel for one in self.seen[self._taken :]))
        self._taken = len(self.seen)
        return names

    _taken: int = 0


def name_of(kernel: Any) -> str:
    """A kernel's name with its module's; in numba's simulator a kernel is a plain function."""
    function = getattr(kernel, "py_func", kernel)
    return f"{function.__module__}.{function.__name__}"


def type_of(argument: Any) -> Any:
    """The type by which numba-cuda compiles for an argument of the simulator's: arrays can be written to, wherever they lie."""
    if isinstance(argument, tuple):
        return types.Tuple(tuple(map(type_of, argument)))
    found = numba.typeof(np.asarray(argument) if isinstance(argument, np.ndarray) else argument)
    return found.copy(readonly=False) if isinstance(found, types.Array) else found


def launched_in_steps() -> set[str]:
    """Names of the kernels that the steps' code gives to `launch`, read from the source."""
    found = set()
    for path in sorted(STEPS.rglob("*.py")):
        module = ".".join(path.relative_to(STEPS.parent).with_suffix("").parts)
        if module == launch.__name__:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LAUNCHERS:
                kernel = node.args[0]
                found.add(f"{module}.{ast.unparse(kernel)}")
    return found
