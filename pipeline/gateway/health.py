"""The report of /health: cluster, S3, queue and GPUs."""

from __future__ import annotations

import re
import time
from collections import Counter
from importlib import metadata
from typing import Any

from pipeline.clients import s3
from pipeline.clients.kubernetes import Kubernetes
from pipeline.gateway.informer import JobInformer

GPU = "nvidia.com/gpu"
CACHE_SECONDS = 5.0
_cache: dict[str, Any] = {}


def health_report(cluster: Kubernetes, informer: JobInformer) -> dict[str, Any]:
    """status (healthy or unhealthy), version, cluster, s3, queue, gpus. Cached for CACHE_SECONDS."""
    if _cache.get("at", float("-inf")) + CACHE_SECONDS > time.monotonic():
        report: dict[str, Any] = _cache["report"]
        return report
    store_health, counts = check_store(), informer.counts()
    is_healthy = informer.is_healthy() and store_health["ok"]
    report = {
        "status": "healthy" if is_healthy else "unhealthy",
        "version": metadata.version("sixview"),
        "cluster": {"ok": informer.is_healthy()},
        "s3": store_health,
        "queue": {"queued": counts["queued"], "processing": counts["processing"]},
        "gpus": gpus(cluster),
    }
    _cache.update(at=time.monotonic(), report=report)
    return report


def redacted(report: dict[str, Any], details: bool) -> dict[str, Any]:
    """The report for a client. details: whether it is authenticated; otherwise without bucket, node names and errors, and with
    GPUs counted by product."""
    if details:
        return report
    gpus = report["gpus"]
    counts = Counter[str | None]()
    for gpu in gpus or []:
        counts[gpu["name"]] += gpu["count"]
    kinds = [{"count": count, "name": name} for name, count in counts.items()]
    return {**report, "s3": {"ok": report["s3"]["ok"]}, "gpus": None if gpus is None else kinds}


def check_store() -> dict[str, Any]:
    """ok, bucket and, after an error, message: of a HEAD request to the bucket."""
    try:
        s3.client().head_bucket(Bucket=s3.bucket())
        return {"ok": True, "bucket": s3.bucket()}
    except Exception as error:  # any error makes the bucket unusable
        return {"ok": False, "bucket": s3.bucket(), "message": f"{type(error).__name__}"}


def gpus(cluster: Kubernetes) -> list[dict[str, Any]] | None:
    """Nodes with GPUs, from NVIDIA's GPU feature discovery labels. None where nodes may not be listed."""
    try:
        nodes = cluster.nodes()
    except Exception:  # the right to list nodes is optional
        return None
    return [gpu_node(node) for node in nodes if _count(node)]


def _count(node: dict[str, Any]) -> int:
    return _integer(node.get("status", {}).get("allocatable", {}).get(GPU)) or 0


def _integer(text: Any) -> int | None:
    """A non-negative integer from a label or quantity; None for other values."""
    return int(text) if re.fullmatch("[0-9]{1,9}", str(text)) else None


def gpu_node(node: dict[str, Any]) -> dict[str, Any]:
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
        "memory_mib": _integer(memory),
    }
