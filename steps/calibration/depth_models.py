"""Models of stored depth: families of monotone curves with few parameters.

With w = curve(v) (see `geometry.depth_curve`) of the stored value v: y = A + B w, and depth = y (linear), 1 / y (inverse) or
exp y (logarithmic). Where the curve is not known it has an exponent as a parameter, w = v ** g, or, added to another model,
an offset of the depth that is a natural cubic spline."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import CubicSpline

from steps.compute.arrays import Array
from steps.geometry.depth_curve import Curve, invert_curve

EPSILON = 1e-9


@dataclass(frozen=True)
class Model:
    """encoding, ray, curve: as cameras.json has them; free_exponent: whether the exponent of the curve is a parameter, the
    third, as its logarithm; per_view: whether every view has its own parameters."""

    encoding: str = "linear"
    ray: bool = False
    curve: Curve = None
    free_exponent: bool = False
    per_view: bool = False

    @property
    def size(self) -> int:
        """The number of parameters of one view."""
        return 2 + self.free_exponent

    @property
    def complexity(self) -> int:
        """Rank by which the simpler of several models that fit is taken."""
        return (
            10 * self.per_view
            + 3 * self.free_exponent
            + 2 * self.ray
            + 2 * (self.curve is not None)
            + (self.encoding != "linear")
        )

    def view_params(self, params: Array, view: int) -> Array:
        """One view's parameters."""
        return params[self.size * view : self.size * (view + 1)] if self.per_view else params

    def depth(self, v: Array, params: Array) -> tuple[Array, Array, Array]:
        """Depth (n,) of stored values (n,) by one view's parameters; its derivatives by the value (n,) and by the parameters
        [n, size]."""
        w, slope = invert_curve({"gamma": float(np.exp(params[2]))} if self.free_exponent else self.curve, v)
        z, dz = self._depth_of_line(params[0] + params[1] * w)
        columns = [np.ones_like(w), w]
        if self.free_exponent:
            columns.append(params[1] * w * np.log(np.maximum(w, EPSILON)))
        return z, dz * params[1] * slope, dz[:, None] * np.stack(columns, axis=1)

    def _depth_of_line(self, y: Array) -> tuple[Array, Array]:
        if self.encoding == "inverse":
            safe = np.where(np.abs(y) < EPSILON, EPSILON, y)
            return 1 / safe, -1 / safe**2
        if self.encoding == "logarithmic":
            z = np.exp(np.clip(y, -30, 30))
            return z, z
        return y, np.ones_like(y)

    def linearize(self, z: Array) -> Array:
        """y of a depth: what the model is linear in."""
        z = np.maximum(z, EPSILON)
        return 1 / z if self.encoding == "inverse" else np.log(z) if self.encoding == "logarithmic" else z

    def fit_line(self, v: Array, z: Array, exponent: float = 1.0) -> Array:
        """One view's parameters by linear least squares through depths z (n,) at values v (n,)."""
        w = invert_curve({"gamma": exponent} if self.free_exponent else self.curve, v)[0]
        line = np.linalg.lstsq(np.stack([np.ones_like(w), w], axis=1), self.linearize(z), rcond=None)[0]
        return np.append(line, np.log(exponent)) if self.free_exponent else line

    def prior(self, n_views: int) -> Array:
        """[P, P]: inverse variances of all parameters, added to the normal equations."""
        single = np.diag([0.0, 0.0, 1.0][: self.size])
        return np.kron(np.eye(n_views), single) if self.per_view else single


@dataclass(frozen=True)
class Offset(Model):
    """A base model with fixed parameters, plus a natural cubic spline of depth with values at the knots (K,)."""

    base: Model = field(default_factory=Model)
    base_params: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        return len(self.knots)

    @property
    def complexity(self) -> int:
        return 5 + self.base.complexity

    def depth(self, v: Array, params: Array) -> tuple[Array, Array, Array]:
        z, dv, _ = self.base.depth(v, np.asarray(self.base_params))
        spline = CubicSpline(self.knots, np.eye(len(self.knots)), bc_type="natural")
        basis = spline(v)
        return z + basis @ params, dv + spline(v, 1) @ params, basis

    def prior(self, n_views: int) -> Array:
        second_difference = np.diff(np.eye(self.size), 2, axis=0)
        return np.asarray(
            (second_difference.T @ second_difference) / OFFSET_STD**2 + np.eye(self.size) / OFFSET_STD**2 / 10
        )


OFFSET_STD = 0.05  # radii: prior standard deviation of an offset's second differences


def depth_is_monotone(model: Model, params: Array, spans: list[tuple[float, float]]) -> bool:
    """Whether depth is monotone and in front of the camera over each view's range of values, in one direction for all views."""
    signs = set()
    for view, (low, high) in enumerate(spans):
        z, slope, _ = model.depth(np.linspace(low, high, 33), model.view_params(params, view))
        if not np.isfinite(z).all() or z.min() <= 0 or not (np.all(slope > 0) or np.all(slope < 0)):
            return False
        signs.add(bool(slope[0] > 0))
    return len(signs) == 1
