"""Why a pod does not start, from pods, events, nodes and workflows as Kubernetes 1.28 to 1.34 and Argo 3.7 write them. On a real
cluster: tests/cluster/test_waiting.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.jobs import pending, placement
from pipeline.jobs.pending import Wait

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GPU = "nvidia.com/gpu"


def pod(message: str = "", node: str = "", memory: str = "8192Mi", gpus: int = 0, **spec: Any) -> dict[str, Any]:
    """A pending pod of nvdiffrec. message: of the scheduler; node: spec.nodeName."""
    limits = {"memory": memory} | ({GPU: str(gpus)} if gpus else {})
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {
        "metadata": {
            "name": "sixview-j-nvdiffrec-pod-1",
            "uid": "u",
            "creationTimestamp": "2026-01-01T11:00:00Z",
            "annotations": {"sixview.dev/step": "nvdiffrec-pod"},
        },
        "spec": {
            "nodeName": node or None,
            "containers": [
                {"name": "wait", "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
                {"name": "main", "resources": {"requests": {"cpu": "1", "memory": memory}, "limits": limits}},
            ],
            **spec,
        },
        "status": {"phase": "Pending", "conditions": [waits] if message else []},
    }


def node(name: str = "n1", memory: str = "32867328Ki", gpus: int = 0, **spec: Any) -> placement.Node:
    """The scheduling data of a Node manifest."""
    allocatable = {"cpu": "8", "memory": memory, "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
    return placement.parse_node(
        {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **spec.pop("labels", {})}},
            "spec": spec,
            "status": {"allocatable": allocatable, "capacity": allocatable},
        }
    )


# -- the scheduler -------------------------------------------------------------------------------------------------------

BUSY = [  # 1.28, 1.31, 1.34
    "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 No preemption victims found for "
    "incoming pod..",
    "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {team: a}. "
    "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for "
    "scheduling.",
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1 "
    "nodes are available: 1 No "
    "preemption victims found for incoming pod.",
    "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims "
    "found for incoming pod.",
]


@pytest.mark.parametrize("message", BUSY)
@pytest.mark.parametrize("nodes", [[node(gpus=1)], None], ids=["nodes", "words"])
def test_a_node_that_is_merely_busy_is_no_fault(message: str, nodes: list[placement.Node] | None) -> None:
    wait = pending.of_pod(pod(message, gpus=1), nodes=nodes)
    assert wait is not None
    assert wait.code == ""
    assert wait.reason.startswith("nvdiffrec-pod waits: no node has enough ")


def test_how_many_nodes_are_busy_does_not_change_the_sentence() -> None:
    texts = [pending.busy_reason("x", f"0/{n} nodes are available: {n} node(s) were unschedulable.") for n in (1, 7)]
    assert texts == ["x waits: no node takes it at the moment (node(s) were unschedulable)."] * 2


NEVER: list[tuple[str, dict[str, Any], list[placement.Node], str, str]] = [
    ("Insufficient memory", pod("m", memory="65536Mi"), [node()], "64.06 GiB of memory", "retries.mostMemoryMiB"),
    ("no GPU", pod("m", gpus=1), [node()], f"1 {GPU}, and no node has any", "steps.nvdiffrec.gpus=0"),
    ("too few GPUs", pod("m", gpus=4), [node(gpus=2)], f"4 {GPU}, and the largest node, n1, has 2", "device plugin"),
    ("selector", pod("m", nodeSelector={"gpu": "h200"}), [node()], "(gpu=h200)", "nodeSelector"),
    (
        "taint",
        pod("m"),
        [node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])],
        "(team=a:NoSchedule)",
        "tolerations",
    ),
]


@pytest.mark.parametrize(("kind", "waiting", "nodes", "words", "advice"), NEVER, ids=[row[0] for row in NEVER])
def test_what_no_node_can_ever_take_is_a_fault(
    kind: str, waiting: dict[str, Any], nodes: list[placement.Node], words: str, advice: str
) -> None:
    wait = pending.of_pod(waiting, nodes=nodes)
    assert wait is not None
    assert wait.code == "UNSCHEDULABLE"
    assert words in wait.reason
    assert advice in wait.advice


def test_the_largest_node_is_named() -> None:
    wait = pending.of_pod(pod("m", memory="65536Mi"), nodes=[node("small", "8Gi"), node("large", "32Gi")])
    assert wait is not None
    assert "the largest node, large, has 32 GiB of memory" in wait.reason


def test_a_node_that_is_drained_lost_or_under_pressure_comes_back() -> None:
    passing = [{"key": f"node.kubernetes.io/{k}", "effect": "NoSchedule"} for k in ("unschedulable", "disk-pressure")]
    wait = pending.of_pod(pod("0/1 nodes are available: 1 node(s) were unschedulable."), nodes=[node(taints=passing)])
    assert wait == Wait(
        "nvdiffrec-pod", "", "nvdiffrec-pod waits: no node takes it at the moment (node(s) were unschedulable)."
    )


def test_a_device_plugin_that_restarts_takes_no_gpu_away() -> None:
    amounts = {"cpu": "8", "memory": "32Gi", GPU: "1"}
    restarting = {"metadata": {"name": "n"}, "status": {"capacity": amounts, "allocatable": {**amounts, GPU: "0"}}}
    wait = pending.of_pod(pod(BUSY[2], gpus=1), nodes=[placement.parse_node(restarting)])
    assert wait is not None
    assert wait.code == ""


def test_a_toleration_opens_a_tainted_node() -> None:
    tainted = node(gpus=1, taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    tolerating = pod(BUSY[2], gpus=1, tolerations=[{"key": GPU, "operator": "Exists"}])
    assert pending.of_pod(tolerating, nodes=[tainted]).code == ""  # type: ignore[union-attr]


def test_only_nodes_that_failed_it_are_left() -> None:
    """The second attempt on a single node, with Argo's retry anti-affinity."""
    rule = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    again = pod("m", affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}})
    wait = pending.of_pod(again, nodes=[node()])
    assert wait is not None
    assert wait.code == "UNSCHEDULABLE"
    assert "only nodes are left on which it failed before (n1)" in wait.reason
    assert "retries.anotherNode=false" in wait.advice
    assert pending.of_pod(again, nodes=[node(), node("n2")]).code == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 "
        "Preemption is not helpful for scheduling..",
        "0/3 nodes are available: 3 node(s) had untolerated taint {team: a}. preemption: 0/3 nodes are "
        "available: 3 Preemption is not "
        "helpful for scheduling.",
        "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: 1 "
        "Preemption is not helpful for scheduling.",
    ],
)
def test_without_the_right_to_read_nodes_the_scheduler_s_words_tell(message: str) -> None:
    wait = pending.of_pod(pod(message), nodes=None)
    assert wait is not None
    assert wait.code == "UNSCHEDULABLE"
    assert "reemption" not in wait.reason


def test_an_unavailable_scheduler_is_reported() -> None:
    young = pending.of_pod(pod(), nodes=[], now=NOW - timedelta(hours=1))
    late = pending.of_pod(pod(), nodes=[], now=NOW)
    assert young is None
    assert late == Wait("nvdiffrec-pod", "", "nvdiffrec-pod waits: the scheduler has not looked at its pod yet.")


# -- what the installation lacks ------------------------------------------------------------------------------------------


def event(reason: str, message: str, at: str = "2026-01-01T11:01:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "type": "Warning", "lastTimestamp": at}


MISSING = [
    (
        "FailedMount",
        'MountVolume.SetUp failed for volume "sixview-s3" : secret "sixview-s3" not found',
        "the secret sixview-s3",
    ),
    (
        "FailedMount",
        'MountVolume.SetUp failed for volume "s3" : references non-existent secret key: access-key',
        "key access-key",
    ),
    (
        "FailedMount",
        'MountVolume.SetUp failed for volume "c" : configmap "sixview-x" not found',
        "the ConfigMap sixview-x is not there",
    ),
    (
        "FailedMount",
        "Unable to attach or mount volumes: unmounted volumes=[weights], unattached volumes=[], failed to "
        "process volumes=[weights]: "
        'error processing PVC sixview/mine: failed to fetch PVC from API server: persistentvolumeclaims "mine" not found',
        "the PersistentVolumeClaim mine is not there",
    ),
    (
        "FailedMount",
        'MountVolume.SetUp failed for volume "weights" : mount failed: exit status 32 Mounting command: mount '
        "... Connection timed out",
        "Connection timed out",
    ),
    (
        "FailedAttachVolume",
        'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node and '
        "can't be attached to another",
        "a volume is in use on another node",
    ),
    (
        "FailedCreatePodSandBox",
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "
        '"a": plugin type="calico" '
        "failed (add): unauthorized",
        "its node cannot set up",
    ),
    (
        "NetworkNotReady",
        "network is not ready: container runtime network not ready: NetworkReady=false",
        "its node cannot set up",
    ),
]


@pytest.mark.parametrize(("reason", "message", "words"), MISSING)
def test_a_scheduled_pod_without_containers_is_explained_by_its_events(reason: str, message: str, words: str) -> None:
    wait = pending.of_pod(pod(node="n1"), [event("Scheduled", "ok", "2026-01-01T11:00:00Z"), event(reason, message)])
    assert wait is not None
    assert wait.code == "CONFIGURATION_ERROR"
    assert words in wait.reason


def test_an_older_event_of_a_corrected_fault_is_ignored() -> None:
    late = event("Pulling", "Pulling image", "2026-01-01T11:05:00Z")
    assert pending.of_pod(pod(node="n1"), [event(*MISSING[0][:2]), late]) is None


def waiting_container(reason: str, message: str) -> dict[str, Any]:
    manifest = pod(node="n1")
    state = {"waiting": {"reason": reason, "message": message}}
    manifest["status"]["initContainerStatuses"] = [
        {"name": "init", "image": "x/argoexec:1", "state": {"terminated": {}}}
    ]
    manifest["status"]["containerStatuses"] = [
        {"name": "wait", "image": "x/argoexec:1", "state": {"waiting": {"reason": "PodInitializing"}}},
        {"name": "main", "image": "x/y:1", "state": state},
    ]
    return manifest


@pytest.mark.parametrize(
    ("reason", "message", "code", "words"),
    [
        (
            "ErrImagePull",
            "rpc error: code = NotFound",
            "IMAGE_UNAVAILABLE",
            "The image x/y:1 could not be had: ErrImagePull.",
        ),
        ("ImagePullBackOff", 'Back-off pulling image "x/y:1"', "IMAGE_UNAVAILABLE", "x/y:1"),
        ("ErrImageNeverPull", "not present with pull policy of Never", "IMAGE_UNAVAILABLE", "x/y:1"),
        (
            "CreateContainerConfigError",
            'secret "sixview-s3" not found',
            "CONFIGURATION_ERROR",
            "the secret sixview-s3 is not there",
        ),
        (
            "CreateContainerConfigError",
            "couldn't find key access-key in Secret sixview/sixview-s3",
            "CONFIGURATION_ERROR",
            "the secret sixview-s3 has no key access-key",
        ),
        (
            "CreateContainerConfigError",
            'configmap "c" not found',
            "CONFIGURATION_ERROR",
            "the ConfigMap c is not there",
        ),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
            "CONFIGURATION_ERROR",
            "runAsNonRoot",
        ),
        ("CreateContainerError", "context deadline exceeded", "CONFIGURATION_ERROR", "CreateContainerError"),
    ],
)
def test_a_container_that_cannot_be_created_is_explained_by_its_state(
    reason: str, message: str, code: str, words: str
) -> None:
    wait = pending.of_pod(waiting_container(reason, message))
    assert wait is not None
    assert (wait.code, words in wait.reason) == (code, True)


def test_a_starting_pod_has_no_reason_to_wait() -> None:
    assert pending.of_pod(waiting_container("PodInitializing", "")) is None
    assert pending.of_pod(waiting_container("ContainerCreating", "")) is None


@pytest.mark.parametrize(
    "message",
    [
        '0/1 nodes are available: persistentvolumeclaim "nowhere" not found. not found',
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are "
        "available: 1 Preemption "
        "is not helpful for scheduling..",
        "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.",
        "0/1 nodes are available: 1 node(s) had volume node affinity conflict.",
    ],
)
def test_a_claim_that_cannot_be_used_is_no_matter_of_nodes(message: str) -> None:
    assert pending.of_pod(pod(message), nodes=[node()]).code == "CONFIGURATION_ERROR"  # type: ignore[union-attr]
