"""What an installation decides: images, sizes, budgets, names. values.yaml holds the same defaults; a test compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

from pipeline.workflow.resources import MOST_MEMORY_MIB, SIZES, Size
from steps.runtime.contract import JOB_SECONDS, MODELS

PODS = ("validate", *MODELS, "quality", "preview", "package")
SLIM = ("package",)  # needs neither torch nor compiled kernels


@dataclass(frozen=True)
class Settings:
    """name: of the WorkflowTemplate, and the prefix of all else; engines: which image runs the models, `engines-cuda` or
    `engines-cpu`; gpus: how many each step's pod requests; device: what the steps are told to compute on."""

    name: str = "sixview"
    registry: str = "sixview"
    tag: str = field(default_factory=lambda: metadata.version("sixview"))
    engines: str = "engines-cuda"
    reconviagen: str = (
        ""  # the step reconviagen's own image, with the published model's package; none: that of the engines
    )
    pull_policy: str = "IfNotPresent"
    sizes: dict[str, Size] = field(default_factory=lambda: dict(SIZES))
    gpus: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PODS, 1))
    device: str = "cuda"
    bucket: str = "sixview"
    endpoint: str = "s3.amazonaws.com"
    scheme: str = "https"
    job_seconds: int = int(JOB_SECONDS)
    pod_seconds: int = int(JOB_SECONDS) + 300  # the backstop: Kubernetes itself ends the pod, and its outputs are lost
    checkpoint_seconds: int = 120  # between two checkpoints: at 2048 px each is half a gigabyte
    ram_retries: int = 2
    vram_retries: int = 8
    infrastructure_retries: int = 5
    most_memory_mib: int = MOST_MEMORY_MIB  # up to which the memory of the models' attempts doubles
    another_node: bool = (
        False  # whether a retry after lost infrastructure must have a node on which the pod has not failed yet
    )
    seconds_kept: int = 7 * 86400  # of the Workflow objects; results in S3 are not touched
    weights_claim: str = (
        ""  # PersistentVolumeClaim with the weights of the engine reconviagen; none: that engine cannot run
    )

    def image(self, step: str) -> str:
        """The image of a step, or of `control`."""
        name = step if step == "control" else "slim" if step in SLIM else self.engines
        if step == "reconviagen":
            name = self.reconviagen or name
        return f"{self.registry}/{name}:{self.tag}"
