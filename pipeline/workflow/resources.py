"""Named sizes of pods, and what the next attempt of a model asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Size:
    """What a pod's main container asks for. cpu: cores, as Kubernetes writes them; memory_mib: request and limit alike, so that a
    node's memory is never promised twice."""

    cpu: str
    memory_mib: int

    def resources(self, gpus: int = 1) -> dict[str, Any]:
        """The container's `resources`."""
        memory = f"{self.memory_mib}Mi"
        limits = {"memory": memory} | ({GPU: str(gpus)} if gpus else {})
        return {"requests": {"cpu": self.cpu, "memory": memory}, "limits": limits}


# seen at 2048 px: validate 0.9 GiB, fusion 1.6, nvdiffrec 3, quality 0.9, preview 0.7 GiB at most
SIZES = {
    "validate": Size("500m", 2048),
    "reconviagen": Size("1", 4096),
    "nvdiffrec": Size("1", 8192),
    "quality": Size("500m", 2048),
    "preview": Size("500m", 2048),
    "package": Size("200m", 1024),
}
CONTROL = Size("100m", 256)  # the exit handler
SIDECAR = Size("50m", 128)  # what carries checkpoints out

MOST_MEMORY_MIB = 65536  # no attempt after the first asks for more
GROWTH = 2  # times the memory of the attempt before, after one that ran out of it
