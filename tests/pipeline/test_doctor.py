"""doctor's findings on an installation from which one object at a time is missing. On a real cluster: tests/cluster."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as s3

from pipeline import installation
from pipeline.clients import s3_errors
from pipeline.installation import Finding, Forbidden
from pipeline.workflow.dag import workflow_template
from pipeline.workflow.settings import Settings

TEMPLATE = workflow_template(Settings(weights_claim="weights"))


class MemoryReader:
    """A Reader over objects in memory: (kind, name) -> object. hidden: kinds that may not be read."""

    namespace = "sixview"

    def __init__(self, objects: dict[tuple[str, str], dict[str, Any]], hidden: tuple[str, ...] = ()) -> None:
        self.objects, self.hidden = objects, hidden

    def core_object(self, kind: str, name: str) -> dict[str, Any] | None:
        if kind in self.hidden:
            raise Forbidden
        return self.objects.get((kind, name))

    def argo_object(self, plural: str, name: str) -> dict[str, Any] | None:
        return self.core_object(plural, name)

    def priority_class(self, name: str) -> dict[str, Any] | None:
        return self.core_object("priority_class", name)

    def all(self, kind: str) -> list[dict[str, Any]]:
        if kind in self.hidden:
            raise Forbidden
        return [manifest for (of, _), manifest in self.objects.items() if of == kind]

    def deployments(self) -> list[dict[str, Any]]:
        return self.all("deployment")

    def resource_quotas(self) -> list[dict[str, Any]]:
        return self.all("resource_quota")

    def nodes(self) -> list[dict[str, Any]]:
        return self.all("node")


def deployment(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"replicas": 1}, "status": {"readyReplicas": 1}}


def installed() -> dict[tuple[str, str], dict[str, Any]]:
    """All objects of the chart with gateway, events and weights, on one node with a GPU."""
    there: dict[str, Any] = {"metadata": {}}
    gives = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "1"}
    accounts = ("step", "report", "reconciler", "gateway", "sensor")
    return {
        ("secret", "sixview-s3"): {"data": {"access-key": "", "secret-key": ""}},
        ("secret", "sixview-step.service-account-token"): {"data": {"token": ""}},
        ("config_map", "sixview-artifacts"): {"data": {"default": ""}},
        ("config_map", "sixview-limits"): {"data": {"running-jobs": "8"}},
        ("persistent_volume_claim", "weights"): {"status": {"phase": "Bound"}},
        ("resource_quota", "gpus"): {
            "metadata": {"name": "gpus"},
            "status": {"hard": {"pods": "9"}, "used": {"pods": "1"}},
        },
        ("node", "n1"): {"metadata": {"name": "n1"}, "status": {"allocatable": gives, "capacity": gives}},
        ("deployment", "reconciler"): deployment("sixview-reconciler"),
        ("deployment", "gateway"): deployment("sixview-gateway"),
        ("deployment", "source"): deployment("x", **{"eventsource-name": "sixview-drops"}),
        ("deployment", "sensor"): deployment("y", **{"sensor-name": "sixview-drops"}),
        ("eventsources", "sixview-drops"): there,
        ("sensors", "sixview-drops"): there,
        ("eventbus", "sixview"): there,
        ("cronworkflows", "sixview-drops"): there,
        **{("priority_class", f"sixview-{which}"): there for which in ("low", "normal", "high")},
        **{("service_account", f"sixview-{account}"): there for account in accounts},
    }


def findings_of(objects: dict[tuple[str, str], dict[str, Any]], *hidden: str) -> list[Finding]:
    return list(installation.examine_parts(MemoryReader(objects, hidden), "sixview", TEMPLATE))  # type: ignore[arg-type]


def test_a_whole_installation_has_no_fault() -> None:
    assert [finding for finding in findings_of(installed()) if finding.ok is not True] == []


PARTS = [
    (("secret", "sixview-s3"), "the secret sixview-s3 is not there", "create secret generic sixview-s3"),
    (("secret", "sixview-step.service-account-token"), "step.service-account-token is not there", "chart again"),
    (("config_map", "sixview-artifacts"), "the ConfigMap sixview-artifacts is not there", "chart again"),
    (("config_map", "sixview-limits"), "the ConfigMap sixview-limits is not there", "chart again"),
    (("service_account", "sixview-report"), "the service account sixview-report is not there", "chart again"),
    (("service_account", "sixview-step"), "the service account sixview-step is not there", "chart again"),
    (("priority_class", "sixview-high"), "there is no PriorityClass sixview-high", "priorityClasses.create"),
    (("persistent_volume_claim", "weights"), "the PersistentVolumeClaim weights is not there", "weights.claim"),
    (("deployment", "reconciler"), "the reconciler is not there", "chart again"),
    (("deployment", "gateway"), "the gateway is not there", "chart again"),
    (("eventsources", "sixview-drops"), "the EventSource sixview-drops is not there", "chart again"),
    (("sensors", "sixview-drops"), "the Sensor sixview-drops is not there", "chart again"),
    (("deployment", "sensor"), "the Sensor sixview-drops is not there", "chart again"),
    (("eventbus", "sixview"), "the EventBus sixview is not there", "chart again"),
    (("cronworkflows", "sixview-drops"), "the CronWorkflow sixview-drops is not there", "chart again"),
]


@pytest.mark.parametrize(("part", "words", "advice"), PARTS, ids=["/".join(row[0]) for row in PARTS])
def test_each_part_that_is_missing_is_found(part: tuple[str, str], words: str, advice: str) -> None:
    objects = installed()
    del objects[part]
    (fault,) = [finding for finding in findings_of(objects) if finding.ok is False]
    assert words in fault.what
    assert advice in fault.advice


DAMAGES: list[tuple[tuple[str, str], dict[str, Any], str]] = [
    (("secret", "sixview-s3"), {"data": {"access-key": ""}}, "the secret sixview-s3 has no secret-key"),
    (("config_map", "sixview-limits"), {"data": {}}, "the ConfigMap sixview-limits has no running-jobs"),
    (
        ("persistent_volume_claim", "weights"),
        {"status": {"phase": "Lost"}},
        "the PersistentVolumeClaim weights is Lost",
    ),
    (("deployment", "gateway"), {**deployment("sixview-gateway"), "status": {}}, "the gateway is down"),
    (
        ("deployment", "reconciler"),
        {**deployment("sixview-reconciler"), "spec": {"replicas": 0}},
        "is scaled to nothing",
    ),
    (
        ("deployment", "sensor"),
        {**deployment("y", **{"sensor-name": "sixview-drops"}), "status": {}},
        "the Sensor sixview-drops is down",
    ),
    (
        ("eventbus", "sixview"),
        {"status": {"conditions": [{"type": "Deployed", "status": "False", "message": "no such version"}]}},
        "the EventBus sixview is not deployed (no such version)",
    ),
    (("cronworkflows", "sixview-drops"), {"spec": {"suspend": True}}, "the CronWorkflow sixview-drops is suspended"),
    (
        ("node", "n1"),
        {"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "8", "memory": "4Gi", "nvidia.com/gpu": "1"}}},
        "no node can take nvdiffrec-pod: it asks for 8.125 GiB of memory, and the largest node, n1, has 4 GiB of memory",
    ),
]


@pytest.mark.parametrize(("part", "damaged", "words"), DAMAGES, ids=["/".join(row[0]) for row in DAMAGES])
def test_each_part_that_is_damaged_is_found(part: tuple[str, str], damaged: dict[str, Any], words: str) -> None:
    faults = [finding for finding in findings_of(installed() | {part: damaged}) if finding.ok is False]
    assert words in " ".join(fault.what for fault in faults)
    assert all(fault.advice for fault in faults)


def test_a_quota_that_is_used_up_is_worth_knowing_and_no_fault() -> None:
    objects = copy.deepcopy(installed())
    objects["resource_quota", "gpus"]["status"]["used"]["pods"] = "9"
    (quota,) = [finding for finding in findings_of(objects) if finding.ok is not True]
    assert (quota.what, quota.ok) == ("the quota gpus is used up (pods 9): jobs wait", None)


@pytest.mark.parametrize("kind", ["secret", "config_map", "service_account", "priority_class", "node", "deployment"])
def test_objects_that_may_not_be_read_are_reported_as_such(kind: str) -> None:
    findings = findings_of(installed(), kind)
    assert not [finding for finding in findings if finding.ok is False]
    assert [
        finding for finding in findings if finding.ok is None and finding.what.endswith("may not be looked at here")
    ]


def test_what_the_chart_was_installed_without_is_no_fault() -> None:
    objects = {
        part: item
        for part, item in installed().items()
        if part[0] not in ("eventsources", "sensors", "eventbus", "cronworkflows", "deployment")
        and part[1] not in ("sixview-gateway", "sixview-sensor", "sixview-reconciler")
    }
    assert [finding.ok for finding in findings_of(objects) if finding.ok is not True] == [None, None]


# -- the store -----------------------------------------------------------------------------------------------------------


def refusal(code: str) -> s3.ClientError:
    return s3.ClientError({"Error": {"Code": code}}, "ListObjectsV2")


@pytest.mark.parametrize(
    ("error", "words", "advice"),
    [
        (refusal("InvalidAccessKeyId"), "the store does not know the access key", "AWS_ACCESS_KEY_ID"),
        (refusal("SignatureDoesNotMatch"), "the secret key does not belong", "AWS_SECRET_ACCESS_KEY"),
        (refusal("AccessDenied"), "these keys may not do this there", "rights"),
        (refusal("403"), "these keys may not do this there", "rights"),
        (refusal("NoSuchBucket"), "there is no such bucket", "sixview bucket setup"),
        (refusal("AuthorizationHeaderMalformed"), "another region", "AWS_REGION"),
        (s3.NoCredentialsError(), "there are no keys", "AWS_ACCESS_KEY_ID"),
        (s3.EndpointConnectionError(endpoint_url="http://x"), "cannot be reached", "S3_ENDPOINT"),
        (s3.ConnectTimeoutError(endpoint_url="http://x"), "cannot be reached", "S3_ENDPOINT"),
        (s3.SSLError(endpoint_url="https://x", error="self-signed"), "certificate", "AWS_CA_BUNDLE"),
        (ValueError("Invalid endpoint: x"), "address is not a valid one", "S3_ENDPOINT"),
    ],
)
def test_the_store_s_refusals_are_told_apart(error: Exception, words: str, advice: str) -> None:
    message, suggested = s3_errors.explain(error)
    assert words in message
    assert advice in suggested


# -- a reader that has had enough -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["render"], ["completion", "bash"]])
def test_a_reader_that_closes_early_is_no_error(words: list[str]) -> None:
    """As in `sixview status X | head -1`."""
    command = [str(Path(sys.executable).with_name("sixview")), *words]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
