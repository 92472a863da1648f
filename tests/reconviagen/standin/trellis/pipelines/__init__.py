"""The pipeline of the stand-in."""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from skimage.measure import marching_cubes

CELLS = 72
MARGIN = 1.1  # of the pictures' framing
TURN = ((0.36, -0.48, 0.8), (0.8, 0.6, 0.0), (-0.48, 0.64, 0.6))  # into a frame of the model's own


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, item in header.items():
        a, b = item["data_offsets"]
        values = np.frombuffer(data[8 + size + a : 8 + size + b], np.float32).reshape(item["shape"])
        found[name] = torch.from_numpy(values.copy())
    return found


class Network(torch.nn.Module):
    """Two layers from 3 numbers to 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, width), torch.nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fail_at("inference")
        return torch.tanh(self.second(torch.tanh(self.first(x))))


class Sampler:
    def sample_once(self, model: Network, x: torch.Tensor, t: float) -> torch.Tensor:
        return x + 0.1 * model(x) * t

    def sample(self, model: Network, x: torch.Tensor, steps: int, **_: Any) -> torch.Tensor:
        for k in range(steps):
            x = self.sample_once(model, x, 1 / steps * (k + 1))
        return x


@dataclass
class MeshExtractResult:
    vertices: torch.Tensor
    faces: torch.Tensor
    vertex_attrs: torch.Tensor


def fail_at(moment: str) -> None:
    """Runs out of memory, is killed or waits at this moment where STANDIN_FAILS says so."""
    if os.environ.get("STANDIN_FAILS") == f"oom at {moment}":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    if os.environ.get("STANDIN_FAILS") == f"killed at {moment}":
        os.kill(os.getpid(), 9)
    if os.environ.get("STANDIN_FAILS") == f"waits at {moment}":
        time.sleep(60)


def from_files(base: str) -> Network:
    """As the published package does it: names and shapes from .json, numbers from .safetensors, strict=False."""
    fail_at("load")
    model = Network(**json.loads(Path(f"{base}.json").read_text())["args"])
    model.load_state_dict(read_safetensors(Path(f"{base}.safetensors")), strict=False)
    return model


class TrellisVGGTTo3DPipeline:
    def __init__(self, models: dict[str, Network]) -> None:
        self.models = models
        self.sparse_structure_sampler, self.slat_sampler = Sampler(), Sampler()

    @staticmethod
    def from_pretrained(path: str) -> TrellisVGGTTo3DPipeline:
        args = json.loads(Path(path, "pipeline.json").read_text())["args"]
        models = {name: from_files(f"{path}/{place}") for name, place in args["models"].items()}
        vggt = huggingface_hub.hf_hub_download("Stable-X/vggt-object-v0-1", "model.safetensors")
        models["vggt"] = from_files(vggt.removesuffix(".safetensors"))
        huggingface_hub.snapshot_download("ZhengPeng7/BiRefNet")
        return TrellisVGGTTo3DPipeline(models)

    def to(self, device: torch.device) -> None:
        for model in self.models.values():
            model.to(device)

    def encode_image(self, images: list[Any]) -> torch.Tensor:
        fail_at(f"encoding {len(images)}")
        return torch.stack([torch.from_numpy(np.asarray(i, np.float32) / 255).mean(dim=(0, 1)) for i in images])

    def run(
        self,
        image: list[Any],
        seed: int = 42,
        sparse_structure_sampler_params: dict[str, Any] | None = None,
        slat_sampler_params: dict[str, Any] | None = None,
        formats: tuple[str, ...] = ("mesh",),
        preprocess_image: bool = True,
        mode: str = "stochastic",
    ) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        condition = self.encode_image(image)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((6, 3), generator=generator)
        first = self.sparse_structure_sampler.sample(
            self.models["structure"], condition + noise, **(sparse_structure_sampler_params or {})
        )
        last = self.slat_sampler.sample(self.models["latent"], first, **(slat_sampler_params or {}))
        with torch.no_grad():
            return {"mesh": [self._hull(image, last, 0.01)]}, torch.zeros((1, 4)), noise

    def run_refine(
        self, image: list[Any], ss_noise: torch.Tensor, extrinsics: torch.Tensor, intrinsics: torch.Tensor, **_: Any
    ) -> dict[str, Any]:
        fail_at("refine")
        middle = torch.einsum("nij,nj->ni", intrinsics, extrinsics[:, :3, 3])
        off = (middle[:, :2] / middle[:, 2:] - 0.5).abs().max()
        if off > 0.2:
            raise ValueError(f"these cameras do not look at the object: {off:.2f} of a picture off")
        with torch.no_grad():
            return {"mesh": [self._hull(image, ss_noise, 0.0)]}

    def _hull(self, image: list[Any], latent: torch.Tensor, dent: float) -> MeshExtractResult:
        """Pictures: front, back, left, right, top, bottom, framed to the object's larger side."""
        pictures = [np.asarray(i, np.float32) / 255 for i in image]
        masks = [p.max(axis=2) > 0.02 for p in pictures]
        wide, high = _size(masks[0])
        deep = _size(masks[2])[0] / _size(masks[2])[1] * high
        axis = [np.linspace(-0.55, 0.55, CELLS) * s for s in (wide, high, deep)]
        x, y, z = np.meshgrid(*axis, indexing="ij")
        seen = [_looked_up(m[..., None], *_across(k, x, y, z, wide, high, deep))[..., 0] for k, m in enumerate(masks)]
        inside = np.all(np.stack(seen) > 0.5, axis=0)
        corners, faces, normals, _ = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5)
        points = np.stack([np.interp(corners[:, k] - 1, np.arange(CELLS), axis[k]) for k in range(3)], axis=1)
        size = np.array([wide, high, deep])
        colours = _coloured(points, size, pictures)
        moved = self.models["vggt"](torch.tensor(points, dtype=torch.float32) + latent.mean()).numpy() * dent
        unit = 1 / size.max()
        vertices = ((points + moved) * unit) @ np.array(TURN).T
        return MeshExtractResult(
            *(torch.from_numpy(np.ascontiguousarray(a)) for a in (vertices, faces.astype(np.int64), colours))
        )


def _size(mask: np.ndarray[Any, Any]) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(np.ptp(columns) + 1) / len(mask) * MARGIN, float(np.ptp(rows) + 1) / len(mask) * MARGIN


def _across(k: int, x: Any, y: Any, z: Any, wide: float, high: float, deep: float) -> tuple[Any, Any]:
    """Where view k has points, right and down, in [-0.5, 0.5] of its picture."""
    right, down, side = (
        (x, -y, max(wide, high)),
        (-x, -y, max(wide, high)),
        (z, -y, max(deep, high)),
        (-z, -y, max(deep, high)),
        (x, z, max(wide, deep)),
        (x, -z, max(wide, deep)),
    )[k]
    return right / (side * MARGIN), down / (side * MARGIN)


def _looked_up(picture: Any, right: Any, down: Any) -> Any:
    size = len(picture)
    r, c = (np.clip(((v + 0.5) * size).astype(int), 0, size - 1) for v in (down, right))
    return picture[r, c]


def _coloured(points: Any, size: Any, pictures: list[Any]) -> Any:
    """From the view that each point is furthest out towards."""
    out = np.stack([points[:, 2], -points[:, 2], -points[:, 0], points[:, 0], points[:, 1], -points[:, 1]])
    towards = np.argmax(out / np.array([size[2], size[2], size[0], size[0], size[1], size[1]])[:, None], axis=0)
    every = np.stack([_looked_up(p, *_across(k, *points.T, *size)) for k, p in enumerate(pictures)])
    return every[towards, np.arange(len(points))]
