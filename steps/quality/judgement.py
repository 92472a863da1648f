"""Whether a mesh matches its object as well as its views allow. Scores over the full frame flatter small objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.runtime.reporter import WARNING

USUAL = 20.0  # dB on the object alone, which every mesh reaches whose views agree
UNNOTICED = 0.002  # of the object's diagonal: the distance between two views' surfaces up to which it does not matter
OUTLINES = 0.8  # mean IoU of the silhouettes


def allowed(agreement: dict[str, Any]) -> float:
    """The PSNR in dB on the object that can be asked for: ten decibels less for each tenfold distance between two views'
    surfaces, since what is moved by twice as much differs in twice as many pixels. agreement: of scene.json."""
    distance = float(agreement.get("surface_distance", 0.0))
    return USUAL - 10 * float(np.log10(max(1.0, distance / UNNOTICED)))


def warnings(report: dict[str, Any], agreement: dict[str, Any]) -> list[str]:
    """What has to be said of a mesh. report: quality.json so far."""
    found, least = [], allowed(agreement)
    views = [view for view in report["views"] if view["object"] is not None]
    worst = min(views, key=lambda view: view["object"]["psnr"])
    if report["object"]["psnr"] < least:
        found.append(
            f"{WARNING}The object alone has a PSNR of {report['object']['psnr']:.1f} dB, where views that agree as these do "
            f"allow {least:.0f} dB or more (least in {worst['name']}, {worst['object']['psnr']:.1f} dB): look at the mesh "
            "before you trust it."
        )
    overlap = float(np.mean([view["iou"] for view in views]))
    if overlap < OUTLINES:
        worst = min(views, key=lambda view: view["iou"])
        found.append(
            f"{WARNING}The mesh's outlines overlap with those of the views by {overlap:.0%} only (least in {worst['name']}, "
            f"{worst['iou']:.0%})."
        )
    return found
