"""Features selected and weighted by the replicator equation [215] (survey Section VII-E)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation


@dataclass(kw_only=True, eq=False)
class Replicator(Aggregation):
    r"""Places of the maps compete, and those survive that belong to the object together.

    The equation of evolutionary games lets a share grow where its fitness is above the mean. First
    the fitness of a place is its similarity to the surviving others, so the shares gather on the
    coherent part that fires most. Then, among the survivors, fitness is the dissimilarity to
    others, which takes weight from what repeats itself (burstiness). The places' features are
    summed with these weights, brought to unit length and compressed.

    :survey: Section VII-E
    :cite: pang2018replicator
    :source: the paper's abstract (its three steps) and the replicator equation in the survey's row;
        the paper's formulas and MATLAB code could not be read
    :objective: \max_{w\in\Delta}\ w^\top Aw,\quad w_i\leftarrow w_i\frac{(Aw)_i}{w^\top Aw},\quad
        f=\sum_p w_p\,\phi(p)
    :shapes: maps x (n, h, w, d); weights (n, h w); descriptors float32 (n, bits)
    :defaults: 10 steps of selection, which stop before one cluster has won all, and 10 against
        burstiness; whiten = 0.5; all chosen here
    :departures: the paper first detects some object and background places and assigns the others by
        a quadratic problem; here selection starts from the sums over channels instead, and the
        affinities are cosines; maps are those of this package's backbones
    :fidelity: sketch
    """

    select_steps: int = 10
    burst_steps: int = 10

    def weights(self, maps: Tensor) -> Tensor:
        """Weights of the places (n, h w), which sum to one."""
        places = maps.flatten(1, 2)
        unit = A.l2n(places)
        cosine = (unit @ unit.transpose(1, 2)).clamp(0, 1)
        others = 1 - torch.eye(cosine.shape[1])
        start = places.sum(2).clamp_min(0) + 1e-6
        kept = A.replicate(cosine * others, start, self.select_steps)
        return A.replicate((1 - cosine) * others, kept, self.burst_steps)

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums of the places' features by their weights (n, d)."""
        return torch.einsum("npd,np->nd", maps.flatten(1, 2), self.weights(maps))
