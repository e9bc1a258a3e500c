"""CNN semantic re-ranking [158] of a sketch retrieval list (survey Section VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import FeatureTrunk, HashNetwork
from cbir_lite.methods.sketch._shared import euclidean, per_label
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class _Dual(nn.Module):
    """A descriptor of length one for the first list, and class probabilities beside it."""

    def __init__(self, x: NDArray[Any], size: tuple[int, int, float], classes: int):
        super().__init__()
        width, bits, dropout = size
        self.describe = HashNetwork(x, width, bits, dropout)
        self.classify = nn.Sequential(FeatureTrunk(x, width, dropout), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, bits + C)."""
        return torch.cat([F.normalize(self.describe(x), dim=1), F.softmax(self.classify(x), 1)], 1)


@dataclass(kw_only=True, eq=False)
class SemanticReranking(TwoTowerMethod):
    r"""A first list by appearance is put in a new order by what two classifiers believe.

    One classifier knows sketches, another photos. The first list comes from descriptors that only
    know which photo a sketch belongs to. For its head, the category of the query is inferred from
    the sketch's probabilities, and each photo moves up by how much its own probabilities agree with
    it. What stands behind the head keeps its place.

    :survey: Sections V-A, VII-B, VII-F; Fig. 5
    :cite: wang2020reranking
    :source: the paper's abstract (two CNNs, category inference, category similarity, re-ranking of
        the initial list) and the survey's row; no full text or code was found
    :objective: s'(q,i)=s(q,i)+\lambda\,p_q^\top p_i\ \text{ for } i \text{ in the first } N;\quad
        \min\ \mathrm{CE}(y,p_q)+\mathrm{CE}(y,p_i)
        -\log\frac{e^{s(q,i)/\tau}}{\sum_je^{s(q,j)/\tau}}
    :shapes: x (n, d), other (n, d_s), labels (n, C); represented as float32 (n, bits + C),
        descriptor then probabilities
    :defaults: lambda = 1, the head is half of the list, tau = 0.1; chosen here
    :departures: classifiers and descriptors are hidden layers on frozen features; the first list,
        which the paper takes from other systems, is learned from pairs alone by a softmax over
        the photos of a batch; how categories are compared and how many are moved is not the
        paper's, which could not be read
    :fidelity: sketch
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"

    lam: float = 1.0
    head: float = 0.5
    tau: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """A describing and a classifying network for either side."""
        size = self.width, self.bits, self.dropout
        sides = (np.asarray(x), self._others())
        return TwoTowers(*(_Dual(side, size, n_classes or 1) for side in sides))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Both classifiers' cross entropy, and that of finding a sketch's own photo."""
        assert batch.other is not None
        image, other = (self.network_.get_submodule(k) for k in ("image", "other"))
        assert isinstance(image, _Dual)
        assert isinstance(other, _Dual)
        target = per_label(batch.labels)
        p, s = (
            F.normalize(net.describe(v), dim=1)
            for net, v in ((image, batch.x), (other, batch.other))
        )
        own = torch.arange(len(s))
        return {
            "photo classes": F.cross_entropy(image.classify(batch.x), target),
            "sketch classes": F.cross_entropy(other.classify(batch.other), target),
            "first list": F.cross_entropy(s @ p.T / self.tau, own),
        }

    def first_distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Distances of the first list: half the squared distance, one minus the cosine."""
        d = euclidean(queries[:, : self.bits], database[:, : self.bits])
        halves: NDArray[np.float32] = np.asarray(0.5 * np.square(d), np.float32)
        return halves

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """The first list's distances, where the head of each row is ordered anew.

        The head keeps the front: all that is behind it stays farther away.
        """
        d = self.first_distance(queries, database)
        count = max(1, round(self.head * d.shape[1]))
        head = np.argpartition(d, count - 1, axis=1)[:, :count]
        agree = queries[:, self.bits :] @ database[:, self.bits :].T
        moved = np.take_along_axis(d - self.lam * agree, head, axis=1)
        out = d + np.float32(self.lam + 2)
        # One minus a cosine is at most 2, an agreement at most 1: nobody of the rest is nearer.
        np.put_along_axis(out, head, moved, axis=1)
        return out.astype(np.float32)
