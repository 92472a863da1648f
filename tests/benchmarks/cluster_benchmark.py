"""What the cluster adds to a job: time from pod to pod, and bytes through the store. On the cluster of `make cluster`."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.clients import s3
from pipeline.jobs.nodes import outputs, step_nodes
from tests.benchmarks.common import sample
from tests.benchmarks.records import Run
from tests.cluster import client, images
from tests.cluster.client import BUCKET, SMALL, finished, moment, submit
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE

FULL = 2048
HEADER = ("step", "pod, s", "step, s", "start, s", "most memory, MiB", "from S3, KiB", "to S3, KiB")


def main(run: Run) -> None:
    client.connect_to_store()
    count = run.size(5, 2)
    header = ("steps", "wall, s", "their pods, s", "a step, s", "between two pods, s")
    run.table("A chain of empty steps", header, [hops(count)])
    put(sample("mug", 128), "inputs/benchmark-128")
    models = run.size("both", "reconviagen")
    small = finished(submit("sixview", "s3://sixview/inputs/benchmark-128", model=models))
    assert small["status"]["phase"] == "Succeeded", small["status"]
    run.table(f"128 px, model {models}, in {wall(small):.0f} s", HEADER, rows_of(small))
    if not run.smallest:
        full_size(run)


def hops(count: int) -> list[float]:
    """A chain of so many steps that do nothing: seconds of all, of their pods, of a step, and between two pods."""
    name = f"{NAMESPACE}-chain"
    tasks = [{"name": f"t{i}", "template": "nothing", "depends": f"t{i - 1}" if i else ""} for i in range(count)]
    container = {
        "image": f"{images.REGISTRY}/slim:{images.TAG}",
        "imagePullPolicy": "Never",
        "command": ["true"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "entrypoint": "chain",
        "serviceAccountName": "sixview-step",
        "executor": {"serviceAccountName": "sixview-step"},
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 8737, "seccompProfile": {"type": "RuntimeDefault"}},
        "templates": [{"name": "chain", "dag": {"tasks": tasks}}, {"name": "nothing", "container": container}],
    }
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}
    kubectl("-n", NAMESPACE, "delete", "workflow", name, "--ignore-not-found")
    kubectl("-n", NAMESPACE, "create", "-f", "-", given=json.dumps(workflow))
    found = finished(name)
    assert found["status"]["phase"] == "Succeeded", found["status"]
    wait_for(lambda: all("terminated" in client.main_state(pod) for pod in client.pods_of(name)), 30, "the pods to end")
    lives = sum(life(pod) for pod in client.pods_of(name))
    return [count, wall(found), lives, wall(found) / count, (wall(found) - lives) / count]


def life(pod: dict[str, Any]) -> float:
    """Seconds from a pod's creation to the end of its last container."""
    ends = [moment(c["state"]["terminated"]["finishedAt"]) for c in pod["status"]["containerStatuses"]]
    return (max(ends) - moment(pod["metadata"]["creationTimestamp"])).total_seconds()


def wall(found: dict[str, Any]) -> float:
    status = found["status"]
    return (moment(status["finishedAt"]) - moment(status["startedAt"])).total_seconds()


def rows_of(found: dict[str, Any]) -> list[list[object]]:
    """Per step: its pod's and its own seconds, memory, and what it got from the store and put there."""
    rows: list[list[object]] = []
    for node in step_nodes(found):
        values, seconds = outputs(node), (moment(node["finishedAt"]) - moment(node["startedAt"])).total_seconds()
        got = carried(node["inputs"].get("artifacts", []), moment(node["startedAt"]))
        put = carried(node["outputs"].get("artifacts", []), moment(node["finishedAt"]))
        own = float(values["seconds"]), float(values["startup-seconds"]), int(values["peak-ram-mib"])
        rows.append([node["templateName"], seconds, *own, got / 1024, put / 1024])
    return rows


def carried(artifacts: list[dict[str, Any]], when: datetime) -> int:
    """Bytes of the artifacts that were there by then: a key, or everything below it."""
    store, total = s3.client(), 0
    for artifact in artifacts:
        if "s3" in artifact:
            bucket = artifact["s3"].get("bucket", BUCKET)
            listed = store.list_objects_v2(Bucket=bucket, Prefix=artifact["s3"]["key"]).get("Contents", [])
            total += sum(item["Size"] for item in listed if item["LastModified"] <= when + timedelta(seconds=1))
    return total


def full_size(run: Run) -> None:
    """Six views of 2048 pixels, default settings but for the memory that this node can give."""
    put(sample("mug", FULL), f"inputs/benchmark-{FULL}")
    default = {"grid": 256, "faces": 20000, "iterations": 40}
    assert set(default) == set(SMALL)
    found = finished(submit("sixview-full", f"s3://sixview/inputs/benchmark-{FULL}", model="both", **default), 2400)
    assert found["status"]["phase"] == "Succeeded", found["status"]
    run.table(f"{FULL} px, both models, default settings, in {wall(found):.0f} s", HEADER, rows_of(found))
    report = Path(tempfile.mkdtemp()) / "report.html"
    report.write_bytes(client.read_key(found["metadata"]["name"], "report.html"))
    print(f"its report: {report}")


def put(folder: Path, prefix: str) -> None:
    for part in ("multi_views", "depth_renders"):
        client.put_folder(folder / part, f"{prefix}/{part}")
