"""Binary codes of a siamese network [144] (survey Sections V-C.1, VI-A and Fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.deep import Batch, DeepMethod, shares_label


def balanced_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of labels (B, C) one partner that shares a label and one that does not.

    Returns the rows i and j of all pairs; rows that have no such partner are left out of that half.
    """
    s = shares_label(labels, labels)
    s.fill_diagonal_(0)
    different = 1 - shares_label(labels, labels)
    i, j = [], []
    for weights in (s, different):
        rows = weights.any(1).nonzero()[:, 0]
        i.append(rows)
        if len(rows):
            j.append(weights[rows].multinomial(1)[:, 0])
    return torch.cat(i), torch.cat([*j, rows[:0]])


@dataclass(kw_only=True, eq=False)
class SiameseBinary144(DeepMethod):
    r"""Two copies of one network see a pair of images and learn how far apart their codes must be.

    The contrastive loss pulls the outputs of similar pairs together and pushes those of dissimilar
    pairs apart until they are a margin away. Each image of a batch meets one partner of either
    kind, so both kinds weigh the same. A second term draws the outputs to plus and minus one, so
    that little is lost when only their signs are kept.

    :survey: Sections V-C.1, VI-A; Fig. 5
    :cite: jose2017siamese
    :source: the survey's sentences; the paper's text was not found, and it is likely, not certain,
        that the survey means it; the contrastive loss is that of Hadsell, Chopra and LeCun (2006)
    :objective: \min\ \tfrac12s\|u_i-u_j\|^2+\tfrac12(1-s)\max(0,m-\|u_i-u_j\|)^2
        +\alpha\,\||u|-1\|^2
    :shapes: x (n, d) or images uint8 (n, h, w, c), labels (n, C); u (B, bits); codes int8 (n, bits)
    :defaults: m = sqrt(2 x bits), the distance of two codes that differ in half of their bits;
        alpha = 0.1; chosen here
    :departures: the paper's own loss, network and constants are not known here; a hidden layer on
        frozen features (on images a small conv net) takes the place of a light-weight CNN
    :fidelity: sketch
    """

    alpha: float = 0.1

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return float((2 * self.bits) ** 0.5)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Contrastive terms as means over the pairs of their kind, and quantization."""
        u = self.network_(batch.x)
        i, j = balanced_pairs(batch.labels)
        s = (batch.labels[i] * batch.labels[j]).sum(1) > 0
        d2 = (u[i] - u[j]).square().sum(1)
        gap = (self.m - (d2 + 1e-12).sqrt()).clamp_min(0)
        return {
            "similar": 0.5 * (d2 * s).sum() / s.sum().clamp_min(1),
            "dissimilar": 0.5 * (gap.square() * ~s).sum() / (~s).sum().clamp_min(1),
            "quantization": self.alpha * (u.abs() - 1).square().sum(1).mean(),
        }
