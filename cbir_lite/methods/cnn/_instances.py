"""Positions of the maps as instances: what category each shows, and features of one category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import DeepMethod
from cbir_lite.methods.networks import Dropout, Standardise

_SAMPLE = 256
"""Images from which the spread over positions is taken: all of them would need much memory."""


class Instances(nn.Module):
    """Maps (n, h, w, d) to features f (n, P, k) and category scores a (n, P, C) of P positions.

    One linear layer on standardised maps gives both; the features pass a ReLU.
    """

    def __init__(self, x: NDArray[Any], k: int, classes: int):
        super().__init__()
        if x.ndim != 4:
            raise ValueError(
                f"this system reads maps (n, h, w, d) and got {x.shape}: extract features of kind "
                "'maps'"
            )
        self.k = k
        self.standardise = Standardise(x[:: -(-len(x) // _SAMPLE)].astype(np.float32))
        self.layer = nn.Linear(x.shape[-1], k + classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f and a."""
        # Standardising the weights instead of the maps saves passes over the largest tensor.
        weight = self.layer.weight / self.standardise.get_buffer("scale")
        bias = self.layer.bias - weight @ self.standardise.get_buffer("mean")
        y = F.linear(x.float(), weight, bias).flatten(1, 2)
        return F.relu(y[..., : self.k]), y[..., self.k :]


class CategoryNetwork(nn.Module):
    """Instances, and a hash layer for the k features of each of C categories, side by side."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, classes: int, dropout: float):
        super().__init__()
        self.instances = Instances(x, max(8, width // 16), classes)
        # What all images have in common would give all of them one code.
        self.norm = nn.BatchNorm1d(classes * self.instances.k)
        self.drop = Dropout(dropout)
        self.hash_layer = nn.Linear(classes * self.instances.k, bits)


@dataclass(kw_only=True, eq=False)
class CategoryMethod(DeepMethod):
    """A system whose network reads maps and gathers features by category."""

    reads = "maps"

    network: ClassVar[type[CategoryNetwork]]

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The system's network on maps (n, h, w, d); raises ``ValueError`` for other inputs."""
        assert n_classes is not None
        return self.network(x, self.width, self.bits, n_classes, self.dropout)
