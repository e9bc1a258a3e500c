"""Deep hashing with triplet quantization loss [135] (survey Sections V-C, VIII-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.triplet._triplets import ranking_loss, squared_distances


def quantized(f: Tensor) -> Tensor:
    """Signs of f (n, bits) with the gradient of f where |f| <= 1, and none beyond."""
    clipped = f.clamp(-1, 1)
    return clipped + (sign(f.detach()).float() - clipped).detach()


@dataclass(kw_only=True, eq=False)
class TripletQuantization(DeepMethod):
    r"""Quantization costs something only where it breaks the order of a triplet.

    The usual quantization loss pulls every output to its sign, also where retrieval would not
    suffer, and so takes expressiveness from the features. Here the loss is measured in triplets:
    the real-valued outputs must rank the positive before the negative by a margin, and so
    must their signs. How far an output is from its sign does not matter otherwise.

    :survey: Sections V-C.2, VIII-A
    :cite: zhou2017tq
    :source: the paper's abstract and the survey's sentences
    :objective: \min\ \mathrm{mean}_{(a,p,n)}\big[\max\big(0,\ m+d(f_a,f_p)-d(f_a,f_n)\big)
        +\lambda\max\big(0,\ m+d(b_a,b_p)-d(b_a,b_n)\big)\big],\quad
        d(x,y)=\tfrac1{4}\|x-y\|_2^2,\ b=\mathrm{sgn}(f)
    :shapes: x (n, d), labels (n, C); f (n, bits); codes int8 (n, bits)
    :defaults: m = bits / 4, the distance of codes that differ in a quarter of their bits;
        lambda = 1
    :departures: the paper's formulas and constants were not at hand, only what its loss is measured
        on; all triplets of a batch are used; the sign passes the gradient straight through
        within [-1, 1]; a hidden layer on frozen features instead of a network trained end to end,
        Adam with cosine decay
    :fidelity: sketch
    """

    lam: float = 1.0
    margin: float = 0.25

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking by outputs, and by their signs, over all triplets of the batch."""
        f = torch.tanh(self.network_(batch.x))
        m, s = self.margin * self.bits, batch.similarity
        return {
            "triplet": ranking_loss(squared_distances(f) / 4, s, m),
            "quantization": self.lam * ranking_loss(squared_distances(quantized(f)) / 4, s, m),
        }
