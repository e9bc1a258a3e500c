"""Neural codes [61]: activations of a pretrained network as the descriptor (survey Section III)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Descriptors, Method
from cbir_lite.methods.shallow._linear import pooled, principal_components


def _normalise(x: NDArray[Any]) -> Descriptors:
    """Rows of length one; a zero row stays zero."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norms > 0, norms, 1), np.float32)


@dataclass(kw_only=True, eq=False)
class NeuralCodes(Method):
    r"""Network activations of unit length, compressed by PCA and ranked by Euclidean distance.

    Real-valued: ``bits`` is the number of dimensions that are kept, each a float32. The variant
    ``full`` keeps them all and is the row that binary codes are measured against.

    :survey: Sections III, V-A, VIII-C
    :cite: babenko2014neural
    :source: the survey's Fig. 4 and Section III, and the paper's abstract (PCA compression of the
        activations of a network trained for another task)
    :objective: f(x)=V_k^\top\big(\phi(x)/\|\phi(x)\|_2-\mu\big),\quad \text{rank by } \|f_q-f_i\|_2
    :shapes: x (n, d); descriptors float32 (n, bits), of the variant full (n, d)
    :defaults: whiten = False; with it components are divided by their deviations and the
        result normalised again
    :departures: the activations are those of this package's backbones, not of the paper's network,
        and neither retrained on landmarks nor projected by the paper's discriminative
        reduction; no labels are used here
    :fidelity: simplified
    """

    supervision = "unsupervised"
    descriptor = "real"
    variants = {"full": {"compress": False}}  # noqa: RUF012

    compress: bool = True
    whiten: bool = False

    def fit(self, split: Split, **loop: Any) -> Self:
        """PCA of the normalised rows; raises ``ValueError`` when bits exceeds d."""
        x = _normalise(pooled(split.x, system="NeuralCodes"))
        self.dimensions_ = int(x.shape[1])
        if self.compress:
            mean, V, deviation = principal_components(x, self.bits)
            if self.whiten:
                V = V / np.where(deviation > 0, deviation, 1.0)
            self.mean_, self.V_ = mean.astype(np.float32), V.astype(np.float32)
        return self

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Descriptors float32 (n, bits), or (n, d) of the variant full."""
        self._require_fit()
        unit = _normalise(pooled(x, self.dimensions_, "NeuralCodes"))
        if not self.compress:
            return unit
        f: Any = (unit - self.mean_) @ self.V_
        return _normalise(f) if self.whiten else f

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Euclidean distances float32 (n_queries, n_database)."""
        squares = np.square(queries).sum(1)[:, None] + np.square(database).sum(1)
        d: NDArray[np.float32] = np.sqrt(np.maximum(squares - 2 * queries @ database.T, 0))
        return d
