"""DTSH [99]: deep supervised hashing with triplet labels (survey Sections IV-A, V-C.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(kw_only=True, eq=False)
class DTSH(DeepMethod):
    r"""The likelihood of triplet labels given half the inner products of outputs.

    DPSH says how alike two images are; here a label is an order: query q is more like p than n.
    The margin alpha asks for the inner products to differ before the order counts as learned. Every
    valid triplet of a batch is used.

    :survey: Sections IV-A, V-C.2
    :cite: wang2016dtsh
    :source: the paper and the first author's public code (margin bits / 2, weight 100 of the
        quantization beside a sum over 50 positives x 50 negatives x 9 other classes for each query)
    :objective: \min\ -\sum_{(q,p,n)}\big(\Theta_{qp}-\Theta_{qn}-\alpha
        -\log(1+e^{\Theta_{qp}-\Theta_{qn}-\alpha})\big)+\lambda\sum_i\|b_i-u_i\|_2^2,
        \quad \Theta_{ij}=\tfrac12 u_i^\top u_j,\ b_i=\mathrm{sgn}(u_i)
    :shapes: x (n, d), labels (n, C); u (n, bits); codes int8 (n, bits)
    :defaults: alpha = bits / 2 (public code); lam = 100 / 22500, the public code's weight after its
        sum over triplets is made a mean, as here
    :departures: CNN-F trained end to end is replaced by a hidden layer on frozen features
        (or a small conv net on images); triplets are all valid ones of the batch and their three
        outputs get gradients, where the public code draws positives and negatives from stored
        outputs of the training set and moves the query only; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    lam: float = 100 / (50 * 50 * 9)

    @property
    def alpha(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits / 2

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplet likelihood averaged over valid triplets, quantization averaged over images."""
        u = self.network_(batch.x)
        s = batch.similarity
        theta = 0.5 * u @ u.T
        # One row for each (query, positive), one column for each possible negative: B^3 floats at
        # the very most, B^2 x (share of positives) x B in general.
        q, p = (s - torch.eye(len(u)) > 0).nonzero(as_tuple=True)
        negative = 1 - s[q]
        order = theta[q, p][:, None] - theta[q] - self.alpha
        return {
            "likelihood": (F.softplus(-order) * negative).sum() / negative.sum().clamp_min(1),
            "quantization": self.lam * (sign(u.detach()) - u).square().sum() / len(u),
        }
