"""Error classes of steps and jobs, with code, exit code and advice. Standard library only.

StepError
├── BadInput                   exit 10
│   ├── InvalidFileCount           INVALID_FILE_COUNT
│   ├── FileTooLarge               FILE_TOO_LARGE
│   ├── InvalidFileFormat          INVALID_FILE_FORMAT
│   └── ValidationFailed           VALIDATION_FAILED
├── RigAmbiguous               exit 11, RIG_AMBIGUOUS
├── QualityThresholdFailed     exit 12, QUALITY_THRESHOLD_FAILED
├── IncompleteResults          exit 13, INCOMPLETE_RESULTS
├── WeightsMissing             exit 14, WEIGHTS_MISSING
├── ModelVramOom               exit 20, MODEL_VRAM_OOM
├── ModelOom                   exit 21, MODEL_OOM
├── ModelTimeout               exit 22, MODEL_TIMEOUT
├── GpuUnavailable             exit 23, GPU_UNAVAILABLE
├── ModelConvergenceFailed     exit 24, MODEL_CONVERGENCE_FAILED
├── DiskFull                   exit 25, DISK_FULL
├── Interrupted                exit 30, INTERRUPTED
├── Killed                     exit 26, KILLED (137 where the whole container was killed)
├── ModelFailed                exit 1, MODEL_FAILED
├── UnknownError               exit 1, UNKNOWN_ERROR
└── OutsideError               exit 40: no step can report these of itself, only who watches it from outside
    ├── Cancelled                  CANCELLED
    ├── NodeLost                   NODE_LOST
    ├── ImageUnavailable           IMAGE_UNAVAILABLE
    ├── ConfigurationError         CONFIGURATION_ERROR
    ├── Unschedulable              UNSCHEDULABLE
    ├── StorageUnavailable         STORAGE_UNAVAILABLE
    ├── ClusterUnavailable         CLUSTER_UNAVAILABLE
    ├── JobNotFound                JOB_NOT_FOUND
    ├── JobNotReady                JOB_NOT_READY
    ├── JobExpired                 JOB_EXPIRED
    └── JobFailed                  JOB_FAILED
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

Record = dict[str, Any]


class StepError(Exception):
    """A failure with a code that clients can act on. message: what happened; suggestion: what the user can do; details:
    JSON-ready facts."""

    code: ClassVar[str]
    exit_code: ClassVar[int] = 1
    advice: ClassVar[str] = ""
    keeps_results: ClassVar[bool] = False  # whether what the step had written by then is still put in place

    def __init__(self, message: str, suggestion: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion or self.advice
        self.details = details

    def record(self) -> Record:
        """The failure record: {"code", "message", "suggestion", "details"}."""
        return {
            "code": self.code,
            "message": self.message,
            "suggestion": self.suggestion,
            "details": dict(self.details),
        }


class BadInput(StepError):
    """The input cannot be used as it is. Trying again does not help."""

    exit_code = 10
    code = "VALIDATION_FAILED"


class InvalidFileCount(BadInput):
    code = "INVALID_FILE_COUNT"
    advice = "Give exactly six views and six depth renders: front, back, left, right, top, bottom."


class FileTooLarge(BadInput):
    code = "FILE_TOO_LARGE"
    advice = "Make each file at most 20 MB, for example by a lower resolution or PNG compression."


class InvalidFileFormat(BadInput):
    code = "INVALID_FILE_FORMAT"
    advice = "Save each picture as a real PNG file; renaming another format is not enough."


class ValidationFailed(BadInput):
    code = "VALIDATION_FAILED"
    advice = "Correct the files named in the details and submit again."


class RigAmbiguous(StepError):
    code = "RIG_AMBIGUOUS"
    exit_code = 11
    advice = "Say how the cameras stand in a cameras.json."


class QualityThresholdFailed(StepError):
    code = "QUALITY_THRESHOLD_FAILED"
    exit_code = 12
    keeps_results = True
    advice = "Look at the pictures in the report; check cameras and depth encoding, or lower the thresholds."


class IncompleteResults(StepError):
    code = "INCOMPLETE_RESULTS"
    exit_code = 13
    keeps_results = True
    advice = "Run the steps again whose files are missing."


class WeightsMissing(StepError):
    code = "WEIGHTS_MISSING"
    exit_code = 14
    advice = "Give the folder with the model's weights, or choose another engine."


class ModelVramOom(StepError):
    code = "MODEL_VRAM_OOM"
    exit_code = 20
    advice = "Use a lower --resolution or a device with more memory."


class ModelOom(StepError):
    code = "MODEL_OOM"
    exit_code = 21
    advice = "Give the step more memory, or use a lower --resolution."


class ModelTimeout(StepError):
    code = "MODEL_TIMEOUT"
    exit_code = 22
    advice = "Use a lower --resolution, or allow more time."


class GpuUnavailable(StepError):
    code = "GPU_UNAVAILABLE"
    exit_code = 23
    advice = "Use --device cpu or auto, or run on a machine with a working NVIDIA driver."


class ModelConvergenceFailed(StepError):
    code = "MODEL_CONVERGENCE_FAILED"
    exit_code = 24
    advice = "Check that the views show the same object and that cameras and depth encoding are right."


class DiskFull(StepError):
    code = "DISK_FULL"
    exit_code = 25
    advice = "Free some disk space and run again; finished steps are kept."


class Interrupted(StepError):
    code = "INTERRUPTED"
    exit_code = 30
    advice = "Run the same command again: it goes on with the step that was interrupted."


class Killed(StepError):
    code = "KILLED"
    exit_code = 26  # where the watching parent survived; a container killed as a whole shows 137
    advice = "The system ended the step without saying why, most often for want of memory: give it more and run again."


class ModelFailed(StepError):
    code = "MODEL_FAILED"
    advice = "Read the step's log; if it is a fault of this program, report it with the log."


class UnknownError(StepError):
    code = "UNKNOWN_ERROR"
    advice = "Read the step's log; if it is a fault of this program, report it with the log."


class OutsideError(StepError):
    """What happened to a step, or to the job, that the step could not know."""

    exit_code = 40
    code = "UNKNOWN_ERROR"


class Cancelled(OutsideError):
    code = "CANCELLED"
    advice = "Submit the job again if it was stopped by mistake."


class NodeLost(OutsideError):
    code = "NODE_LOST"
    advice = "Submit the job again; if pods keep getting lost, look at the node's events."


class ImageUnavailable(OutsideError):
    code = "IMAGE_UNAVAILABLE"
    advice = "Check the image's name and the registry's credentials in the chart's values."


class ConfigurationError(OutsideError):
    """A pod cannot start for want of something that belongs to the installation: a secret, a claim, an account, a quota. Or an
    environment variable of a command cannot be used."""

    code = "CONFIGURATION_ERROR"
    advice = "`sixview doctor` tells what is missing; mend it, then submit the job again."


class Unschedulable(OutsideError):
    """No node of the cluster can take a pod, however long it waits."""

    code = "UNSCHEDULABLE"
    advice = "Lower what the steps ask for in the chart's values, or add a node that has it; then submit the job again."


class StorageUnavailable(OutsideError):
    code = "STORAGE_UNAVAILABLE"
    advice = "Check that the S3 store answers, that the bucket exists and that its keys may read and write there."


class ClusterUnavailable(OutsideError):
    code = "CLUSTER_UNAVAILABLE"
    advice = "Check the kubeconfig or the Argo Server's address; `sixview doctor` tells what is missing."


class JobNotFound(OutsideError):
    code = "JOB_NOT_FOUND"
    advice = "Check the job's id; `sixview list` shows those that there are."


class JobNotReady(OutsideError):
    code = "JOB_NOT_READY"
    advice = "Ask for the job's status; wait until it has ended."


class JobExpired(OutsideError):
    code = "JOB_EXPIRED"
    advice = "Submit the set again: results are kept only for a while."


class JobFailed(OutsideError):
    code = "JOB_FAILED"
    advice = "Read the failure in the details and submit again."


def _tree(cls: type[StepError]) -> list[type[StepError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _tree(sub))]


def by_code() -> dict[str, type[StepError]]:
    """Every code and its class."""
    return {cls.code: cls for cls in _tree(StepError)[1:] if cls not in (BadInput, OutsideError)}


def as_record(value: Any) -> Record | None:
    """A decoded failure record with every field; None where it is malformed or its code is unknown."""
    if not isinstance(value, dict):
        return None
    code, message, details = value.get("code"), value.get("message"), value.get("details", {})
    known = by_code().get(code) if isinstance(code, str) else None
    if known is None or not isinstance(message, str) or not isinstance(details, dict):
        return None
    suggestion = value.get("suggestion")
    return {
        "code": code,
        "message": message,
        "suggestion": suggestion if isinstance(suggestion, str) else known.advice,
        "details": details,
    }


OOM_TYPES = {"MODEL_VRAM_OOM": "vram", "MODEL_OOM": "ram"}  # every other code: "none"
STAGES = ("validation", "rig", "weight_loading", "inference", "export", "quality_metrics", "preview", "packaging")


GPU_LIBRARIES = ("torch", "cupy", "cupy_backends", "numba", "cuda")
NO_VRAM = re.compile(r"OUT_OF_MEMORY|MemoryAllocation|ALLOC_FAILED")  # in CUDA's names of errors


def is_vram_oom(error: BaseException) -> bool:
    """Whether a library says that a GPU's memory ran out, in its own exception or by CUDA's name of the error. None of them is
    loaded here."""
    if isinstance(error, ModelVramOom):
        return True
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.partition(".")[0] in GPU_LIBRARIES]
    return any(kind.__name__ == "OutOfMemoryError" for kind in kinds) or bool(kinds and NO_VRAM.search(str(error)))
