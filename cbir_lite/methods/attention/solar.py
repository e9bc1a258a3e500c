"""SOLAR [164]: second-order attention and second-order similarity (survey Section V-E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.features import aggregation as A
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.siamese._tuples import (
    TupleLearner,
    Tuples,
    in_blocks,
    require_maps,
    whitening,
)


def second_order_similarity(t: Tuples) -> Tensor:
    """Root of the mean square of d(q, n) - d(p, n) over the negatives of all tuples.

    d are squared distances.
    """
    _, from_query = t.squared()
    from_positive = (t.positive[:, None] - t.negative).square().sum(2)
    return ((from_query - from_positive).square().mean() + 1e-12).sqrt()


class SecondOrderAttention(nn.Module):
    """Maps (n, h, w, d) plus, at each place, what all places hold, by their relation to it."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.f = nn.Linear(channels, inner)
        self.g = nn.Linear(channels, inner)
        self.h = nn.Linear(channels, inner)
        self.v = nn.Linear(inner, channels)
        # The block starts as the identity.
        nn.init.zeros_(self.v.weight)
        nn.init.zeros_(self.v.bias)

    def relations(self, places: Tensor) -> Tensor:
        """How much each place (row) takes from each other one, (n, P, P), rows sum to one."""
        f, g = F.relu(self.f(places)), F.relu(self.g(places))
        return (f @ g.transpose(1, 2) * f.shape[2] ** -0.5).softmax(2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape."""
        places = x.flatten(1, 2)
        taken = self.relations(places) @ self.h(places)
        return x + self.v(taken).view(x.shape)


class _Network(nn.Module):
    """Attention, generalised mean, whitening; unit descriptors (n, bits)."""

    def __init__(self, x: NDArray[Any], inner: int, p: float, bits: int):
        super().__init__()
        self.p = p
        self.scale = nn.Buffer(torch.tensor(max(float(np.abs(x[:64]).mean()), 1e-6)))
        self.attention = SecondOrderAttention(x.shape[-1], inner)
        pooled = in_blocks(x, lambda m: self._pool(torch.from_numpy(m / float(self.scale))).numpy())
        self.whitening = whitening(torch.from_numpy(pooled), bits)

    def _pool(self, x: Tensor) -> Tensor:
        return A.l2n(A.gem(x, self.p))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(x.float() / self.scale)
        return F.normalize(self.whitening(self._pool(attended)))


@dataclass(kw_only=True, eq=False)
class SOLAR(TupleLearner):
    r"""Relations between places shape the descriptor, relations between images shape the space.

    Second-order attention lets each place of the maps take from all others as much as their
    features relate, and adds it to what the place holds; generalised-mean pooling and a whitening
    layer follow. In training the triplet loss orders distances, which is a first-order demand.
    The second-order similarity loss asks more: the positive must be as far from every negative as
    the query is.

    :survey: Section V-E
    :cite: ng2020solar
    :source: the authors' public PyTorch code (attention block and its start at the identity,
        triplet and second-order similarity losses, generalised mean with whitening)
    :objective: \sum\max(0,\|q-p\|^2-\|q-n\|^2+m)+\lambda\Big(\sum_n(\|q-n\|^2-\|p-n\|^2)^2
        \Big)^{1/2},\quad x'=x+v\big(\mathrm{softmax}(\alpha f(x)^\top g(x))h(x)\big)
    :shapes: maps x (n, h, w, d); relations (n, h w, h w); descriptors float32 (n, bits)
    :defaults: lam = 1 of the root mean square, which with five negatives and five queries in a
        batch is the default weight of the code; m = 1.25 and learning rate 1e-4, chosen here: with
        a small margin and the hardest negatives all descriptors fell together; p = 3; inner
        channels of the attention width / 8; 256 queries an epoch, 8 epochs
    :departures: one attention block on the last maps, not two; no batch normalisation in it; the
        network before it stays frozen and p is fixed; one size of image; descriptors at one scale
    :fidelity: simplified
    """

    epochs: int = 8
    queries: int = 256
    lr: float = 1e-4
    margin: float = 1.25
    lam: float = 1.0
    p: float = 3.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Attention, pooling and whitening on maps x (n, h, w, d)."""
        require_maps(x, type(self).__name__)
        return _Network(x, max(4, self.width // 8), self.p, self.bits)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """First-order ranking of distances, second-order similarity of distances."""
        t = self.tuples(self.network_(batch.x))
        near, far = t.squared()
        return {
            "triplet": (near[:, None] - far + self.margin).clamp_min(0).mean(),
            "second_order": self.lam * second_order_similarity(t),
        }

    def relations(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """How much each place takes from each other one, float32 (n, h w, h w)."""
        self._require_fit()
        network = self.network_
        assert isinstance(network, _Network)
        with torch.inference_mode():
            places = torch.as_tensor(x).float().flatten(1, 2) / network.scale
            return network.attention.relations(places).clone().numpy()
