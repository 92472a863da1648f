"""Cases: depth renders with other curves, encodings, bit depths and file types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from steps.compute.arrays import Array
from steps.runtime.contract import VIEW_NAMES
from tests.cases import kit
from tests.cases.kit import Case

NEAR, FAR = 1.5, 3.5  # of the samples
WORSE = 1.3  # times the clean Chamfer-L1


def _share(z: Array) -> Array:
    return (z - NEAR) / (FAR - NEAR)


def _inverse(z: Array, near: float = NEAR, far: float = FAR) -> Array:
    return (1 / z - 1 / far) / (1 / near - 1 / far)


def _srgb(x: Array) -> Array:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055)


def _filmic(x: Array) -> Array:
    """Exposure on a scale of stops, then a soft S: the shape of Blender's Filmic and AgX."""
    stops = np.clip((np.log2(np.maximum(x, 1e-6) / 0.18) + 10) / 16.5, 0, 1)
    return stops * stops * (3 - 2 * stops)


def _reinhard(x: Array) -> Array:
    return 2 * x / (1 + x)


def _stored(folder: Path, encode: Callable[[Array], Array], bits: int, lowest: int = 1) -> Path:
    """Depth renders anew, their depth z (n,) to a share (n,) of what `bits` can hold; 0 stays the background."""
    top, kind = 2**bits - 1, np.uint8 if bits == 8 else np.uint16
    for name in VIEW_NAMES:
        z = kit.metres(kit.depth(folder, name))
        counts = np.zeros(z.shape)
        counts[z > 0] = np.clip(np.rint(encode(z[z > 0]) * top), lowest, top)
        kit.write_depth(folder, name, counts.astype(kind))
    return folder


def _given(folder: Path, how: str) -> Path:
    """Keeps cameras.json (`keep`, though it may now be wrong), removes its depth encoding (`nodepth`), or removes it (`none`)."""
    if how == "none":
        (folder / "cameras.json").unlink()
    elif how == "nodepth":
        document = kit.cameras(folder)
        for view in document["views"]:
            view.pop("depth", None)
        kit.write_cameras(folder, document)
    return folder


def _curved(encode: Callable[[Array], Array], how: str, bits: int = 16) -> Callable[[Path], Path]:
    return lambda folder: _given(_stored(folder, encode, bits), how)


def _stretched(into: Callable[[Array], Array], how: str, room: float = 254 / 255) -> Callable[[Path], Path]:
    """Every view between its own lowest and highest value; room: share of 8 bits that it fills, from above."""

    def encode(z: Array) -> Array:
        y = into(z)
        return np.asarray(1 - room + room * (y - y.min()) / np.ptp(y))

    return _curved(encode, how, 8)


def _encoded(folder: Path, encode: Callable[[Array], Array], about: dict[str, object]) -> Path:
    """Another encoding, which cameras.json gives as it is."""
    document = kit.cameras(_stored(folder, encode, 16))
    for view in document["views"]:
        view["depth"] = about
    kit.write_cameras(folder, document)
    return folder


def _base(name: str, bits: int = 16) -> tuple[str, ...]:
    return ("--object", name, "--size", "256", "--depth-bits", str(bits))


FOUND = "encoding was found from the pictures"
DENIED = "deny the depth encoding"
PROTEST = ("WARNING", DENIED)
CASES: list[Case] = [
    *(
        Case(
            f"cams_without_depth_{name}",
            lambda f: _given(f, "nodepth"),
            _base(name),
            loss=0.3,
            ratio=WORSE,
            says=(FOUND,),
        )
        for name in ("mug", "donut", "house", "duck")
    ),
    Case(
        "depth_srgb_keep", _curved(lambda z: _srgb(_share(z)), "keep"), loss=0.5, ratio=WORSE, says=(*PROTEST, "sRGB")
    ),
    Case(
        "depth_srgb_nodepth",
        _curved(lambda z: _srgb(_share(z)), "nodepth"),
        loss=0.5,
        ratio=WORSE,
        says=("sRGB", "Raw"),
    ),
    Case("depth_srgb_none", _curved(lambda z: _srgb(_share(z)), "none"), or_code="RIG_AMBIGUOUS", ratio=WORSE),
    Case(
        "depth_gamma22_nodepth",
        _curved(lambda z: _share(z) ** (1 / 2.2), "nodepth"),
        loss=0.5,
        ratio=WORSE,
        says=("gamma",),
    ),
    Case("depth_gamma18_8bit_keep", _curved(lambda z: _share(z) ** (1 / 1.8), "keep", 8), ratio=WORSE, says=PROTEST),
    Case("depth_filmic_nodepth", _curved(lambda z: _filmic(_share(z)), "nodepth"), ratio=WORSE, says=(FOUND,)),
    Case("depth_reinhard_nodepth", _curved(lambda z: _reinhard(_share(z)), "nodepth"), ratio=WORSE, says=(FOUND,)),
    Case(
        "depth_log_nodepth", _curved(lambda z: np.log(z / NEAR) / np.log(FAR / NEAR), "nodepth"), loss=0.5, ratio=WORSE
    ),
    Case("depth_reversed_z_nodepth", _curved(lambda z: _inverse(z, 0.3, 1000), "nodepth"), loss=0.5, ratio=WORSE),
    Case(
        "depth_normalised_keep",
        _stretched(lambda z: z, "keep"),
        ratio=WORSE,
        says=(*PROTEST, "range of its own in every view"),
    ),
    Case(
        "depth_normalised_nodepth",
        _stretched(lambda z: z, "nodepth"),
        ratio=WORSE,
        says=("range of its own in every view",),
    ),
    Case("depth_normalised_none", _stretched(lambda z: z, "none"), or_code="RIG_AMBIGUOUS", ratio=WORSE),
    Case("depth_disparity_nodepth", _stretched(lambda z: 1 / z, "nodepth", 0.9), ratio=WORSE, says=("disparity",)),
    Case(
        "depth_reversed_z",
        lambda f: _encoded(f, lambda z: _inverse(z, 0.1, 1000), {"encoding": "inverse", "near": 1000, "far": 0.1}),
        loss=0.3,
        ratio=WORSE,
    ),
    Case(
        "depth_metric_mm",
        lambda f: _encoded(f, lambda z: z * 1000 / 65535, {"encoding": "metric", "scale": 0.001}),
        loss=0.3,
        ratio=WORSE,
    ),
    Case(
        "depth_metric_wrong_scale",
        lambda f: _encoded(f, lambda z: z * 1000 / 65535, {"encoding": "metric", "scale": 0.01}),
        code="VALIDATION_FAILED",
        says=("positions in",),
    ),
]
