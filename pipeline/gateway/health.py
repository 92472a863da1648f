"""Whether everything is there that a job needs."""

from __future__ import annotations

import re
import time
from collections import Counter
from importlib import metadata
from typing import Any

from pipeline.clients import s3 as storage
from pipeline.clients.kubernetes import Kubernetes
from pipeline.gateway.informer import Watched

GPU = "nvidia.com/gpu"
SECONDS_KEPT = 5.0
_last: dict[str, Any] = {}


def look(cluster: Kubernetes, watched: Watched) -> dict[str, Any]:
    """status (healthy or unhealthy), version, cluster, s3, queue, gpus. Asked often, it looks every few seconds."""
    if _last.get("at", float("-inf")) + SECONDS_KEPT > time.monotonic():
        found: dict[str, Any] = _last["found"]
        return found
    s3, counts = store(), watched.counts()
    well = watched.is_well() and s3["ok"]
    found = {
        "status": "healthy" if well else "unhealthy",
        "version": metadata.version("sixview"),
        "cluster": {"ok": watched.is_well()},
        "s3": s3,
        "queue": {"queued": counts["queued"], "processing": counts["processing"]},
        "gpus": gpus(cluster),
    }
    _last.update(at=time.monotonic(), found=found)
    return found


def shown(found: dict[str, Any], details: bool) -> dict[str, Any]:
    """What a client gets to see. Without details: no names of buckets, nodes and errors, only whether things are there, and how
    many GPUs of which kind."""
    if details:
        return found
    gpus = found["gpus"]
    counts = Counter[str | None]()
    for gpu in gpus or []:
        counts[gpu["name"]] += gpu["count"]
    kinds = [{"count": count, "name": name} for name, count in counts.items()]
    return {**found, "s3": {"ok": found["s3"]["ok"]}, "gpus": None if gpus is None else kinds}


def store() -> dict[str, Any]:
    """Whether the bucket answers."""
    try:
        storage.client().head_bucket(Bucket=storage.bucket())
        return {"ok": True, "bucket": storage.bucket()}
    except Exception as error:  # whatever keeps us from it: it is not there for us
        return {"ok": False, "bucket": storage.bucket(), "message": f"{type(error).__name__}"}


def gpus(cluster: Kubernetes) -> list[dict[str, Any]] | None:
    """The nodes' GPUs: what NVIDIA's feature discovery labels them with, and how many there are. None where we may not look."""
    try:
        nodes = cluster.nodes()
    except Exception:  # without the right to list nodes the service still does its work
        return None
    return [described(node) for node in nodes if _count(node)]


def _count(node: dict[str, Any]) -> int:
    return _whole(node.get("status", {}).get("allocatable", {}).get(GPU)) or 0


def _whole(text: Any) -> int | None:
    """A number that somebody else wrote; None where it is none."""
    return int(text) if re.fullmatch("[0-9]{1,9}", str(text)) else None


def described(node: dict[str, Any]) -> dict[str, Any]:
    labels = node["metadata"].get("labels", {})
    driver = ".".join(
        filter(None, (labels.get(f"nvidia.com/cuda.driver.{part}") for part in ("major", "minor", "rev")))
    )
    memory = labels.get("nvidia.com/gpu.memory")
    return {
        "node": node["metadata"]["name"],
        "count": _count(node),
        "name": labels.get("nvidia.com/gpu.product"),
        "driver": labels.get("nvidia.com/cuda.driver-version.full") or driver or None,
        "memory_mib": _whole(memory),
    }
