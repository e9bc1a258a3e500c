"""MLSH [107]: multi-level supervised hashing with deep features (survey Section IV-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import FeatureTrunk
from cbir_lite.methods.shallow._linear import pooled


def table_bits(bits: int, levels: int = 3) -> list[int]:
    """Bits of each table, as even as can be; what is left over goes to the highest levels."""
    return [(bits + level) // levels for level in range(levels)]


class LevelNetwork(nn.Module):
    """A classifier of two hidden layers, with a hash table on its input and on each of them.

    Calling it gives the outputs of all tables side by side, z (B, bits), from low to high.
    """

    def __init__(self, x: NDArray[Any], width: int, bits: int, n_classes: int, dropout: float):
        super().__init__()
        self.trunk = FeatureTrunk(x, width, dropout)
        self.upper = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(width, n_classes)
        sizes = [x.shape[1], width, width]
        pairs = zip(sizes, table_bits(bits), strict=True)
        self.tables = nn.ModuleList(nn.Linear(size, b) for size, b in pairs)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Standardised features and the outputs of both hidden layers, (B, .) each."""
        low, middle = self.trunk[0](x), self.trunk(x)
        return [low, middle, self.upper(middle)]

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        return torch.cat([t(f) for t, f in zip(self.tables, self.levels(x), strict=True)], dim=1)


@dataclass(kw_only=True, eq=False)
class MLSH(LatentLayer):
    r"""One hash table for each level of a network's features, instead of one on the last layer.

    High layers say what an image shows, low layers how it is built. A table of codes is learned on
    the features of each level on its own, and search adds up the distances in all tables:
    side by side, their codes are one code. The tables do not change the features they read.

    :survey: Section IV-A
    :cite: ng2020mlsh
    :source: the survey's sentence and the abstract (levels of one network, tables trained
        individually, then integrated); the objective of a table was not available
    :objective: \min\ \mathrm{CE}\big(y,\,Vf^3(x)\big)+\sum_{l=1}^{3}\Big(
        \mathrm{mean}_{i<j}\big(\log(1+e^{\theta^l_{ij}})-s_{ij}\theta^l_{ij}\big)
        +\eta\,\mathrm{mean}_i\tfrac{1}{K_l}\|z^l_i-\mathrm{sgn}(z^l_i)\|^2\Big),\quad
        z^l=W_lf^l(x)+c_l,\ \theta^l_{ij}=\tfrac12z_i^{l\top}z_j^l,\ K=K_1+K_2+K_3
    :shapes: x (n, d), labels (n, C); f^1 (n, d), f^2 and f^3 (n, width); codes int8 (n, bits)
    :defaults: a third of the bits for each level, eta = 0.1: choices of this package
    :departures: the levels are frozen backbone features and two hidden layers trained on them, not
        layers of a convolutional network; the tables learn by the pair likelihood of DPSH, and
        along with the network, which they leave alone; Adam with cosine decay
    :fidelity: sketch
    """

    eta: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The classifier and its tables."""
        assert n_classes is not None
        x = pooled(x, system="MLSH")
        return LevelNetwork(x, self.width, self.bits, n_classes, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification by the highest level, and likelihood and quantization of each table."""
        network: Any = self.network_
        levels = network.levels(batch.x)
        i, j = torch.triu_indices(len(batch.x), len(batch.x), offset=1)
        s = batch.similarity[i, j]
        terms = {"classification": self.classification(levels[-1], batch.labels)}
        for level, (table, f) in enumerate(zip(network.tables, levels, strict=True), 1):
            z = table(f.detach())
            theta = 0.5 * (z @ z.T)[i, j]
            terms[f"likelihood_{level}"] = (F.softplus(theta) - s * theta).mean()
            terms[f"quantization_{level}"] = self.eta * (sign(z.detach()) - z).square().mean()
        return terms
