"""UDTH [123]: unsupervised deep triplet hashing, pseudo triplets (survey Sections IV-B, IV-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.datasets import Split
from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._pseudo import PseudoSupervised, directions
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.derived import derived
from cbir_lite.methods.networks import HashNetwork, Standardise
from cbir_lite.methods.triplet._triplets import squared_distances

_BLOCK = 512


def neighbourhoods(u: Tensor, k: int, near: float) -> tuple[Tensor, Tensor]:
    """The k nearest other rows (n, k) of each row of u (n, d), of length one, nearest first, and
    the smallest cosine (n,) with rows of the share ``near`` of nearest rows.
    """
    n = len(u)
    beyond = n - 1 - max(1, round(near * (n - 1)))
    positives, radius = [], []
    for rows in torch.arange(n).split(_BLOCK):
        cosine = u[rows] @ u.T
        # Ten times as fast as kthvalue. A view of a column would keep the whole block.
        radius.append(torch.from_numpy(np.partition(cosine.numpy(), beyond)[:, beyond].copy()))
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        positives.append(cosine.topk(min(k, n - 1)).indices)
    return torch.cat(positives), torch.cat(radius)


def _neighbourhoods(x: Tensor, k: int, near: float) -> tuple[Tensor, Tensor]:
    return neighbourhoods(directions(x), k, near)


class AutoEncoder(nn.Module):
    """Relaxed codes h (n, bits) of features, and features rebuilt from them by a linear layer."""

    def __init__(self, x: NDArray[np.generic], width: int, bits: int, dropout: float = 0.0):
        super().__init__()
        self.encoder = HashNetwork(x, width, bits, dropout)
        self.decoder = nn.Linear(bits, x.shape[-1])
        self.standardise = Standardise(x)

    def forward(self, x: Tensor) -> Tensor:
        """h of a batch, in (-1, 1)."""
        return torch.tanh(self.encoder(x))


@dataclass(kw_only=True, eq=False)
class UDTH(PseudoSupervised):
    r"""Neighbours in feature space are positives, remote images negatives; codes rebuild features.

    The neighbourhood structure of the pretrained features gives pseudo triplets: a positive is
    drawn from the nearest images of an anchor, and all images of the batch that are not among the
    nearest third are its negatives. The triplet loss separates them in the relaxed codes, while a
    decoder that rebuilds the features from the codes keeps what else the features say, and a third
    term pulls the codes to their signs.

    :survey: Sections IV-B, IV-C, V-B, V-C.2, VI-A; Tables II, III
    :cite: gu2019udth
    :source: the paper's abstract (pseudo triplets of the neighbourhood structure, triplet network,
        autoencoder, binary quantization) and the survey's sentences
    :objective: \min\ \tfrac1K\,\mathrm{mean}_{(a,p,n)}\max\big(0,m+\|h_a-h_p\|^2-\|h_a-h_n\|^2\big)
        +\frac\beta d\,\mathrm{mean}_i\|x_i-\mathrm{dec}(h_i)\|^2
        +\frac\lambda K\,\mathrm{mean}_i\|h_i-\mathrm{sgn}(h_i)\|^2,\quad h=\tanh(\mathrm{enc}(x))
    :shapes: x (n, d); h (n, bits); dec(h) (n, d) rebuilds standardised features; codes int8 (n,
        bits)
    :defaults: 10 neighbours, negatives beyond the nearest three tenths of the training rows, m =
        bits / 4, beta = 1, lam = 0.1; the paper's values were not available, and these are not
        tuned
    :departures: the features are those of this package's backbones, centred and of unit length for
        the neighbours; the decoder is linear; triplets are formed within batches, with one positive
        and all negatives of each anchor; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"

    neighbours: int = 10
    near: float = 0.3
    beta: float = 1.0
    lam: float = 0.1

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits / 4

    def fit(self, split: Split, **loop: Any) -> Self:
        """Find the neighbours of the training rows, then train."""
        super().fit(split, **loop)
        del self._x
        return self

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Encoder and decoder."""
        return AutoEncoder(x, self.width, self.bits, self.dropout)

    def start_fit(self, data: TrainingData) -> None:
        """The neighbours of each row, and the cosine below which another row is remote."""
        positives, radius = derived(_neighbourhoods, data.x, self.neighbours, self.near)
        self.memory_ = {"mean": data.x.mean(0), "positives": positives, "radius": radius}
        self._x = data.x

    def pseudo_triplets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A positive (B, d) for each row, and which rows are its negatives, (B, B) bool."""
        positives = self.memory_["positives"][batch.index]
        drawn = torch.randint(positives.shape[1], (len(positives), 1))
        u = directions(batch.x, self.memory_["mean"])
        remote = u @ u.T < self.memory_["radius"][batch.index][:, None]
        return self._x[positives.gather(1, drawn)[:, 0]], remote

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pseudo triplets, reconstruction and quantization of the anchors."""
        assert isinstance(self.network_, AutoEncoder)
        positive, negative = self.pseudo_triplets(batch)
        h, h_positive = self.network_(torch.cat([batch.x, positive])).chunk(2)
        near = (h - h_positive).square().sum(1)[:, None]
        hinge = (self.m + near - squared_distances(h)).clamp_min(0)
        rebuilt = self.network_.decoder(h)
        return {
            "triplet": (hinge * negative).sum() / negative.sum().clamp_min(1) / self.bits,
            "reconstruction": self.beta
            * (rebuilt - self.network_.standardise(batch.x)).square().mean(),
            "quantization": self.lam * (h - sign(h.detach())).square().mean(),
        }
