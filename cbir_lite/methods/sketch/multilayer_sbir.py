"""Multi-layer fusion [151]: sketches and photos meet in several layers (survey Section VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import FeatureTrunk
from cbir_lite.methods.sketch._shared import contrastive, pair
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class _Layers(nn.Module):
    """Hidden layers on features (n, d), each with a projection to its share of the output."""

    def __init__(self, x: NDArray[Any], width: int, shares: list[int], dropout: float):
        super().__init__()
        widths = [max(8, width >> k) for k in range(len(shares))]
        self.trunk = FeatureTrunk(x, widths[0], dropout)
        self.deeper = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))
            for a, b in pairwise(widths)
        )
        self.maps = nn.ModuleList(nn.Linear(w, m) for w, m in zip(widths, shares, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """The layers' parts side by side, each of length one over the root of their number."""
        h = self.trunk(x)
        parts = [F.normalize(self.maps[0](h), dim=1)]
        for layer, projection in zip(self.deeper, list(self.maps)[1:], strict=True):
            h = layer(h)
            parts.append(F.normalize(projection(h), dim=1))
        return torch.cat(parts, 1) / len(parts) ** 0.5


@dataclass(kw_only=True, eq=False)
class MultiLayerSBIR(TwoTowerMethod):
    r"""Both domains are mapped into common spaces in several layers, and the layers are fused.

    Every hidden layer of the sketch network and the layer at the same depth of the photo network
    have a space in common, where sketches and photos of a class are drawn together and others are
    pushed apart. The descriptor puts the vectors of all layers side by side, early ones that keep
    shape next to late ones that know the class.

    :survey: Sections V-A, VI-C, VII-B; Fig. 5
    :cite: yu2018multilayer
    :source: the paper's abstract and the survey's row; no full text or code was found
    :objective: \min\ \sum_l\frac1{n^2}\sum_{ij}s_{ij}\|f^l(s_i)-f^l(p_j)\|_2^2
        +(1-s_{ij})\max\big(0,\Delta-\|f^l(s_i)-f^l(p_j)\|_2\big)^2,\quad
        f=\big[f^1;\dots;f^L\big]/\sqrt L
    :shapes: x (n, d), other (n, d_s), labels (n, C); descriptors float32 (n, bits), the layers
        share the bits as evenly as can be
    :defaults: three layers, each half as wide as the one before; Delta = 1; similar and other pairs
        have equal weight; cosine ranks; chosen here
    :departures: the loss of a layer is the contrastive one of siamese networks of that time, since
        the paper's could not be read; layers are those of a network on frozen features, not the
        convolutions of a trained CNN; weights are not shared between the domains
    :fidelity: sketch
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"

    layers: int = 3
    margin: float = 1.0

    def shares(self) -> list[int]:
        """Dimensions of each layer's part; raises ``ValueError`` for fewer bits than layers."""
        if self.bits < self.layers:
            raise ValueError(f"bits={self.bits} are fewer than layers={self.layers}")
        return [len(part) for part in np.array_split(np.arange(self.bits), self.layers)]

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """One network of several layers for each domain."""
        sides = (np.asarray(x), self._others())
        return TwoTowers(*(_Layers(v, self.width, self.shares(), self.dropout) for v in sides))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of each layer over all sketch and photo pairs of a batch."""
        sides = [torch.split(z * self.layers**0.5, self.shares(), 1) for z in pair(self, batch)]
        return {
            f"layer {k + 1}": contrastive(2 - 2 * q @ p.T, batch.similarity, self.margin)
            for k, (p, q) in enumerate(zip(*sides, strict=True))
        }
