"""Paths, versions and constants of the test cluster."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSIONS: dict[str, str] = tomllib.loads((HERE / "versions.toml").read_text())


def digest(*parts: str | bytes) -> str:
    """Twelve hex digits that change with any of the parts."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha256.update(len(data).to_bytes(8, "big") + data)
    return sha256.hexdigest()[:12]


# the same for every checkout of this user, so that a cluster that another checkout left running is found and not fought
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sixview" / "cluster"
KEY = digest(*(f"{k}={v}" for k, v in VERSIONS.items()), *(p.read_bytes() for p in sorted((HERE / "go").iterdir())))
BIN = CACHE / KEY / "bin"
SOURCES = CACHE / KEY / "sources"
NODE = CACHE / "node"  # the running node's state: removed by `down`
KUBECONFIG = NODE / "kubeconfig"
SLOWNESS = 2  # how many times slower a machine may be than the one on which the waits were chosen
NAMESPACE = "sixview"  # where the chart is installed
