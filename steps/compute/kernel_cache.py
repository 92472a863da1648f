"""Folder of the compiled kernels' cache, also for a read-only installation.

numba caches beside the source, else in the user's cache folder, and refuses to compile where neither is writable. Then a folder
of this user's own below the system's temporary folder is used. NUMBA_CACHE_DIR has precedence.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def fallback(source: Path) -> Path | None:
    """The folder to use in place of numba's choice, for kernels in the file `source`; None where numba finds one by itself."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    usual = (source.parent / "__pycache__", Path(home) / "numba")
    if os.environ.get("NUMBA_CACHE_DIR") or any(writable(folder) for folder in usual):
        return None
    own = Path(tempfile.gettempdir()) / f"sixview-kernels-{os.getuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        status = own.lstat()
    except OSError:
        return None
    # compiled code is loaded from there: a folder that others can write to would be theirs to fill
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return own if private and writable(own) else Path(tempfile.mkdtemp(prefix="sixview-kernels-"))


def writable(folder: Path) -> bool:
    """Whether files can be written to the folder, which is created where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # Path.home() raises RuntimeError without a home folder
        return False
