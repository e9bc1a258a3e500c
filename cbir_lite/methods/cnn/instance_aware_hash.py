"""Instance-aware hashing [209]: features by category (survey Sections VII-C, VII-D)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import Codes, sign
from cbir_lite.methods.cnn._instances import CategoryMethod, CategoryNetwork
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import ranking_loss, squared_distances


class _Network(CategoryNetwork):
    """One group of features for each category; codes of all groups and of each."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, classes: int, dropout: float):
        super().__init__(x, width, bits, classes, dropout)
        k, piece = self.instances.k, math.ceil(bits / classes)
        bound = 1 / math.sqrt(k)
        self.piece_weight = nn.Parameter(torch.empty(classes, k, piece).uniform_(-bound, bound))
        self.piece_bias = nn.Parameter(torch.zeros(classes, piece))

    def groups(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each category g (n, C, k), and scores of the image (n, C)."""
        f, a = self.instances(x)
        # A group sees a position as far as the position shows its category.
        g = a.softmax(2).transpose(1, 2) @ f / f.shape[1]
        return self.norm(g.flatten(1)).view_as(g), a.amax(1)

    def pieces(self, g: Tensor) -> Tensor:
        """One short relaxed code for each category, (n, C, piece) in (0, 1)."""
        return (torch.einsum("nck,ckq->ncq", g, self.piece_weight) + self.piece_bias).sigmoid()

    def code(self, g: Tensor) -> Tensor:
        """Code of the whole image before its sigmoid, (n, bits)."""
        z: Tensor = self.hash_layer(self.drop(g.flatten(1)))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """z (n, bits) of maps (n, h, w, d)."""
        return self.code(self.groups(x)[0])


@dataclass(kw_only=True, eq=False)
class InstanceAwareHash(CategoryMethod):
    r"""The features of an image lie in groups, one for each category it may show.

    Regions of an image are scored for every category, and each category gathers the features of the
    regions that show it. All groups together give the code of the image (semantic hashing); each
    group alone gives a short piece of code (category-aware hashing), by which images can be
    searched for one of the things they show. Both kinds are trained by a triplet ranking
    loss, a piece with images that do and do not have its category.

    :survey: Sections VII-C, VII-D
    :cite: lai2016iah
    :source: the paper's abstract and introduction (groups of features, semantic and category-aware
        hashing) and the survey; its equations and constants were not at hand
    :objective: \min\ \sum_{(q,p,n)}\max\big(0,\tfrac K4+\|b_q-b_p\|^2-\|b_q-b_n\|^2\big)
        +\lambda\sum_c\sum_{(q,p,n)_c}\max\big(0,\tfrac Q4+\|b^c_q-b^c_p\|^2-\|b^c_q-b^c_n\|^2\big)
        +\beta\sum_i\mathrm{CE}(y_i,\hat y_i),\quad g_{ic}=\tfrac1P\sum_r p_{irc}f_{ir},\
        b_i=\sigma(Wg_i),\ b^c_i=\sigma(W_cg_{ic})
    :shapes: maps x (n, h, w, d), labels (n, C); groups g (n, C, k); pieces (n, C, Q) with
        Q = ceil(bits / C); codes int8 (n, bits)
    :defaults: k = width / 16, margins a quarter of the bits, lam = 1, beta = 1 beside means; an
        image scores for a category what its best region scores; groups are batch-normalised; all
        chosen here
    :departures: positions of frozen maps take the place of region proposals and the pooled features
        of a CNN trained end to end; both kinds of hashing are learned together from one network;
        margins and weights are not the paper's; Adam with cosine decay instead of SGD
    :fidelity: sketch
    """

    network = _Network

    lam: float = 1.0
    beta: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking of whole codes, mean ranking of the categories' pieces, and classification."""
        net: Any = self.network_
        g, scores = net.groups(batch.x)
        b, pieces = net.code(g).sigmoid(), net.pieces(g)
        y = batch.labels
        target = y / y.sum(1, keepdim=True).clamp_min(1)
        margins = self.bits / 4, pieces.shape[2] / 4
        by_category = []
        for c in range(y.shape[1]):
            # Only images that have the category are queries and positives of its piece.
            if 2 <= int(y[:, c].sum()) < len(y):
                s = torch.outer(y[:, c], y[:, c])
                by_category.append(ranking_loss(squared_distances(pieces[:, c]), s, margins[1]))
        ranked = torch.stack(by_category).mean() if by_category else pieces.new_zeros(())
        return {
            "semantic": ranking_loss(squared_distances(b), batch.similarity, margins[0]),
            "category": self.lam * ranked,
            "classification": self.beta * F.cross_entropy(scores, target),
        }

    def encode_pieces(self, x: NDArray[Any]) -> Codes:
        """Codes int8 (n, C, Q) of each category of maps (n, h, w, d)."""
        net: Any = self.network_
        pieces: Any = lambda maps: net.pieces(net.groups(maps)[0]) - 0.5  # noqa: E731
        codes: Codes = sign(self._in_blocks(pieces, x)).numpy()
        return codes
