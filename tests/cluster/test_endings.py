"""Every ending of a job outside of its steps gives the right record. Failures that steps report: test_failures.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients.kubernetes import connect
from pipeline.jobs import records, service
from pipeline.jobs.nodes import step_nodes
from tests.cluster.client import (
    BUCKET,
    argo,
    describe_nodes,
    ended_without_pods,
    finished,
    job,
    labels_of,
    record_of,
    running_pod,
    submit,
    workflow,
)
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import KUBECONFIG, NAMESPACE
from tests.cluster.test_failures import check_record
from tests.conftest import need
from tests.pipeline.jobs.test_pod_messages import (
    ANOTHER_TIME,
    CONDITIONS,
    INPUT,
    LATE,
    LIMITS,
    LOST,
    PATTERNS,
    UNUSABLE_INPUT,
)


@pytest.fixture(scope="module", autouse=True)
def place() -> Any:
    """The commands' way to the cluster and its store."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("KUBECONFIG"):
            patch.setenv("KUBECONFIG", str(KUBECONFIG))
        patch.setenv("S3_BUCKET", BUCKET)
        yield


def patched(patch: dict[str, Any], **parameters: object) -> str:
    """A job whose every pod is patched, as an installation's own limits or a node's change would do it."""
    arguments = {"input": "s3://sixview/inputs/mug", "grid": "64", "faces": "2000", **parameters}
    manifest = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "sixview-patched-", "labels": {"app.kubernetes.io/name": "sixview"}},
        "spec": {
            "workflowTemplateRef": {"name": "sixview-cpu"},
            "arguments": {"parameters": [{"name": name, "value": str(value)} for name, value in arguments.items()]},
            "podSpecPatch": json.dumps(patch),
        },
    }
    made = kubectl("-n", NAMESPACE, "create", "-f", "-", "-o", "name", given=json.dumps(manifest)).stdout
    return made.strip().rpartition("/")[2]


def attempts_of(wf: dict[str, Any], template: str) -> list[dict[str, Any]]:
    return [node for node in step_nodes(wf) if node["templateName"] == template]


# -- pods that the node loses -------------------------------------------------------------------------------------------


def test_a_pod_that_the_kubelet_rejects_is_tried_again(inputs: str) -> None:
    """Bound to the node by a name, past the scheduler, and refused there: as after a node's labels or devices have changed."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}").stdout
    wf = finished(patched({"nodeName": node, "nodeSelector": {"nowhere": "here"}}), 120)
    attempts = attempts_of(wf, "validate")
    assert [bool(re.search("Pod was rejected: .*NodeAffinity", n["message"])) for n in attempts] == [True, True], (
        describe_nodes(wf)
    )
    record = recorded(wf["metadata"]["name"])  # no exit handler could start either
    assert (record["status"], record["error"]["code"]) == ("failed", "NODE_LOST")
    assert labels_of(workflow(wf["metadata"]["name"]))["error-code"] == "NODE_LOST"


def test_a_pod_that_is_evicted_for_its_own_limit_is_not_tried_again(inputs: str) -> None:
    """By Argo, that is: the kubelet leaves a step one second to say that it was interrupted. One that did not get to it looks
    killed, for which a model has another attempt.

    Where the limit ends the exit handler, too, the reconciler writes the record."""
    wf = finished(patched({"volumes": [{"name": "work", "emptyDir": {"sizeLimit": "64Ki"}}]}, seed=7002), 180)
    name = wf["metadata"]["name"]
    lost = next(n for n in step_nodes(wf) if "EmptyDir" in n.get("message", ""))
    attempts = [n["boundaryID"] for n in attempts_of(wf, lost["templateName"])]
    assert len(attempts) == len(set(attempts)) <= 2, describe_nodes(wf)
    record = recorded(name)
    assert record["error"]["code"] == "DISK_FULL"
    assert "limit" in record["error"]["suggestion"]


def test_a_pod_that_a_drain_evicts_is_tried_again_on_the_way_to_a_lost_node(inputs: str) -> None:
    wf = ended_without_pods(submit(seed=7002), "reconviagen-pod", evict)
    check_record(wf, "NODE_LOST", record_of(wf)["stage"])
    assert len(attempts_of(wf, "reconviagen-pod")) == 2, describe_nodes(wf)


def evict(pod: str) -> None:
    """As `kubectl drain` does it."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))


# -- inputs that cannot be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://sixview/inputs/nothing-here", "Nothing lies at"),
        ("s3://no-such-bucket/mug", "no bucket 'no-such-bucket'"),
    ],
)
def test_an_input_that_is_not_there_is_told_at_once(inputs: str, source: str, words: str) -> None:
    wf = finished(submit(source=source), 120)
    record = check_record(wf, "VALIDATION_FAILED", "validation")
    assert words in record["message"]
    assert json.loads(record["failure"])["details"]["field"] == "input"
    assert len(attempts_of(wf, "validate")) == 1, describe_nodes(wf)


# -- Argo's own verbs ---------------------------------------------------------------------------------------------------


def recorded(name: str) -> dict[str, Any]:
    """A job's record, once the reconciler or the exit handler has written it."""
    wait_for(lambda: records.read(job(name)) is not None, 60, f"the record of {name}")
    final = records.read(job(name))
    assert final is not None
    return final


def test_a_deleted_job_leaves_its_record(inputs: str) -> None:
    name = submit(seed=7002)
    running_pod(name, "reconviagen-pod")
    kubectl("-n", NAMESPACE, "delete", "workflow", name)
    record = recorded(name)
    assert (record["status"], record["error"]["code"]) == ("cancelled", "CANCELLED")
    assert "deleted" in record["error"]["message"]


def test_a_terminated_job_leaves_its_record_and_can_be_tried_again(inputs: str) -> None:
    """Its input lies where nobody takes it away; what validate had left went with the cancellation."""
    name = submit(psnr_threshold=5)
    running_pod(name, "reconviagen-pod")
    argo("terminate", name)
    finished(name, 60)
    assert recorded(name)["error"]["code"] == "CANCELLED"
    service.retry(connect(NAMESPACE), job(name))
    wf = finished(name, 300)
    assert wf["status"]["phase"] == "Succeeded", describe_nodes(wf)


def test_a_missed_gate_is_measured_anew_by_a_retry(inputs: str) -> None:
    name = submit(psnr_threshold=99)
    first = finished(name, 300)
    service.retry(connect(NAMESPACE), job(name))
    wf = finished(name, 300)
    check_record(wf, "QUALITY_THRESHOLD_FAILED", "quality_metrics")
    for template, again in (
        ("validate", False),
        ("reconviagen-pod", False),
        ("reconviagen-quality", True),
        ("package", True),
    ):
        begun = [attempts_of(one, template)[-1]["startedAt"] for one in (first, wf)]
        assert (begun[0] != begun[1]) == again, template


def test_a_suspended_job_says_so_and_can_be_cancelled(inputs: str) -> None:
    """Argo itself looks at no suspended workflow, not even at an order to stop it."""
    name = submit(seed=7002)
    running_pod(name, "reconviagen")  # not validate: its pod may come and go between two looks
    argo("suspend", name)
    assert "argo resume" in (service.find(connect(NAMESPACE), job(name))["note"] or "")
    service.cancel(connect(NAMESPACE), job(name))
    assert record_of(finished(name, 120))["error-code"] == "CANCELLED"


# -- the expressions ----------------------------------------------------------------------------------------------------


def test_go_reads_the_expressions_as_python_does(cluster: None, tmp_path: Path) -> None:
    """expr-lang's `matches` is Go's regexp.MatchString. Here, as the cluster's build has compiled Go's own packages already."""
    need(shutil.which("go") is not None, "Go, whose regexp Argo uses")
    messages = [
        *LOST,
        *LIMITS,
        *LATE,
        *(INPUT + m for m in (*UNUSABLE_INPUT, *ANOTHER_TIME)),
        *(m for _, m in CONDITIONS),
    ]
    (tmp_path / "main.go").write_text(
        'package main\nimport ("encoding/json"; "os"; "regexp")\nfunc main() {\n'
        "var in struct{Patterns, Messages []string}; json.NewDecoder(os.Stdin).Decode(&in); out := [][]bool{}\n"
        "for _, p := range in.Patterns { r := regexp.MustCompile(p); row := []bool{}\n"
        "for _, m := range in.Messages { row = append(row, r.MatchString(m)) }; out = append(out, row) }\n"
        "json.NewEncoder(os.Stdout).Encode(out) }\n"
    )
    document = json.dumps({"Patterns": PATTERNS, "Messages": messages})
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=document, capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(done.stdout) == [[bool(re.search(p, m)) for m in messages] for p in PATTERNS]
