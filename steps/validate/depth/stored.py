"""Stored values of six depth renders, before their encoding is known."""

from __future__ import annotations

import numpy as np

from steps.compute.arrays import Array
from steps.io import png
from steps.io.depth_encoding import DepthEncoding, foreground

FRAME = (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:])  # of a picture, its outermost pixels


def counts_of(depths: list[png.Picture], background: int | str) -> tuple[list[Array], list[Array], tuple[float, float]]:
    """Six [H, W] stored values, six [H, W] bool, where the object is, and the lowest and the highest value of it."""
    known = [foreground(p, DepthEncoding(background=background)) for p in depths]
    known = [k if k.any() else np.ones_like(k) for k in known]
    counts = [p.pixels[..., 0].astype(np.float64) for p in depths]
    inside = np.concatenate([c[k] for c, k in zip(counts, known, strict=True)])
    return counts, known, (float(inside.min()), float(inside.max()))


def background_of(depths: list[png.Picture]) -> int | str:
    """The stored value that means no depth, by majority of the pictures' frames."""
    frames = [np.concatenate([p.pixels[e].reshape(-1, p.pixels.shape[2])[:, 0] for e in FRAME]) for p in depths]
    votes = sum(float((f == p.maximum).mean() - (f == 0).mean()) for f, p in zip(frames, depths, strict=True))
    return "max" if votes > 0 else 0
