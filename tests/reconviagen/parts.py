"""Fixtures of the stand-in package: tiny random weights, and the environment variables to use it."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np

from steps.io import weights_manifest

STANDIN = Path(__file__).with_name("standin")
WIDTH = 8
SHAPES = {"first.weight": (WIDTH, 3), "first.bias": (WIDTH,), "second.weight": (3, WIDTH), "second.bias": (3,)}


def environment(**more: str) -> dict[str, str]:
    """Environment variables in addition to the process's own."""
    return {"SIXVIEW_RECONVIAGEN_PYTHON": sys.executable, "SIXVIEW_RECONVIAGEN_PATH": str(STANDIN), **more}


def write_network(base: Path, seed: int, without: str = "", extra: str = "") -> None:
    """NAME.json and NAME.safetensors."""
    base.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    values = {name: random.normal(0, 0.5, shape).astype("<f4") for name, shape in SHAPES.items() if name != without}
    if extra:
        values[extra] = np.zeros(1, "<f4")
    base.with_suffix(".json").write_text(json.dumps({"name": "Network", "args": {"width": WIDTH}}))
    header, at = {}, 0
    for name, value in values.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    header_bytes = json.dumps(header).encode()
    base.with_suffix(".safetensors").write_bytes(
        struct.pack("<Q", len(header_bytes)) + header_bytes + b"".join(v.tobytes() for v in values.values())
    )


def write_weights(folder: Path, without: str = "", extra: str = "") -> Path:
    """All parts, and their manifest."""
    models = {"structure": "ckpts/structure", "latent": "ckpts/latent"}
    for seed, place in enumerate(models.values()):
        write_network(folder / "pipeline" / place, seed)
    (folder / "pipeline" / "pipeline.json").write_text(json.dumps({"name": "Pipeline", "args": {"models": models}}))
    write_network(folder / "vggt" / "model", 7, without, extra)
    for part in ("segmentation", "dinov2"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
    weights_manifest.lock(folder, {"pipeline": "0" * 40})
    return folder
