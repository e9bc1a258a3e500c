"""JMLH [85]: just-maximizing-likelihood hashing (survey Section III.7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.autoencoder._straight_through import binary_units
from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.deep import Batch


def divergence(z: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(z)) || Bernoulli(1/2)) of each logit; never negative."""
    entropy = F.softplus(z) - z * z.sigmoid()
    return math.log(2) - entropy


@dataclass(kw_only=True, eq=False)
class JMLH(LatentLayer):
    r"""Random bits whose only task is to make the labels likely, through an information bottleneck.

    The network gives a probability for each bit. A sample of bits goes to a linear classifier,
    whose likelihood of the labels is the one goal, with the gradient passed straight through the
    sampling. The divergence of the bits from fair coins limits what they may tell about the image
    and keeps both values of each bit in use. The code takes each bit's more likely value.

    :survey: Section III.7
    :cite: shen2019jmlh
    :source: a public TensorFlow implementation whose author could not be made out (both terms, the
        weight 0.2, the straight-through layer), and the survey's row
    :objective: \min\ -\mathrm{mean}_i\,\mathbb{E}_{b\sim q(b|x_i)}\log p(y_i|b)
        +\lambda\,\mathrm{mean}_i\,\mathrm{KL}\big(q(b|x_i)\,\|\,p(b)\big),\quad
        q(b|x)=\prod_k\mathrm{Bernoulli}(\sigma(z_k)),\ p(b)=2^{-K},\
        p(y|b)=\mathrm{softmax}(Wb+c)
    :shapes: x (n, d), labels (n, C); z (n, bits), b in {0, 1}; codes int8 (n, bits), z >= 0
    :defaults: lambda = 0.2 (public code)
    :departures: the implementation looked at thresholds at one half; here bits are sampled in
        training, as the expectation asks. The convolutional network is replaced by a hidden layer
        on frozen features; images with several labels get one logistic likelihood a class
    :fidelity: simplified
    """

    lam: float = 0.2

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy given sampled bits, and the divergence of the bits from fair coins."""
        z = self.network_(batch.x)
        threshold: Any = torch.rand_like(z) if self.network_.training else 0.5
        b = binary_units(z.sigmoid(), threshold)
        return {
            "likelihood": self.classification(b, batch.labels),
            "divergence": self.lam * divergence(z).sum(1).mean(),
        }
