"""Siamese network of Fisher vectors [136] (survey Sections V-C.1, VI-B)."""

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
    BLOCK,
    TupleLearner,
    in_blocks,
    require_maps,
    whitening,
)


class FisherLayer(nn.Module):
    """Maps (n, h, w, d) to Fisher vectors (n, 2 K local); projection and mixture are trained."""

    def __init__(self, x: NDArray[Any], words: int, local: int, seed: int):
        super().__init__()
        some = torch.from_numpy(x[:: -(-len(x) // BLOCK)].astype(np.float32))
        places = A.l2n(some).flatten(0, 2)
        self.project = whitening(places, min(local, places.shape[1]), 0.0)
        with torch.no_grad():
            reduced = self.project(A.l2n(some))
            # Two rows are enough to rebuild the layer, not to learn a mixture.
            if reduced.flatten(0, 2).unique(dim=0).shape[0] < words:
                reduced = torch.randn(words, 1, 2, reduced.shape[3])
            book = A.learn_codebook(reduced, words, seed)
        self.means = nn.Parameter(book.words.clone())
        self.log_weights = nn.Parameter(book.weights.log())
        self.log_variances = nn.Parameter(book.variances.log())

    def forward(self, x: Tensor) -> Tensor:
        """Fisher vectors of unit length; the signed root is smooth at zero."""
        places = self.project(A.l2n(x.float())).flatten(1, 2)
        share = self.log_weights.softmax(0)
        precision = (-self.log_variances).exp()
        # All sums over (z = (x - mean) / deviation) are sums over x and x squared: no (n, P, K, d).
        square = places.square()
        away = square @ precision.T - 2 * places @ (self.means * precision).T
        away = away + (self.means.square() * precision).sum(1) + self.log_variances.sum(1)
        q = (share.log() - 0.5 * away).softmax(2).transpose(1, 2)
        count, first, second = q.sum(2)[..., None], q @ places, q @ square
        root = share.sqrt()[:, None] * places.shape[1]
        mean = (first - count * self.means) * precision.sqrt() / root
        spread = second - 2 * self.means * first + self.means.square() * count
        spread = (spread * precision - count) / (2**0.5 * root)
        v = torch.cat([mean.flatten(1), spread.flatten(1)], 1)
        return F.normalize(v / (v.abs() + 1e-4).sqrt())


class _Network(nn.Module):
    """Fisher vectors and a linear layer; unit descriptors (n, bits)."""

    def __init__(self, x: NDArray[Any], words: int, local: int, bits: int, seed: int):
        super().__init__()
        self.fisher = FisherLayer(x, words, local, seed)
        with torch.no_grad():
            vectors = in_blocks(x, lambda m: self.fisher(torch.from_numpy(m)).numpy())
        self.last = whitening(torch.from_numpy(vectors), bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.last(self.fisher(x)))


@dataclass(kw_only=True, eq=False)
class SiameseFisher(TupleLearner):
    r"""Put a Fisher vector on top of convolutional maps, and train through it with pairs.

    A Gaussian mixture over local features gives each image the gradient of its likelihood by means
    and variances: how the image's features differ from the mixture, to first and second order. The
    steps are differentiable, so the mixture, the projection before it and the linear layer
    after it are trained together. Two branches with shared weights see a pair; the contrastive loss
    draws matching pairs together and pushes others beyond a margin.

    :survey: Sections V-C.1, VI-B
    :cite: ong2017siamfv
    :source: the survey's row and sentences and the paper's abstract (network and parameters of the
        Fisher vector are learned at once), and the formula of Fisher vectors as published
    :objective: \sum y\|f_i-f_j\|^2+(1-y)\max(0,m-\|f_i-f_j\|)^2,\quad
        f=\mathrm{norm}\big(W\,FV(\phi(x))+b\big)
    :shapes: maps x (n, h, w, d); Fisher vectors (n, 2 words local); descriptors float32 (n, bits)
    :defaults: margin = 0.7, words = 8, local = 32, 5 negatives a query, 512 queries an epoch, 8
        epochs, learning rate 3e-4; all chosen here, small because maps are small
    :departures: the network before the maps stays frozen; the mixture starts from k-means with
        diagonal spreads; the signed root is made smooth at zero, so that gradients exist; pairs are
        mined over the training set and averaged
    :fidelity: simplified
    """

    epochs: int = 8
    queries: int = 512
    margin: float = 0.7
    words: int = 8
    local: int = 32

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Fisher layer and linear layer on maps x (n, h, w, d)."""
        require_maps(x, type(self).__name__)
        return _Network(x, self.words, self.local, self.bits, self.seed)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of query and positive, and of query and each negative."""
        near, far = self.tuples(self.network_(batch.x)).squared()
        beyond = (self.margin - (far + 1e-8).sqrt()).clamp_min(0)
        return {"positive": near.mean(), "negative": beyond.square().sum(1).mean()}
