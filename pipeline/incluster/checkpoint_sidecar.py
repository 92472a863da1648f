"""Sidecar that uploads a model's checkpoint: `python -m pipeline.incluster.checkpoint_sidecar FILE s3://bucket/key`.

The files of a preempted or lost pod are lost; the next attempt resumes from the uploaded checkpoint, an input artifact. The step
itself does not use S3: it replaces the file atomically."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click

from pipeline.clients import s3

POLL_SECONDS = 2.0
FileVersion = tuple[int, int]  # mtime in ns, inode


def watch(path: Path, address: str, stop: threading.Event) -> None:
    """Uploads the file after each change, until `stop` is set, then once more. Deletes the object when the file is deleted."""
    uploaded: FileVersion | None = None
    while True:
        is_last = stop.wait(POLL_SECONDS)
        uploaded = _sync(path, address, uploaded)
        if is_last:
            return


def _sync(path: Path, address: str, uploaded: FileVersion | None) -> FileVersion | None:
    """Uploads or deletes the checkpoint if the file has changed; returns the uploaded version, None after deletion.

    A failure is logged and retried at the next poll. The model deletes the file when it has finished."""
    version = _version(path)
    if version == uploaded:
        return uploaded
    try:
        s3.upload(path, address) if version else s3.remove(address)
    except Exception as error:  # a failed upload must not fail the step
        print(f"The checkpoint could not be carried yet: {error}", file=sys.stderr, flush=True)
        return uploaded
    print("checkpoint uploaded" if version else "checkpoint removed", flush=True)
    return version


def _version(path: Path) -> FileVersion | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("address", metavar="s3://BUCKET/KEY")
def main(file: Path, address: str) -> None:
    """Upload FILE to s3://BUCKET/KEY whenever it changes, until SIGTERM, and delete the object when FILE is deleted."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    watch(file, address, stop)


if __name__ == "__main__":
    main()
