"""Supervised deep feature embedding with handcrafted features [106] (survey Section VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.shallow._linear import pooled
from cbir_lite.methods.triplet._triplets import MetricLearner, ranking_loss, squared_distances


class _FusionNetwork(nn.Module):
    """Parts of x (n, sum d), each through a layer of its own, joined to unit vectors (n, bits)."""

    def __init__(
        self, x: NDArray[Any], parts: list[int], width: int, bits: int, dropout: float, classes: int
    ):
        super().__init__()
        self.parts = parts
        self.standardise = Standardise(x)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(d, width), nn.ReLU()) for d in parts
        )
        self.embedding = nn.Sequential(nn.Dropout(dropout), nn.Linear(width * len(parts), bits))
        self.classifier = nn.Linear(bits, classes)

    def fused(self, x: Tensor) -> Tensor:
        """The embedding (n, bits) before it is brought to unit length."""
        pieces = self.standardise(x).split(self.parts, dim=1)
        branches = [branch(p) for branch, p in zip(self.branches, pieces, strict=True)]
        e: Tensor = self.embedding(torch.cat(branches, 1))
        return e

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fused(x))


@dataclass(kw_only=True, eq=False)
class DeepHandcraftedEmbedding(MetricLearner):
    r"""Join what a network learned with what people designed, and learn one embedding of both.

    A network trained to classify may drop the colours and edges that tell two products of one class
    apart, and hand-crafted descriptors keep them. A fusion unit gives the deep feature and each
    descriptor a layer of its own, joins their outputs, and maps them to one short vector. It learns
    with two losses on the labels: the vector must tell the classes apart, and images of one class
    must lie nearer to each other than to those of other classes.

    :survey: Sections IV-A, V-A, VI-C, Figure 5
    :cite: kan2019sdfe
    :source: the paper's abstract (fusion unit, metric learning from labels), and names in the
        authors' retrieval scripts, which rank a 128-dimensional embedding trained with several
        losses, one of them of classification, and with HSV colours, by Euclidean distance; the
        layers of the fusion unit and the losses were not read
    :objective: \min\ \mathrm{CE}(y,Ve)+\lambda\,\mathrm{mean}_{(a,p,n)}\max\big(0,\ m+\|f_a-f_p\|^2
        -\|f_a-f_n\|^2\big),\quad f=e/\|e\|,\ e=U\big[g_0(\phi);g_1(h_1);\ldots;g_P(h_P)\big]
    :shapes: x (n, d) of a deep feature phi and P descriptors h, labels (n, C); descriptors
        float32 (n, bits) of unit length
    :defaults: margin = 0.3, lam = 1, a hidden layer of width / 2 for each part; chosen here
    :departures: the network is frozen, and its pooled output is fused, while the paper trains it;
        descriptors are a colour histogram and oriented gradients; both losses and the fusion unit
        are the plainest of their kind
    :fidelity: sketch
    """

    reads = "pooled+colour_histogram+hog"

    margin: float = 0.3
    lam: float = 1.0

    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from features with descriptors beside them, whose widths are ``split.parts``."""
        self.parts_ = list(split.parts)
        return super().fit(split, **loop)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """A branch for each part, the embedding that joins them, and a classifier."""
        assert n_classes is not None
        x = pooled(x, system="DeepHandcraftedEmbedding")
        width = self.width // 2
        return _FusionNetwork(x, self.parts_, width, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification by the embedding, ranking of all triplets of the batch by direction."""
        network = self.network_
        assert isinstance(network, _FusionNetwork)
        e = network.fused(batch.x)
        y = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        d = squared_distances(F.normalize(e))
        return {
            "classification": F.cross_entropy(network.classifier(e), y),
            "ranking": self.lam * ranking_loss(d, batch.similarity, self.margin),
        }
