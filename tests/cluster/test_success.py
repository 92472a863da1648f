"""A job in the cluster is the same job as on one machine, and each pod has the GPU for itself."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.jobs.nodes import outputs, step_nodes
from steps.runtime.contract import MODELS
from tests.cluster import client, images
from tests.cluster.client import describe_nodes, keys_of, labels_of, moment, read_key, record_of
from tests.cluster.node import kubectl
from tests.cluster.places import NAMESPACE

Succeeded = Callable[[str], dict[str, Any]]
ASKED = {"reconviagen": ("reconviagen",), "nvdiffrec": ("nvdiffrec",), "both": MODELS}


@pytest.mark.parametrize("model", ASKED)
def test_a_submitted_sample_succeeds_and_leaves_its_result(succeeded: Succeeded, model: str) -> None:
    wf = succeeded(model)
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)
    assert labels_of(wf) == {
        "status": "completed",
        "model": model,
        "engine": ".".join("fusion" if m == "reconviagen" else m for m in ASKED[model]),
        "oom-type": "none",
        "folder": "uid",
    }
    assert record_of(wf)["status"] == "completed"
    with zipfile.ZipFile(io.BytesIO(read_key(wf["metadata"]["name"], "result.zip"))) as archive:
        assert archive.testzip() is None
        for name in ASKED[model]:
            assert {f"{name}/mesh.glb", f"{name}/quality.json", f"{name}/previews/textured_00.png"} <= set(
                archive.namelist()
            )


@pytest.mark.parametrize("model", ASKED)
def test_its_result_is_that_of_sixview_run_in_the_same_image(succeeded: Succeeded, model: str) -> None:
    wf = succeeded(model)
    with zipfile.ZipFile(io.BytesIO(read_key(wf["metadata"]["name"], "result.zip"))) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["content_digest"] == run_in_image(model)["content_digest"]


def run_in_image(model: str) -> dict[str, Any]:
    """`sixview run` in a pod of the engines' image, on the same input. Returns outputs.json."""
    options = [word for name, value in client.SMALL.items() for word in (f"--{name}", value)]
    name, mount = f"plain-{model}", {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    locked = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    key = {"name": "sixview-s3"}
    environment = [
        {"name": "S3_ENDPOINT", "value": "http://sixview-cpu-minio:9000"},
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {**key, "key": "access-key"}}},
        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {**key, "key": "secret-key"}}},
    ]
    common = {"imagePullPolicy": "Never", "securityContext": locked, **mount}
    fetch = {"name": "fetch", "image": f"{images.REGISTRY}/control:{images.TAG}", "env": environment, **common}
    fetch["command"] = ["python", "-c", FETCH]
    run = {"name": "run", "image": f"{images.REGISTRY}/engines-cpu:{images.TAG}", **common}
    run["args"] = [
        "sixview",
        "run",
        "/tmp/input",
        "--out",
        "/tmp/out",
        "--model",
        model,
        "--device",
        "cpu",
        "--json",
        *options,
    ]
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 8737, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [fetch],
        "containers": [run],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubectl("-n", NAMESPACE, "delete", "pod", name, "--ignore-not-found", "--wait")
    kubectl("-n", NAMESPACE, "apply", "-f", "-", given=json.dumps(pod))
    kubectl("-n", NAMESPACE, "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s")
    return dict(json.loads(kubectl("-n", NAMESPACE, "logs", name, "-c", "run").stdout))


FETCH = """
from pathlib import Path
from pipeline.clients.s3 import client
s3 = client()
for item in s3.list_objects_v2(Bucket="sixview", Prefix="inputs/mug/")["Contents"]:
    path = Path("/tmp/input") / item["Key"].removeprefix("inputs/mug/")
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file("sixview", item["Key"], str(path))
"""


def test_every_pod_had_the_gpu_for_itself(succeeded: Succeeded) -> None:
    """Three jobs at once on one GPU: no two of their steps ran at the same time."""
    spans = []
    for model in ASKED:
        for pod in succeeded(model)["pods"]:
            main = next(c for c in pod["spec"]["containers"] if c["name"] == "main")
            if "nvidia.com/gpu" in main["resources"]["limits"]:
                terminated = client.main_state(pod)["terminated"]
                spans.append(
                    (moment(terminated["startedAt"]), moment(terminated["finishedAt"]), pod["metadata"]["name"])
                )
    assert len(spans) == 5 + 5 + 8
    for (_, end, first), (start, _, second) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        assert start >= end, f"{first} and {second} had the GPU at the same time"


def test_no_pod_compiled_a_kernel(succeeded: Succeeded) -> None:
    """On a read-only root file system, from the caches in the image: compiling takes seconds where it happens at all."""
    for node in step_nodes(succeeded("both")):
        assert float(outputs(node)["compile-seconds"]) < 0.05, node["displayName"]


def test_a_zip_gives_the_same_result_as_a_folder(succeeded: Succeeded, fault: Succeeded) -> None:
    assert fault("zip")["status"]["phase"] == "Succeeded", describe_nodes(fault("zip"))
    digests = set()
    for wf in (fault("zip"), succeeded("reconviagen")):
        with zipfile.ZipFile(io.BytesIO(read_key(wf["metadata"]["name"], "result.zip"))) as archive:
            digests.add(json.loads(archive.read("manifest.json"))["content_digest"])
    assert len(digests) == 1


def test_what_a_job_leaves_in_the_store(succeeded: Succeeded) -> None:
    name = succeeded("reconviagen")["metadata"]["name"]
    keys = set(keys_of(name))
    assert {"result.zip", "report.html", "scene.tgz", "scene.json", "reconviagen/mesh.tgz"} <= keys
    assert "failure.json" not in keys
    logs = client.s3.client().list_objects_v2(Bucket=client.BUCKET, Prefix=f"logs/sixview-{client.folder(name)}/")[
        "Contents"
    ]
    assert len(logs) == 6  # five steps and the exit handler


def test_progress_is_published(succeeded: Succeeded) -> None:
    progress = {node["templateName"]: node.get("progress") for node in step_nodes(succeeded("nvdiffrec"))}
    assert all(text.split("/")[0] == text.split("/")[1] for text in progress.values())
    assert int(progress["nvdiffrec-pod"].split("/")[1]) > 1
