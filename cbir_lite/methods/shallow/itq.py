"""ITQ [13]: PCA, then the rotation that loses least in the signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import sign
from cbir_lite.methods.shallow._linear import Float64, LinearHash, pooled, principal_components


def quantization(V: NDArray[Any], R: NDArray[Any]) -> float:
    """Q(B, R) per row: mean of |sgn(v R) - v R|^2 over the rows v of V (n, bits)."""
    Z = V @ R
    return float(np.square(sign(Z) - Z).sum() / len(V))


def rotate(V: NDArray[Any], R: NDArray[Any]) -> Float64:
    """One iteration: fix R and set B = sgn(V R), then the R that solves Procrustes for B."""
    B = sign(V @ R).astype(np.float64)
    S, _, S_hat = np.linalg.svd(B.T @ V)
    rotation: Float64 = (S @ S_hat).T
    return rotation


@dataclass(kw_only=True, eq=False)
class ITQ(LinearHash):
    r"""Rotate the principal components so that they lie close to the corners of the cube.

    A rotation keeps all distances between the projected rows; of all rotations ITQ looks for the
    one whose signs lose least, fixing codes and rotation in turn. It spreads the variance evenly
    over the bits. ``history_`` holds the quantization loss before and after each iteration.

    :survey: none
    :name: ITQ
    :year: 2013
    :supervision: unsupervised
    :network: none
    :descriptor: binary
    :cite: gong2013itq
    :source: the paper, and the authors' public MATLAB code (random orthogonal start, 50 iterations)
    :objective: \min_{B,R}\ \|B - V R\|_F^2,\quad B\in\{-1,1\}^{n\times K},\ R^\top R = I,\
        V = (X-\bar x)W_{pca}
    :shapes: x (n, d) with bits <= d; codes int8 (n, bits)
    :defaults: iterations = 50 (paper and code)
    :departures: none
    :fidelity: faithful
    """

    supervision = "unsupervised"

    iterations: int = 50

    def fit(self, split: Split, **loop: Any) -> Self:
        """PCA, then alternate; raises ``ValueError`` when bits exceeds d."""
        x = pooled(split.x, system="ITQ")
        mean, W, _ = principal_components(x, self.bits)
        V = (x - mean) @ W
        start = np.random.default_rng(self.seed).standard_normal((self.bits, self.bits))
        R = np.linalg.svd(start)[0]
        self.history_ = [{"quantization": quantization(V, R)}]
        for _ in range(self.iterations):
            R = rotate(V, R)
            self.history_.append({"quantization": quantization(V, R)})
        self._keep(mean, W @ R)
        return self
