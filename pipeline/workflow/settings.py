"""Settings of an installation: images, sizes, limits, names. values.yaml has the same defaults; a test compares them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

from pipeline.workflow.resources import MOST_MEMORY_MIB, SIZES, Size
from steps.runtime.contract import JOB_SECONDS, MODELS

PODS = ("validate", *MODELS, "quality", "preview", "package")
SLIM = ("package",)  # needs neither torch nor compiled kernels


@dataclass(frozen=True)
class Settings:
    """Settings of the WorkflowTemplate. name: of the template, and prefix of other objects; engines: image of most steps,
    `engines-cuda` or `engines-cpu`; gpus: requested by each step's pod; device: default of the parameter `device`."""

    name: str = "sixview"
    registry: str = "sixview"
    tag: str = field(default_factory=lambda: metadata.version("sixview"))
    engines: str = "engines-cuda"
    reconviagen: str = ""  # image of the step reconviagen, with the published model's package; "": that of `engines`
    pull_policy: str = "IfNotPresent"
    sizes: dict[str, Size] = field(default_factory=lambda: dict(SIZES))
    gpus: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PODS, 1))
    device: str = "cuda"
    bucket: str = "sixview"
    endpoint: str = "s3.amazonaws.com"
    scheme: str = "https"
    job_seconds: int = int(JOB_SECONDS)
    pod_seconds: int = (
        int(JOB_SECONDS) + 300
    )  # activeDeadlineSeconds, after which Kubernetes kills the pod and its outputs are lost
    checkpoint_seconds: int = 120  # between two checkpoints; each is 0.5 GB at 2048 px
    ram_retries: int = 2
    vram_retries: int = 8
    infrastructure_retries: int = 5
    most_memory_mib: int = MOST_MEMORY_MIB  # limit for the growth of memory between attempts
    another_node: bool = False  # whether a retry requires a node on which the pod has not failed yet
    ttl_seconds: int = 7 * 86400  # of finished Workflow objects; files in S3 have lifecycle rules
    weights_claim: str = (
        ""  # PersistentVolumeClaim with the weights of the engine reconviagen; "": that engine cannot run
    )

    def image(self, step: str) -> str:
        """The image of a step, or of `control`."""
        name = step if step == "control" else "slim" if step in SLIM else self.engines
        if step == "reconviagen":
            name = self.reconviagen or name
        return f"{self.registry}/{name}:{self.tag}"
