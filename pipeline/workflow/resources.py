"""Resource requests of the steps' pods, and their growth after MODEL_OOM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Size:
    """Resources of a main container. cpu: a Kubernetes quantity; memory_mib: request and limit, equal so that node memory is not
    overcommitted."""

    cpu: str
    memory_mib: int

    def resources(self, gpus: int = 1) -> dict[str, Any]:
        """The container's `resources` field."""
        memory = f"{self.memory_mib}Mi"
        limits = {"memory": memory} | ({GPU: str(gpus)} if gpus else {})
        return {"requests": {"cpu": self.cpu, "memory": memory}, "limits": limits}


# peak memory at 2048 px: validate 0.9 GiB, fusion 1.6, nvdiffrec 3, quality 0.9, preview 0.7 GiB at most
SIZES = {
    "validate": Size("500m", 2048),
    "reconviagen": Size("1", 4096),
    "nvdiffrec": Size("1", 8192),
    "quality": Size("500m", 2048),
    "preview": Size("500m", 2048),
    "package": Size("200m", 1024),
}
CONTROL = Size("100m", 256)  # the exit handler
SIDECAR = Size("50m", 128)  # the checkpoint sidecar

MOST_MEMORY_MIB = 65536  # limit for attempts after the first
GROWTH = 2  # factor of memory from one attempt to the next, after MODEL_OOM
