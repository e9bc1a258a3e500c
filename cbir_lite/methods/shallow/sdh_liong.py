"""SDH of Liong et al. [110]: supervised deep hashing of 2015 (survey Sections IV-B, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cbir_lite.datasets import Split
from cbir_lite.methods.shallow._liong import Float, TanhHash, variance


class Pairs:
    """Sums over all ordered pairs of rows that share a label, and over all others.

    Rows with the same label set are alike, so sums of n^2 pairs are sums over label sets.
    """

    def __init__(self, labels: NDArray[np.uint8]):
        kinds, self.kind, counts = np.unique(
            labels, axis=0, return_inverse=True, return_counts=True
        )
        self.kind = self.kind.reshape(-1)
        self.shared = (kinds.astype(np.int64) @ kinds.T > 0).astype(np.float64)
        n = len(labels)
        self.members = csr_array((np.ones(n), (self.kind, np.arange(n))), (len(kinds), n))
        partners = self.shared @ counts
        self.partners = partners[self.kind]
        labelled = np.diag(self.shared)[self.kind]
        self.similar = float((self.partners - labelled).sum())
        """Number of ordered pairs i != j that share a label."""
        self.different = float(len(labels) ** 2 - self.partners.sum() - (labelled == 0).sum())
        """Number of ordered pairs i != j that do not."""

    def laplacians(self, H: Float) -> tuple[Float, Float]:
        """sum_j s_ij (h_i - h_j) of each row, and the same over pairs that do not share a label."""
        sums = self.shared @ (self.members @ H)
        within = self.partners[:, None] * H - sums[self.kind]
        whole = len(H) * H - H.sum(0, dtype=np.float64)
        return within, whole - within


@dataclass(kw_only=True, eq=False)
class SDH(TanhHash):
    r"""DH whose outputs also spread between classes and gather within them.

    The network, its other terms and its steps are those of DH. The balance term gains the scatter
    of the outputs over pairs with different labels, less that over pairs with the same label. The
    start follows ``self.seed``. Not the supervised discrete hashing of the same year.

    :survey: Sections IV-B, VI-A, IX; Table III
    :cite: liong2015dh
    :source: the survey, a public re-implementation (terms and constants); layer widths and order
        of the steps as known from the paper, whose text could not be searched
    :objective: \min_{W,c}\ \frac{1}{2n}\|B-H\|_F^2
        -\frac{\lambda_1}{2}\Big(\frac1n\|H-\bar h\mathbf{1}^\top\|_F^2
        +\alpha\,\mathrm{tr}(\Sigma_B-\Sigma_W)\Big)
        +\frac{\lambda_2}{2}\sum_m\|W_mW_m^\top-I\|_F^2
        +\frac{\lambda_3}{2}\sum_m(\|W_m\|_F^2+\|c_m\|_2^2),\quad
        \Sigma_W=\frac{1}{|S|}\sum_{(i,j)\in S}(h_i-h_j)(h_i-h_j)^\top
    :shapes: x (n, d), labels (n, C); H (n, bits); codes int8 (n, bits)
    :defaults: alpha = 30, lambda_1 = 0.1, lambda_2 = 30, lambda_3 = 1e-6 (validation; the paper
        has alpha = 1); 5 rounds of 30 steps; widths as in DH
    :departures: those of DH, which say why the weights differ from the paper's; all pairs of the
        training set are used
    :fidelity: simplified
    """

    lam1: float = 0.1
    lam2: float = 30.0
    rounds: int = 5
    steps: int = 30
    alpha: float = 30.0

    def prepare(self, split: Split) -> None:
        """Which rows share labels."""
        self._pairs = Pairs(split.labels)

    def spread(self, H: Float) -> tuple[dict[str, float], Float]:
        """Half the variance, half of alpha tr Sigma_B and of -alpha tr Sigma_W."""
        pairs = self._pairs
        parts, slope = variance(H)
        within, between = pairs.laplacians(H)
        # sum_ij s_ij |h_i - h_j|^2 = 2 sum_i <h_i, sum_j s_ij (h_i - h_j)>.
        within *= self.alpha / max(pairs.similar, 1.0)
        between *= self.alpha / max(pairs.different, 1.0)
        parts |= {"between": float((H * between).sum()), "within": -float((H * within).sum())}
        return parts, slope + 2 * (between - within)
