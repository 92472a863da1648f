"""Regular expressions for the messages of Argo's controller, the kubelet and minio-go in a failed node.

Argo copies the pod's `status.message` where there is one, else it names the container that failed (`inferFailedReason` in
workflow/controller/operator.go of Argo 3.7.18). The same expressions are used in `retryStrategy.expression`: so they are limited
to the common syntax of Go's RE2 and Python's re, without quotes and backslashes. Kubernetes' messages are the same in 1.28.15 and
1.34.4; file names are those of 1.34.4, below pkg/."""

from __future__ import annotations

import re
from typing import Any

# a container's exit code when a signal ended its first process: 128 + its number
SIGKILLED = 137
SIGTERMED = 143  # before the step could set its handler

# -- of Kubernetes and Argo ---------------------------------------------------------------------------------------------

_LOST = (
    "pod deleted",  # Argo, operator.go podReconciliation: the pod is gone, without a final status
    "find failed message for pod",  # Argo, inferFailedReason: a failed pod without a container's status
    "(main|wait) (container did not complete|nor wait container completed) successfully",  # the same: no container's end is known
    "container starts due to (ContainerCreating|PodInitializing)",  # the same: failed by others before it began
    "the node was low on resource",  # kubelet/eviction/helpers.go nodeLowMessageFmt
    "the node had condition",  # kubelet/eviction/helpers.go nodeConditionMessageFmt, of a pod that is not admitted
    "pod was rejected",  # kubelet/kubelet.go rejectPod, and nodeshutdown/nodeshutdown_manager.go
    "allocate failed due to",  # kubelet/cm/admission/errors.go: a device that is not there any more
    "cannot be allocated with topology locality",  # kubelet/cm/topologymanager/topology_manager.go
    "SMT alignment error",  # kubelet/cm/cpumanager/policy_static.go
    "have enough resource",  # kubelet/lifecycle/predicate.go InsufficientResourceError
    "which is unexpected",  # kubelet/lifecycle/predicate.go
    "preempt",  # kubelet/preemption/preemption.go; scheduler/framework/preemption/preemption.go
    "node shutdown|node is shutting down",  # kubelet/nodeshutdown/nodeshutdown_manager.go
    "is unresponsive|node ?lost",  # util/node/node.go NodeUnreachablePodMessage and its reason
    "node no longer exists",  # controller/podgc/gc_controller.go
    "noexecute taint",  # controller/tainteviction/taint_eviction.go
    "evict",  # registry/core/pod/storage/eviction.go, and the reason Evicted
    "could not be located when the pod was",  # kubelet/kubelet_pods.go, exit code 137: a node that began anew
    "Unknown [(]exit code 255[)]",  # containerd, of what ran when the node went down
)
LOST = f"(?i){'|'.join(_LOST)}"
# kubelet/active_deadline.go; Argo, exec_control.go and operator.go. Not Go's "context deadline exceeded", a request timeout
DEADLINE = "(?i)(specified|its|workflow) deadline"
# the pod's own limit on disk: kubelet/eviction/helpers.go emptyDirMessageFmt, containerEphemeralStorageMessageFmt, podEphemeral…
DISK_LIMIT = "(?i)usage of emptydir volume|exceeded its local ephemeral storage limit|local storage usage exceeds the total limit"
# kubelet/kuberuntime, containerd and the NVIDIA container toolkit, of a container that cannot be started with its GPU
NO_GPU = "(?i)(start|cannotrun|create).*(nvidia|nvml|libcuda)"
# kubelet/images/types.go
NO_IMAGE = "ImagePull|ErrImage|InvalidImageName"

# -- of the store -------------------------------------------------------------------------------------------------------

# minio-go prints the server's message without its code, so both AWS's and MinIO's messages are listed. Others are transient
# (connection refused, timeouts, SlowDown, 5xx)
NO_SUCH_KEY = "(?i)specified key does not exist|no ?such ?key|no key found of name"
NO_SUCH_BUCKET = "(?i)specified bucket (does not exist|is not valid)|no ?such ?bucket"
# minio-go, pkg/s3utils; InvalidObjectName and KeyTooLongError of the servers
INVALID_NAME = "(?i)(bucket|object) name (is|cannot|can not|contains|too)|your key is too long"
# PermanentRedirect, AuthorizationHeaderMalformed, InvalidRegion
OTHER_REGION = (
    "(?i)addressed using the specified endpoint|permanent ?redirect|the region .* is wrong|region does not match"
)
# AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch, ExpiredToken, AllAccessDisabled, AWS's IAM
ACCESS_DENIED = (
    "(?i)access ?denied|is not authorized to perform|access ?key ?id|request signature we calculated|signature ?does ?not ?match"
    "|(security )?token (included in the request )?(has|is) (expired|invalid)|access .* has been disabled"
)
STORAGE = "(?i)artifact|s3|bucket|failed to (put|get|load|save|stat)|connection refused"

# another attempt may succeed, perhaps on another node
RETRYABLE = f"{LOST}|{NO_GPU.removeprefix('(?i)')}"
# another attempt would fail in the same way
NOT_RETRYABLE = "|".join(
    (
        DEADLINE,
        *(
            p.removeprefix("(?i)")
            for p in (DISK_LIMIT, NO_SUCH_KEY, NO_SUCH_BUCKET, INVALID_NAME, OTHER_REGION, ACCESS_DENIED)
        ),
    )
)

# -- of a pod's own status ----------------------------------------------------------------------------------------------

# status.reason: kubelet/eviction, preemption, nodeshutdown; util/node/node.go
DISRUPTION_REASONS = (
    "Evicted",
    "Preempting",
    "NodeShutdown",
    "Terminated",
    "Shutdown",
    "NodeLost",
    "NodeAffinity",
    "UnexpectedAdmissionError",
)


def matches(pattern: str, message: str) -> bool:
    """Whether a message matches one of the patterns of this module."""
    return re.search(pattern, message) is not None


def disruption(pod: dict[str, Any]) -> str:
    """Reason and message in a pod's status where Kubernetes ended the pod; "" where the status has none.

    The condition DisruptionTarget has the reasons EvictionByEvictionAPI, DeletionByTaintManager, DeletionByPodGC,
    PreemptionByScheduler and TerminationByKubelet."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return ": ".join(t for t in (condition.get("reason"), condition.get("message")) if t)
    if status.get("reason") in DISRUPTION_REASONS:
        return ": ".join(t for t in (status["reason"], status.get("message")) if t)
    return ""
