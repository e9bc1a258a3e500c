"""PCA with signs: the simplest code that learns from data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from cbir_lite.datasets import Split
from cbir_lite.methods.shallow._linear import LinearHash, pooled, principal_components


@dataclass(kw_only=True, eq=False)
class PCASign(LinearHash):
    r"""Signs of the first principal components.

    Each bit is balanced and uncorrelated with the others as far as the data is Gaussian, but all
    bits count the same in Hamming distance although the components' variances fall: more bits
    can make the ranking worse.

    :survey: none
    :name: PCA signs
    :year: 2010
    :supervision: unsupervised
    :network: none
    :descriptor: binary
    :cite: none
    :source: the baseline "PCA direct" of the ITQ paper (Gong et al.), also known as PCAH or tPCA
    :objective: b = \mathrm{sgn}\big(V^\top(x-\bar x)\big),\quad
        \max_{V^\top V = I}\ \mathrm{tr}\big(V^\top X^\top X V\big)
    :shapes: x (n, d) with bits <= d; codes int8 (n, bits)
    :defaults: none to choose; eigenvectors are oriented by their largest entry
    :departures: none; bits beyond the rank of the training rows are constant +1, which leaves every
        Hamming distance as it is
    :fidelity: faithful
    """

    supervision = "unsupervised"

    def fit(self, split: Split, **loop: Any) -> Self:
        """Eigenvectors of the covariance; raises ``ValueError`` when bits exceeds d."""
        mean, V, _ = principal_components(pooled(split.x, system="PCASign"), self.bits)
        self._keep(mean, V)
        return self
