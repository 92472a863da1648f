"""The published model's step in a pod, with a stand-in for its package: its weights come by a claim."""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import Any

import pytest

from tests.cluster.client import finished, labels_of, pods_of, read_key, record_of, submit, values_of
from tests.conftest import need

DUCK = "s3://sixview/inputs/duck"


@pytest.fixture(scope="module")
def published_job(inputs: str) -> dict[str, Any]:
    need(not os.environ.get("KUBECONFIG"), "a node of its own, whose folder is the volume")
    name = submit("sixview-published", DUCK, engine="reconviagen", device="cpu", psnr_threshold=10, ssim_threshold=0.5)
    return finished(name)


def test_its_mesh_is_registered_scored_and_packaged(published_job: dict[str, Any]) -> None:
    assert published_job["status"]["phase"] == "Succeeded", record_of(published_job)
    assert labels_of(published_job)["engine"] == "reconviagen"
    assert values_of(published_job, "reconviagen-pod")["engine"] == "reconviagen"
    with zipfile.ZipFile(io.BytesIO(read_key(published_job["metadata"]["name"], "result.zip"))) as archive:
        assert {"reconviagen/mesh.glb", "reconviagen/coverage.png"} <= set(archive.namelist())
        settings = json.loads(archive.read("reconviagen/quality.json"))["settings"]
    assert settings["registration"]["iou"] > 0.7
    assert settings["weights"]["pipeline"].startswith("Stable-X/trellis-vggt-v0-2 at ")


def test_its_pod_sees_the_weights_and_cannot_change_them(published_job: dict[str, Any]) -> None:
    (pod,) = pods_of(published_job["metadata"]["name"], "reconviagen-pod")
    main = next(c for c in pod["spec"]["containers"] if c["name"] == "main")
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in main["volumeMounts"]
    assert main["image"].endswith("/engines-standin:test")


def test_without_weights_the_named_engine_fails_and_nothing_stands_in_for_it(inputs: str) -> None:
    published_job = finished(submit("sixview-cpu", DUCK, engine="reconviagen"))
    record = record_of(published_job)
    assert (record["error-code"], record["stage"], record["engine"]) == (
        "WEIGHTS_MISSING",
        "weight_loading",
        "reconviagen",
    )
