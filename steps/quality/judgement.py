"""Warnings about a mesh whose scores are below what the views' consistency allows. Full-frame scores overrate small objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.runtime.reporter import WARNING

BASE_PSNR = 20.0  # dB on the object alone, which every mesh reaches whose views agree
# of the object's diagonal: the distance between two views' surfaces up to which it does not matter
FREE_DISTANCE = 0.002
LEAST_IOU = 0.8  # mean IoU of the silhouettes


def allowed_psnr(agreement: dict[str, Any]) -> float:
    """The PSNR in dB on the object to expect: ten decibels less for each tenfold distance between two views' surfaces, since
    twice the shift changes twice as many pixels. agreement: of scene.json."""
    distance = float(agreement.get("surface_distance", 0.0))
    return BASE_PSNR - 10 * float(np.log10(max(1.0, distance / FREE_DISTANCE)))


def warnings(report: dict[str, Any], agreement: dict[str, Any]) -> list[str]:
    """Warnings about a mesh. report: quality.json so far."""
    sentences, least_psnr = [], allowed_psnr(agreement)
    views = [view for view in report["views"] if view["object"] is not None]
    worst = min(views, key=lambda view: view["object"]["psnr"])
    if report["object"]["psnr"] < least_psnr:
        sentences.append(
            f"{WARNING}The object alone has a PSNR of {report['object']['psnr']:.1f} dB, where views that agree as these do "
            f"allow {least_psnr:.0f} dB or more (least in {worst['name']}, {worst['object']['psnr']:.1f} dB): look at the mesh "
            "before you trust it."
        )
    overlap = float(np.mean([view["iou"] for view in views]))
    if overlap < LEAST_IOU:
        worst = min(views, key=lambda view: view["iou"])
        sentences.append(
            f"{WARNING}The mesh's outlines overlap with those of the views by {overlap:.0%} only (least in {worst['name']}, "
            f"{worst['iou']:.0%})."
        )
    return sentences
