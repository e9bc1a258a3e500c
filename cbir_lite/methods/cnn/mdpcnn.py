"""MDPCNN [165]: multi-view discrimination and pairwise CNN (survey Sections V-A, VII-E)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.triplet._triplets import MetricLearner, squared_distances


def contrastive_center(f: Tensor, y: Tensor, centers: Tensor, delta: float = 1.0) -> Tensor:
    """Half of the distance to the own centre over the sum of those to the others, meaned.

    f (B, D), multi-hot y (B, C), centers (C, D). A row with several labels has the mean of its own
    centres' distances above the line.
    """
    d = (f[:, None] - centers).square().sum(2)
    own = (d * y).sum(1) / y.sum(1).clamp_min(1)
    return 0.5 * (own / ((d * (1 - y)).sum(1) + delta)).mean()


def contrastive(f: Tensor, s: Tensor, margin: float) -> Tensor:
    """Mean over pairs i != j of s d^2 + (1 - s) max(0, margin - d)^2; s (B, B)."""
    square = squared_distances(f)
    short = (margin - (square + 1e-8).sqrt()).clamp_min(0)
    others = 1 - torch.eye(len(f), dtype=f.dtype)
    pairs = s * square + (1 - s) * short.square()
    return (pairs * others).sum() / others.sum()


class _Network(HashNetwork):
    """Views (B, V, d) or one view (B, d) of objects to unit descriptors (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, classes: int):
        super().__init__(x, width, bits, dropout)
        self.centers = nn.Parameter(F.normalize(torch.randn(classes, bits)))

    def forward(self, x: Tensor) -> Tensor:
        views = x if x.ndim == 3 else x[:, None]
        z = super().forward(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return F.normalize(z.mean(1))


@dataclass(kw_only=True, eq=False)
class MDPCNN(MetricLearner):
    r"""Objects are seen in several views, and two losses compare the objects with each other.

    All views of an object go through one network; their outputs are joined to one descriptor of
    the object. The contrastive loss treats pairs of objects: it draws those of one class together
    and pushes others beyond a margin. Alone it only makes classes compact, so the
    contrastive-centre loss is added: the distance to the learned centre of the own class is divided
    by the distances to all other centres. Before each epoch the training objects are clustered, and
    those that the clusters put with another class are drawn more often, because easy ones teach
    little.

    :survey: Sections V-A, VII-E
    :cite: gao2020mdpcnn
    :source: the paper's abstract (views sliced and joined, training on samples that clustering does
        not separate, the two losses), and public PyTorch code of the contrastive-centre loss; the
        rest of its text was not read
    :objective: \sum_{i\ne j}s_{ij}d_{ij}^2+(1-s_{ij})\max(0,m-d_{ij})^2+\lambda\,\tfrac12\sum_i
        \frac{\|f_i-c_{y_i}\|^2}{\sum_{j\ne y_i}\|f_i-c_j\|^2+\delta}
    :shapes: x (n, d), views (n, V, d); labels (n, C); centres (C, bits); descriptors float32
        (n, bits) of unit length
    :defaults: delta = 1 (contrastive-centre loss); lam = 1, margin = 1, objects that clustering
        does not separate drawn 3 times as often, twice as many clusters as classes, all chosen here
    :departures: views are rotations, mirror images and crops of one picture instead of pictures
        around a 3D object; each batch takes the picture and a random number of its views, and a
        query is one view; views are joined by their mean instead of the Concat layer; how the paper
        clusters and selects was not read; means over pairs instead of sums; frozen backbone
        features replace the trained CNN
    :fidelity: simplified
    """

    views = ("rotate-10", "rotate10", "flip", "crop0")

    lam: float = 1.0
    margin: float = 1.0
    delta: float = 1.0
    favour: float = 3.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """One network for all views, and the centres of the classes."""
        assert n_classes is not None
        return _Network(x, self.width, self.bits, self.dropout, n_classes)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Which rows are hard to separate by clusters of their descriptors, float (n,)."""
        from sklearn.cluster import MiniBatchKMeans

        assert data.y is not None
        f = self.outputs(data.x).numpy()
        clusters = min(2 * data.y.shape[1], len(f))
        means = MiniBatchKMeans(clusters, n_init=1, random_state=self.seed, batch_size=4096)
        member = F.one_hot(torch.from_numpy(means.fit_predict(f)).long(), clusters).float()
        leading = (member.T @ data.y).argmax(1)
        found = data.y.gather(1, leading[member.argmax(1)][:, None]).squeeze(1)
        self.memory_["hard"] = 1 - found

    def _batches(self, data: TrainingData, epoch: int) -> Iterator[Batch]:
        generator = self._generator(epoch)
        weight = 1 + (self.favour - 1) * self.memory_["hard"]
        order = torch.multinomial(weight, len(data), replacement=True, generator=generator)
        for a in range(0, len(data) - 1, self.batch_size):
            yield data.batch(order[a : a + self.batch_size])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of objects made of the picture and some of its views."""
        seen = batch.x[:, None]
        if batch.views is not None:
            count = int(torch.randint(batch.views.shape[1] + 1, ()))
            some = torch.randperm(batch.views.shape[1])[:count]
            seen = torch.cat([seen, batch.views[:, some]], 1)
        f = self.network_(seen)
        centers = self.network_.get_parameter("centers")
        return {
            "contrastive": contrastive(f, batch.similarity, self.margin),
            "contrastive_center": self.lam
            * contrastive_center(f, batch.labels, centers, self.delta),
        }

    def embed_object(self, views: NDArray[Any]) -> NDArray[np.float32]:
        """Descriptors float32 (n, bits) of objects given by several views (n, V, d)."""
        self._require_fit()
        with torch.inference_mode():
            f: NDArray[np.float32] = self.network_(torch.as_tensor(views)).numpy()
        return f
