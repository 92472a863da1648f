"""Jobs whose pods can never start, on a release that waits for a few seconds only: each says why at once, ends with a code of its
own, and gives its place free. Two may run at a time, so that the third shows that the first has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.jobs import status
from tests.cluster.client import ENDED, finished, job, labels_of, record_of, workflow
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.test_commands import sixview

RELEASE = "sixview-stuck"
SMALL = {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "256Mi"}}}  # instead of too much


def mounted(**volume: Any) -> dict[str, Any]:
    """A podSpecPatch that adds a volume to the main container."""
    main = {"name": "main", **SMALL, "volumeMounts": [{"name": "more", "mountPath": "/more"}]}
    return {"volumes": [{"name": "more", **volume}], "containers": [main]}


def environment(**source: Any) -> dict[str, Any]:
    """A podSpecPatch that adds an environment variable to the main container."""
    return {"containers": [{"name": "main", **SMALL, "env": [{"name": "MORE", "valueFrom": source}]}]}


# name: (the pods' patch, priority, the code, words of the reason)
FAULTS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "memory": ({}, "normal", "UNSCHEDULABLE", "GiB of memory, and the largest node, node1, has"),
    "label": ({"nodeSelector": {"zone": "nowhere"}}, "normal", "UNSCHEDULABLE", "no node has the labels"),
    "secret": (
        mounted(secret={"secretName": "nowhere"}),
        "normal",
        "CONFIGURATION_ERROR",
        "the secret nowhere is not there",
    ),
    "claim": (
        mounted(persistentVolumeClaim={"claimName": "nowhere"}),
        "normal",
        "CONFIGURATION_ERROR",
        "the PersistentVolumeClaim nowhere is not there",
    ),
    "variable": (
        environment(configMapKeyRef={"name": "nowhere", "key": "x"}),
        "normal",
        "CONFIGURATION_ERROR",
        "the ConfigMap nowhere is not there",
    ),
    "class": ({"priorityClassName": "nowhere"}, "normal", "CONFIGURATION_ERROR", "there is no PriorityClass nowhere"),
    "quota": (
        {"priorityClassName": f"{RELEASE}-low"},
        "low",
        "CONFIGURATION_ERROR",
        "asks for pods=1, and the quota nothing-low allows pods=0",
    ),
}
HANDLER_RUNS = ("memory",)  # what keeps the others' pods from starting is in the exit handler's, too


@pytest.fixture(scope="module")
def stuck(cluster: None) -> Iterator[dict[str, str]]:
    """Fault -> name of its workflow. All are submitted at once."""
    scope = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [f"{RELEASE}-low"]}]}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "nothing-low"},
        "spec": {"hard": {"pods": "0"}, "scopeSelector": scope},
    }
    kubectl("-n", NAMESPACE, "apply", "-f", "-", given=json.dumps(quota))
    names = {fault: submitted(fault, patch, priority) for fault, (patch, priority, _, _) in FAULTS.items()}
    yield names
    kubectl("-n", NAMESPACE, "delete", "resourcequota", "nothing-low")


def submitted(fault: str, patch: dict[str, Any], priority: str) -> str:
    """Submits a job with a podSpecPatch. Returns its name."""
    parameters = [("input", "s3://sixview/inputs/mug"), ("priority", priority)]
    spec: dict[str, Any] = {
        "workflowTemplateRef": {"name": RELEASE},
        "arguments": {"parameters": [{"name": name, "value": value} for name, value in parameters]},
    }
    if patch:
        spec["podSpecPatch"] = json.dumps(patch)
    made = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": f"sixview-stuck-{fault}-", "labels": {"app.kubernetes.io/name": "sixview"}},
        "spec": spec,
    }
    created = kubectl("-n", NAMESPACE, "create", "-f", "-", "-o", "json", given=json.dumps(made)).stdout
    return str(json.loads(created)["metadata"]["name"])


def test_a_waiting_job_shows_its_reason(stuck: dict[str, str]) -> None:
    """In the command's status, which HTTP and the page show too, and in doctor's findings."""
    name = stuck["memory"]
    wait_for(lambda: bool(status.waiting_note(workflow(name))), 60, "the reason to be told")
    shown = sixview("status", job(name)).stdout
    if workflow(name)["status"]["phase"] not in ENDED:
        assert FAULTS["memory"][3] in shown
        assert "The job ends as UNSCHEDULABLE at" in shown


@pytest.mark.parametrize("fault", FAULTS)
def test_a_job_that_cannot_start_ends_with_its_code_and_gives_its_place_free(stuck: dict[str, str], fault: str) -> None:
    *_, code, words = FAULTS[fault]
    wf = finished(stuck[fault], 240)
    job_status = status.of_workflow(wf)
    assert (job_status["status"], job_status["error"]["code"]) == ("failed", code), job_status
    assert words in job_status["error"]["message"]
    assert job_status["error"]["suggestion"]
    assert not job_status["note"], "it no longer waits"
    assert not wf["status"].get("synchronization", {}).get("semaphore", {}).get("holding"), "its place is free"
    if fault in HANDLER_RUNS:
        assert record_of(wf)["error-code"] == labels_of(wf)["error-code"] == code


def test_the_doctor_names_what_the_installation_cannot_do(cluster: None) -> None:
    process = sixview("doctor", "--template", RELEASE)
    assert process.returncode == 1
    assert "no node can take validate: it asks for" in process.stdout
    assert "Lower steps.validate.memoryMiB" in process.stdout
    assert "the secret sixview-stuck-s3" in process.stdout


def test_unknown_access_keys_and_a_missing_bucket_are_distinguished(cluster: None) -> None:
    wrong = sixview("doctor", "--template", "sixview-cpu", AWS_ACCESS_KEY_ID="nobody")
    assert "the store does not know the access key" in wrong.stdout
    forged = sixview("doctor", "--template", "sixview-cpu", AWS_SECRET_ACCESS_KEY="wrong")
    assert "the secret key does not belong to the access key" in forged.stdout
    nowhere = sixview("doctor", "--template", "sixview-cpu", S3_BUCKET="no-such-bucket")
    assert "there is no such bucket" in nowhere.stdout
    away = sixview("doctor", "--template", "sixview-cpu", S3_ENDPOINT="http://127.0.0.1:9")
    assert "the store cannot be reached" in away.stdout
