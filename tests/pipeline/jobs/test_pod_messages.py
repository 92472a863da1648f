"""Messages of Kubernetes, Argo and S3 stores, verbatim, and the error codes that follow from them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.jobs import pod_messages
from pipeline.jobs.failure import describe
from pipeline.workflow.settings import Settings
from pipeline.workflow.step_templates import retry_strategy
from steps.runtime.errors import Interrupted, Killed, ModelFailed, StepError
from tests.pipeline.incluster.test_exit_handler import failed, node, workflow

LOST = [
    # Kubernetes 1.28.15 and 1.34.4, kubelet
    "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi. ",
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi. Container main was "
    "using 4Gi, request is 3Gi, "
    "has larger consumption of memory. ",
    "Pod was rejected: The node had condition: [DiskPressure]. ",
    "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy devices "
    "nvidia.com/gpu, which is "
    "unexpected",
    "Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. "
    "Requested: 1, Available: 0, "
    "which is unexpected",
    "Pod was rejected: Resources cannot be allocated with Topology locality",
    "Pod was rejected: SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
    "Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: 1000, capacity: 2000",
    "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    "Pod was rejected: Update plugin resources failed due to x, which is unexpected.",
    "Pod was rejected: GeneralPredicates failed due to unknown reason, which is unexpected.",
    "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error "
    "finding a set of pods",
    "Pod was rejected as the node is shutting down.",
    "Pod was terminated in response to imminent node shutdown.",
    "Preempted in order to admit critical pod",
    "main: ContainerStatusUnknown (exit code 137): The container could not be located when the pod was terminated",
    "main: ContainerStatusUnknown (exit code 137): The container could not be located when the pod was "
    "deleted.  The container used to "
    "be Running",
    # containerd
    "main: Unknown (exit code 255)",
    "init: Unknown (exit code 255)",
    # controllers
    "Node worker-1 which was running pod sixview-x-validate-1 is unresponsive",
    # Argo 3.7.18
    "pod deleted",
    "can't find failed message for pod sixview-x-validate-1 namespace sixview",
    "pod failed: neither main nor wait container completed successfully",
    "pod failed: wait container did not complete successfully",
    "pod failed: main container did not complete successfully",
    "Pod failed before init container starts due to PodInitializing: ",
    "Pod failed before main container starts due to ContainerCreating: ",
]
CONDITIONS = [
    ("EvictionByEvictionAPI", "Eviction API: evicting"),
    ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
    ("DeletionByPodGC", "PodGC: node no longer exists"),
    ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
    ("TerminationByKubelet", "Pod was preempted by Kubelet to accommodate a critical pod."),
]
LIMITS = [
    'Usage of EmptyDir volume "work" exceeds the limit "1Gi". ',
    'Container main exceeded its local ephemeral storage limit "2Gi". ',
    "Pod ephemeral local storage usage exceeds the total limit of containers 4Gi. ",
]
LATE = ["Pod was active on the node longer than the specified deadline", "Step exceeded its deadline"]
INPUT = "init: Error (exit code 64): artifact input failed to load: "
UNUSABLE_INPUT = {  # message -> code and what its words contain
    "The specified key does not exist.": ("VALIDATION_FAILED", "Nothing lies at s3://b/k"),
    "failed to get file: The specified bucket does not exist": ("VALIDATION_FAILED", "no bucket 'b'"),
    "failed to get file: The specified bucket does not exist.": ("VALIDATION_FAILED", "no bucket 'b'"),
    "failed to get file: The specified bucket is not valid.": ("VALIDATION_FAILED", "no bucket 'b'"),
    "failed to get file: Bucket name contains invalid characters": ("VALIDATION_FAILED", "cannot be an address"),
    "failed to get file: Bucket name cannot be shorter than 3 characters": (
        "VALIDATION_FAILED",
        "cannot be an address",
    ),
    "failed to get file: Object name contains unsupported characters.": ("VALIDATION_FAILED", "cannot be an address"),
    "failed to get file: Your key is too long": ("VALIDATION_FAILED", "cannot be an address"),
    "failed to get file: The bucket you are attempting to access must be addressed using the specified "
    "endpoint. Please send all "
    "future requests to this endpoint.": ("VALIDATION_FAILED", "another region"),
    "failed to get file: The authorization header is malformed; the region 'us-east-1' is wrong; expecting "
    "'eu-west-1'": (
        "VALIDATION_FAILED",
        "another region",
    ),
    "failed to get file: Region does not match, expecting region ‘eu-west-1’.": ("VALIDATION_FAILED", "another region"),
    "failed to get file: Access Denied.": ("STORAGE_UNAVAILABLE", "does not let the installation's keys read s3://b/k"),
    "failed to get file: User: arn:aws:iam::1:user/x is not authorized to perform: s3:GetObject": (
        "STORAGE_UNAVAILABLE",
        "keys",
    ),
    "failed to get file: The AWS Access Key Id you provided does not exist in our records.": (
        "STORAGE_UNAVAILABLE",
        "keys",
    ),
    "failed to get file: The Access Key Id you provided does not exist in our records.": (
        "STORAGE_UNAVAILABLE",
        "keys",
    ),
    "failed to get file: The request signature we calculated does not match the signature you provided. Check "
    "your key and signing "
    "method.": ("STORAGE_UNAVAILABLE", "keys"),
    "failed to get file: The provided token has expired.": ("STORAGE_UNAVAILABLE", "keys"),
    "failed to get file: The security token included in the request is invalid": ("STORAGE_UNAVAILABLE", "keys"),
}
ANOTHER_TIME = [
    'failed to get file: Get "http://minio:9000/sixview/?location=": dial tcp 10.96.0.1:9000: connect: connection refused',
    'failed to get file: Get "https://s3.amazonaws.com/b/k": dial tcp: lookup s3.amazonaws.com: i/o timeout',
    "failed to get file: Please reduce your request rate.",
    "failed to get file: 503 Service Unavailable",
    "failed to get file: We encountered an internal error. Please try again.",
    "failed to get file: context deadline exceeded",
    "failed to get file: unexpected EOF",
    "failed to get file: Server not initialized yet, please try again.",
]


def described(one: dict[str, Any], pods: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(describe(workflow(one), pods or [], "Failed")["failure"])
    return record


def tried_again(message: str, exit_code: str = "-1", status: str = "Failed") -> bool:
    """The value of the pods' retryStrategy.expression, which Go evaluates in the cluster."""
    expression = str(retry_strategy(Settings()).expression)
    matches = re.findall(r"lastRetry.message matches '([^']*)'", expression)
    assert expression.endswith(
        f"lastRetry.message matches '{matches[0]}') && !(lastRetry.message matches '{matches[1]}')"
    )
    codes = re.findall(r"'(\d+)'", expression)
    begins = status == "Error" or exit_code in codes or bool(re.search(matches[0], message))
    return begins and not re.search(matches[1], message)


@pytest.mark.parametrize("message", LOST)
def test_a_pod_that_its_node_lost_is_tried_again_and_told_as_lost(message: str) -> None:
    assert tried_again(message)
    for one in (
        node("validate", "Failed", message),
        failed("validate", Interrupted("SIGTERM came."), message),
        failed("validate", Killed("Killed."), message),
    ):
        assert described(one)["code"] == "NODE_LOST"
    assert message.strip().rstrip(".") in described(node("validate", "Failed", message))["message"]


@pytest.mark.parametrize(("reason", "message"), CONDITIONS)
def test_the_reason_in_a_pod_s_status_is_reported(reason: str, message: str) -> None:
    """A drained, tainted or preempted pod has no message of its own: its step ends by SIGTERM, or is killed."""
    pod: dict[str, Any] = {
        "metadata": {"annotations": {"workflows.argoproj.io/node-id": "wf-validate-1"}},
        "status": {
            "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]
        },
    }
    for error in (Interrupted("SIGTERM came."), Killed("Killed.")):
        one = failed("validate", error, f"main: Error (exit code {error.exit_code})")
        assert (described(one, [pod])["code"], reason in described(one, [pod])["message"]) == ("NODE_LOST", True)
    own = failed("validate", ModelFailed("A fault."), "main: Error (exit code 1)")
    assert described(own, [pod])["code"] == "MODEL_FAILED"
    pod["status"] = {"phase": "Failed", "reason": "Evicted"}
    assert described(failed("validate", Killed("Killed."), "main: Error (exit code 26)"), [pod])["code"] == "NODE_LOST"
    pod["status"] = {}
    assert described(failed("validate", Killed("Killed."), "main: Error (exit code 26)"), [pod])["code"] == "KILLED"


def test_a_step_that_was_told_to_end_in_a_job_that_nobody_stopped_has_lost_its_pod() -> None:
    one = failed("reconviagen-pod", Interrupted("SIGTERM came."), "main: Error (exit code 30)", stage="inference")
    record = described(one)
    assert (record["code"], record["details"]["pipeline_stage"]) == ("NODE_LOST", "inference")
    assert tried_again("main: Error (exit code 30)", "30")


@pytest.mark.parametrize("message", LIMITS)
def test_the_pod_s_own_limit_on_disk_is_no_lost_node_and_the_same_on_every_node(message: str) -> None:
    for code in ("-1", "30", "137"):
        assert not tried_again(message, code)
    for one in (node("validate", "Failed", message), failed("validate", Interrupted("SIGTERM came."), message)):
        record = described(one)
        assert (record["code"], "limit" in record["suggestion"]) == ("DISK_FULL", True)


@pytest.mark.parametrize("message", LATE)
def test_a_deadline_is_no_lost_node(message: str) -> None:
    assert not tried_again(message, "30")
    assert described(failed("nvdiffrec-pod", Interrupted("SIGTERM came."), message))["code"] == "MODEL_TIMEOUT"


@pytest.mark.parametrize("message", UNUSABLE_INPUT)
def test_an_unusable_input_is_not_retried_and_says_why(message: str) -> None:
    code, words = UNUSABLE_INPUT[message]
    for full_message in (
        INPUT + message,
        INPUT.replace("artifact input failed to load", "failed to load artifact 'input'") + message,
    ):
        record = described(node("validate", "Error", full_message))
        assert (record["code"], words in record["message"]) == (code, True), record
        assert (record["details"].get("field") == "input") == (code == "VALIDATION_FAILED")
        assert not tried_again(full_message, status="Error")


@pytest.mark.parametrize("message", ANOTHER_TIME)
def test_a_store_that_is_away_or_slow_is_tried_again(message: str) -> None:
    assert tried_again(INPUT + message, status="Error")
    assert described(node("validate", "Error", INPUT + message))["code"] == "STORAGE_UNAVAILABLE"


def test_a_file_between_the_steps_that_is_gone_is_not_the_user_s_input() -> None:
    message = "init: Error (exit code 64): artifact scene failed to load: The specified key does not exist."
    record = described(node("reconviagen-pod", "Error", message))
    assert (record["code"], "earlier step" in record["message"]) == ("STORAGE_UNAVAILABLE", True)
    assert not tried_again(message, status="Error")


def test_a_container_that_cannot_start_with_its_gpu_is_gpu_unavailable() -> None:
    message = (
        "main: StartError (exit code 128): failed to create containerd task: failed to create shim task: OCI "
        "runtime create failed: "
        "error running prestart hook #0: exit status 1, stderr: nvidia-container-cli: initialization error: "
        "nvml error: driver not loaded"
    )
    assert described(node("reconviagen-pod", "Failed", message))["code"] == "GPU_UNAVAILABLE"
    assert tried_again(message)


def test_a_step_s_own_failure_is_neither_lost_nor_tried_again() -> None:
    errors: list[StepError] = [ModelFailed("A fault.")]
    for error in errors:
        message = f"main: Error (exit code {error.exit_code})"
        assert described(failed("reconviagen-pod", error, message))["code"] == error.code
        assert not tried_again(message, str(error.exit_code))


PATTERNS = [
    getattr(pod_messages, name)
    for name in dir(pod_messages)
    if name.isupper() and isinstance(getattr(pod_messages, name), str)
]


def test_the_expressions_need_no_quoting_anywhere() -> None:
    """They stand in quotes of expr-lang, of JSON and of YAML."""
    for pattern in PATTERNS:
        assert not re.search(r"""['"\\{}]""", pattern), pattern
