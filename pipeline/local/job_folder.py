"""The output folder of a local job: whether it is one, and its lock."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from steps.runtime.errors import ValidationFailed

POLL_SECONDS = 0.1
LOCK_SECONDS = 10.0
PUBLISHED = ("result.zip", "report", "outputs.json")


def check_output_folder(out: Path, models: tuple[str, ...]) -> None:
    """Raises ValidationFailed where --out is a file, or has files with the names of results but no .sixview: they are the
    user's."""
    existing = [name for name in (*PUBLISHED, *models) if (out / name).exists()]
    if out.is_file() or (existing and not (out / ".sixview").is_dir()):
        problem = f"holds {', '.join(existing)}, which no sixview run wrote" if existing else "is a file"
        raise ValidationFailed(f"The output folder {out} {problem}.", "Name another folder with --out.")


def acquire_lock(lock: IO[str], out: Path) -> None:
    """Locks the open file. Raises ValidationFailed where another run holds it for LOCK_SECONDS."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValidationFailed(
                    f"Another sixview run is working in {out}.", "Wait for it to end, or name another folder."
                ) from None
            time.sleep(POLL_SECONDS)
