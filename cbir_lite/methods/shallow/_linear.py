"""Linear hash functions and principal components, shared by the shallow systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbir_lite.methods.base import Codes, Descriptors, Method, NotFitted, sign

Float64 = NDArray[np.float64]


def pooled(x: NDArray[Any], dimensions: int | None = None, system: str = "this system") -> Any:
    """``x`` (n, d) as float32; raises ``ValueError`` for another shape or width, and NaN."""
    if x.ndim != 2:
        raise ValueError(
            f"{system} reads pooled features (n, d), got shape {x.shape}: pool the maps first"
        )
    if dimensions is not None and x.shape[1] != dimensions:
        raise ValueError(
            f"{system} was fitted on features of {dimensions} dimensions and got {x.shape[1]}"
        )
    check_finite(x)
    return np.ascontiguousarray(x, np.float32)


def check_finite(x: NDArray[Any]) -> None:
    """Raise ``ValueError`` naming the first row that holds NaN or infinity."""
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0, 0])
        raise ValueError(f"x holds NaN or infinity, first in row {row}")


def principal_components(x: NDArray[Any], k: int) -> tuple[Float64, Float64, Float64]:
    """Mean (d,), the k first principal directions (d, k) and their standard deviations (k,).

    Orthonormal, by falling variance, each with its largest entry positive. Directions beyond the
    rank of the centred data are zero vectors: what never varies cannot be told from rounding.
    Raises ``ValueError`` if k exceeds the d dimensions.
    """
    n, d = x.shape
    if k > d:
        raise ValueError(
            f"bits={k} exceeds the {d} dimensions of the features: there are no more principal "
            "components; use fewer bits or a system that does not project on them, like lsh"
        )
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / n)
    variance, directions = variance[::-1][:k], directions[:, ::-1][:, :k]
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(k)])
    # The inputs are float32 at best, so their rounding is the smallest variance there is.
    varies = variance > np.finfo(np.float32).eps ** 2 * d * max(float(variance[0]), 1e-300)
    return mean, directions * varies, np.sqrt(np.where(varies, variance, 0.0))


@dataclass(kw_only=True, eq=False)
class LinearHash(Method):
    """b = sgn(W^T (x - mean) + c): ``fit`` learns ``mean_``, ``W_`` (d, bits) and maybe ``c_``."""

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Projections before the sign, float32 (n, bits)."""
        if not hasattr(self, "W_"):
            raise NotFitted(f"{type(self).__name__}: call fit(split) first")
        x = pooled(x, len(self.W_), type(self).__name__)
        offset = getattr(self, "c_", np.float32(0))
        z: Descriptors = (x - self.mean_) @ self.W_ + offset
        return z

    def encode(self, x: NDArray[Any]) -> Codes:
        """Signs of the projections, int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes

    def _keep(self, mean: NDArray[Any], W: NDArray[Any], c: NDArray[Any] | None = None) -> None:
        self.mean_ = mean.astype(np.float32)
        self.W_ = W.astype(np.float32)
        if c is not None:
            self.c_ = c.astype(np.float32)
