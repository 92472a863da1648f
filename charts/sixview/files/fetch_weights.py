"""Fetches the weights of the engine reconviagen: `fetch.py parts.json FOLDER`. Runs in a pod of a cluster with internet; what is
there already is kept, so that it may be tried again."""

import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path

from huggingface_hub import snapshot_download


def main(parts: Path, folder: Path) -> None:
    wanted = json.loads(parts.read_text())
    for name, part in wanted["hub"].items():
        snapshot_download(part["repository"], revision=part["revision"], local_dir=folder / name)
        print(f"{name}: {part['repository']} at {part['revision']}", flush=True)
    dinov2(wanted["dinov2"], folder / "dinov2")


def dinov2(part: dict, folder: Path) -> None:
    """Its code at a revision, as torch.hub wants it, and its checkpoint beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(part["code"].format(revision=part["revision"])) as answer:
        data = io.BytesIO(answer.read())
    with tarfile.open(fileobj=data) as archive:
        for member in archive.getmembers():
            member.name = "/".join(member.name.split("/")[1:])  # without the archive's own folder
            if member.name:
                archive.extract(member, folder, filter="data")
    file = folder / part["url"].rsplit("/", 1)[-1]
    if not file.exists():
        urllib.request.urlretrieve(part["url"], file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    with file.open("rb") as checkpoint:
        found = hashlib.file_digest(checkpoint, "sha256").hexdigest()
    if part["sha256"] and found != part["sha256"]:
        file.unlink()
        raise SystemExit(f"{part['url']} has the SHA-256 {found}, not {part['sha256']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
