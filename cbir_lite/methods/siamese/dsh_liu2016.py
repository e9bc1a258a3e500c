"""DSH [97]: deep supervised hashing (survey Sections IV-A, V-A, V-C.1, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(kw_only=True, eq=False)
class DSH(DeepMethod):
    r"""A contrastive loss on relaxed codes with an L1 pull towards plus and minus one.

    Similar pairs are pulled together, dissimilar pairs pushed apart up to the margin m. All pairs
    of a batch are used.

    :survey: Sections IV-A, V-A, V-C.1, VI-A; Table II
    :cite: liu2016dsh
    :source: the paper and the authors' public code (margin 2 x bits, alpha 0.01)
    :objective: \min\ \sum_{i<j}\tfrac12(1-y_{ij})\|b_i-b_j\|_2^2
        +\tfrac12 y_{ij}\max(m-\|b_i-b_j\|_2^2,0)+\alpha(\||b_i|-1\|_1+\||b_j|-1\|_1),
        \quad y_{ij}=1\text{ if dissimilar}
    :shapes: x (n, d) or images uint8 (n, h, w, c), labels (n, C); codes int8 (n, bits)
    :defaults: m = 2 x bits and alpha = 0.01 (paper and public code); the sum is a mean over pairs
    :departures: the paper's five-layer network is replaced by a hidden layer on frozen features; on
        images, a small conv net is trained end to end as in the paper. Adam instead of SGD
    :fidelity: simplified
    """

    alpha: float = 0.01

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return 2.0 * self.bits

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Contrastive terms averaged over pairs i < j, and the regulariser over the same pairs."""
        b = self.network_(batch.x)
        i, j = torch.triu_indices(len(b), len(b), offset=1)
        y = 1 - batch.similarity[i, j]
        squares = b.square().sum(1)
        d2 = (squares[:, None] + squares[None, :] - 2 * b @ b.T).clamp_min(0)[i, j]
        pull = (b.abs() - 1).abs().sum(1)
        return {
            "similar": (0.5 * (1 - y) * d2).mean(),
            "dissimilar": (0.5 * y * (self.m - d2).clamp_min(0)).mean(),
            "regulariser": self.alpha * (pull[i] + pull[j]).mean(),
        }
