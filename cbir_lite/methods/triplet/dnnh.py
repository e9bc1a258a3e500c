"""DNNH [63]: simultaneous feature learning and hash coding (survey Sections III.3, V-C.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.triplet._triplets import DivideAndEncode, ranking_loss, squared_distances


def piecewise_threshold(h: Tensor, epsilon: float) -> Tensor:
    """h in [0, 1] where it is within epsilon of one half, else 0 or 1."""
    return torch.where((h - 0.5).abs() <= epsilon, h, (h > 0.5).to(h.dtype))


@dataclass(kw_only=True, eq=False)
class DNNH(DeepMethod):
    r"""One slice of the features for each bit, and a triplet ranking loss on near-binary outputs.

    The hidden layer is divided into as many slices as the code has bits. Each slice passes through
    its own linear unit and a sigmoid; a piecewise threshold then turns clear outputs into 0 or 1
    and lets only the undecided ones vary. Distances between these outputs must order the images of
    every triplet: a query is nearer to an image of its class than to one of another class, by a
    margin.

    :survey: Sections III.3, V-C.2; Tables II, III, IV
    :cite: lai2015dnnh
    :source: the paper's abstract, and a public reimplementation in Caffe that takes structure and
        parameters from the first author's code (slices of 50 features, sigmoid outputs, hinge on
        squared distances, margin 2)
    :objective: \min\ \mathrm{mean}_{(I,I^+,I^-)}\max\big(0,\ m+\|g(h)-g(h^+)\|_2^2
        -\|g(h)-g(h^-)\|_2^2\big),
        \quad h=\sigma(W_ix^{(i)}),\ g(h)=h\text{ if }|h-\tfrac12|\le\epsilon
        \text{, else }[h>\tfrac12]
    :shapes: x (n, d), labels (n, C); h (n, bits); codes int8 (n, bits), +1 where h is at least 1/2
    :defaults: m = bits / 4 and epsilon = 0.4, chosen on a held-out part of the training images,
        where the margins 1 and 2 of the paper and the public code rank worse: one or two bits of
        difference satisfy them, and training stops there
    :departures: the network-in-network trained end to end is replaced by a hidden layer on frozen
        features (or a small conv net on images), whose slices have about width / bits features
        instead of 50; all valid triplets of a batch instead of triplets drawn beforehand; Adam with
        cosine decay instead of SGD
    :fidelity: simplified
    """

    epsilon: float = 0.4
    margin_per_bit: float = 0.25

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits * self.margin_per_bit

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """One slice of the hidden layer for each bit."""
        return DivideAndEncode(x, self.width, self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplet ranking loss on thresholded sigmoid outputs, averaged over valid triplets."""
        h = piecewise_threshold(torch.sigmoid(self.network_(batch.x)), self.epsilon)
        return {"ranking": ranking_loss(squared_distances(h), batch.similarity, self.m)}
