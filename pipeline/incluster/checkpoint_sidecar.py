"""The sidecar that carries a model's checkpoint out of its pod: `python -m pipeline.incluster.checkpoint_sidecar FILE s3://bucket/key`.

A pod that is preempted or lost takes its files with it. The next attempt finds the last checkpoint among its inputs and goes on
from there. The step itself knows nothing of S3: it writes a file, and puts each new one in the old one's place."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from pipeline.clients import s3

POLL_SECONDS = 2.0
Version = tuple[int, int]  # a file's time and inode


def watch(path: Path, address: str, stop: threading.Event) -> None:
    """Uploads the file whenever it has changed, until `stop`, and then once more. The store forgets a file that is gone."""
    seen: Version | None = None
    while True:
        last = stop.wait(POLL_SECONDS)
        seen = _carry(path, address, seen)
        if last:
            return


def _carry(path: Path, address: str, seen: Version | None) -> Version | None:
    """Brings the store up to date, and returns which version of the file it has now. What fails is told, and tried again at the
    next turn. A file that is gone was taken away by a model that has finished: nobody will need it again."""
    version = _version(path)
    if version == seen:
        return seen
    try:
        s3.upload(path, address) if version else s3.remove(address)
    except Exception as error:  # whatever S3 or the network can say: the step must not suffer for it
        print(f"The checkpoint could not be carried yet: {error}", file=sys.stderr, flush=True)
        return seen
    print("checkpoint uploaded" if version else "checkpoint removed", flush=True)
    return version


def _version(path: Path) -> Version | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    watch(Path(sys.argv[1]), sys.argv[2], stop)


if __name__ == "__main__":
    main()
