"""What stored depth may mean: families of monotone curves with few parameters.

With w = curve(v) (see `geometry.depth_curve`) of the stored value v: y = A + B w, and depth = y (linear), 1 / y (inverse) or
exp y (logarithmic). Where the curve is not known it has an exponent of its own, w = v ** g, or, beside another model, an offset
of the depth that runs smoothly through a few knots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from steps.geometry.depth_curve import Curve, undone

Array = NDArray[Any]
TINY = 1e-9


@dataclass(frozen=True)
class Model:
    """encoding, ray, curve: as cameras.json has them; bends: whether the exponent of the curve is a parameter, the third, as its
    logarithm; per_view: whether every view has parameters of its own."""

    encoding: str = "linear"
    ray: bool = False
    curve: Curve = None
    bends: bool = False
    per_view: bool = False

    @property
    def size(self) -> int:
        """The number of parameters of one view."""
        return 2 + self.bends

    @property
    def complexity(self) -> int:
        """By which of several that fit is simpler."""
        return (
            10 * self.per_view
            + 3 * self.bends
            + 2 * self.ray
            + 2 * (self.curve is not None)
            + (self.encoding != "linear")
        )

    def own(self, theta: Array, view: int) -> Array:
        """One view's parameters."""
        return theta[self.size * view : self.size * (view + 1)] if self.per_view else theta

    def depth(self, v: Array, own: Array) -> tuple[Array, Array, Array]:
        """Depth (n,) of stored values (n,) by one view's parameters; its derivatives by the value (n,) and by them [n, size]."""
        w, slope = undone({"gamma": float(np.exp(own[2]))} if self.bends else self.curve, v)
        z, dz = self._from(own[0] + own[1] * w)
        columns = [np.ones_like(w), w]
        if self.bends:
            columns.append(own[1] * w * np.log(np.maximum(w, TINY)))
        return z, dz * own[1] * slope, dz[:, None] * np.stack(columns, axis=1)

    def _from(self, y: Array) -> tuple[Array, Array]:
        if self.encoding == "inverse":
            safe = np.where(np.abs(y) < TINY, TINY, y)
            return 1 / safe, -1 / safe**2
        if self.encoding == "logarithmic":
            z = np.exp(np.clip(y, -30, 30))
            return z, z
        return y, np.ones_like(y)

    def into(self, z: Array) -> Array:
        """y of a depth."""
        z = np.maximum(z, TINY)
        return 1 / z if self.encoding == "inverse" else np.log(z) if self.encoding == "logarithmic" else z

    def through(self, v: Array, z: Array, exponent: float = 1.0) -> Array:
        """One view's parameters that have depth z (n,) at values v (n,), as nearly as they can."""
        w = undone({"gamma": exponent} if self.bends else self.curve, v)[0]
        line = np.linalg.lstsq(np.stack([np.ones_like(w), w], axis=1), self.into(z), rcond=None)[0]
        return np.append(line, np.log(exponent)) if self.bends else line

    def prior(self, views: int) -> Array:
        """[P, P]: inverse variances of all parameters, for the normal equations."""
        own = np.diag([0.0, 0.0, 1.0][: self.size])
        return np.kron(np.eye(views), own) if self.per_view else own


@dataclass(frozen=True)
class Offset(Model):
    """Another model, whose parameters stand, and what is added to its depth at the knots (K,): as it is, straight on, where
    nothing says more."""

    base: Model = field(default_factory=Model)
    fixed: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        return len(self.knots)

    @property
    def complexity(self) -> int:
        return 5 + self.base.complexity

    def depth(self, v: Array, own: Array) -> tuple[Array, Array, Array]:
        z, dv, _ = self.base.depth(v, np.asarray(self.fixed))
        spline = CubicSpline(self.knots, np.eye(len(self.knots)), bc_type="natural")
        basis = spline(v)
        return z + basis @ own, dv + spline(v, 1) @ own, basis

    def prior(self, views: int) -> Array:
        bend = np.diff(np.eye(self.size), 2, axis=0)
        return np.asarray((bend.T @ bend) / BEND**2 + np.eye(self.size) / BEND**2 / 10)


BEND = 0.05  # radii: how much an offset may bend from knot to knot


def rises(model: Model, theta: Array, spans: list[tuple[float, float]]) -> bool:
    """Whether depth is monotone and before the camera over each view's span of values, in one direction for all."""
    signs = set()
    for view, (low, high) in enumerate(spans):
        z, slope, _ = model.depth(np.linspace(low, high, 33), model.own(theta, view))
        if not np.isfinite(z).all() or z.min() <= 0 or not (np.all(slope > 0) or np.all(slope < 0)):
            return False
        signs.add(bool(slope[0] > 0))
    return len(signs) == 1
