"""Ends jobs that nothing else would end: `python -m pipeline.reconciler NAMESPACE PREFIX IMAGE_SECONDS INTERVAL`.

A pod whose image cannot be had stays Pending for ever, and Argo's own limit on it would count the time in the queue for a GPU
too. Here only the time since the kubelet first asked for the image counts. The workflow is stopped, not terminated, so that its
exit handler runs and tells; why it was stopped stands in an annotation."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

from pipeline.clusters import Kubernetes
from pipeline.ledger import Ledger
from pipeline.report import ENDED_BY

WORKFLOW = "workflows.argoproj.io/workflow"
WAITING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")


def without_image(pod: dict[str, Any], now: datetime, seconds: float) -> str:
    """Why a pod will not start, where it has been waiting for an image for longer than `seconds`; else nothing."""
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in WAITING and (now - _scheduled(pod)).total_seconds() > seconds:
            return f"The image {container['image']} could not be had: {waiting['reason']}. {waiting.get('message', '')}".strip()
    return ""


def _scheduled(pod: dict[str, Any]) -> datetime:
    """When the pod got its node: from then on its images are asked for."""
    times = [c["lastTransitionTime"] for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"]
    return datetime.fromisoformat((times or [pod["metadata"]["creationTimestamp"]])[0].replace("Z", "+00:00"))


def look(namespace: str, prefix: str, seconds: float, core: Any, custom: Any, serialize: Any) -> None:
    """Stops every workflow of ours that has such a pod."""
    for pod in serialize(
        core.list_namespaced_pod(namespace, label_selector=WORKFLOW, field_selector="status.phase=Pending")
    )["items"]:
        name = pod["metadata"]["labels"][WORKFLOW]
        reason = without_image(pod, datetime.now(UTC), seconds)
        if reason and pod["spec"].get("serviceAccountName", "").startswith(prefix):
            print(f"{name}: {reason}", flush=True)
            patch = {"metadata": {"annotations": {ENDED_BY: reason}}, "spec": {"shutdown": "Stop"}}
            custom.patch_namespaced_custom_object("argoproj.io", "v1alpha1", namespace, "workflows", name, patch)


def main(namespace: str, prefix: str, seconds: str, interval: str) -> None:
    from kubernetes import client, config

    config.load_incluster_config()  # type: ignore[no-untyped-call]
    core, custom, serialize = (
        client.CoreV1Api(),
        client.CustomObjectsApi(),
        client.ApiClient().sanitize_for_serialization,
    )
    ledger = Ledger(Kubernetes(namespace), prefix)
    while True:
        ledger.look()
        try:
            look(namespace, prefix, float(seconds), core, custom, serialize)
        except Exception as error:  # an API server that is away for a while: the next look may find it again
            print(f"could not look: {error}", file=sys.stderr, flush=True)
        time.sleep(float(interval))


if __name__ == "__main__":
    main(*sys.argv[1:])
