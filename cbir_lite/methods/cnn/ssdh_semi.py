"""SSDH [141]: semi-supervised deep hashing (survey Sections IV-C, V-A, VII-F).

Not the supervised SSDH of [103], which shares its letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, shares_label
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.triplet._triplets import squared_distances

NEIGHBOURS = 8 / 128
"""Share of a batch that are an image's neighbours: the k nearest, itself among them."""
FAR = (114 / 128, 124 / 128)
"""Where among a batch, from near to far, an image's dissimilar ones begin and end."""


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of each row of ``values`` (B, B) over the entries that ``chosen`` (B, B) marks."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp_min(1)


class Network(HashNetwork):
    """The hash network with a classifier beside the hash layer; calling it gives z (n, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, n_classes: int):
        super().__init__(x, width, bits, dropout)
        self.classifier = nn.Linear(width, n_classes)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, bits) and the scores of the classes (B, C)."""
        hidden = self.trunk(x)
        return self.hash_layer(hidden), self.classifier(hidden)


@dataclass(kw_only=True, eq=False)
class SSDHSemi(DeepMethod):
    r"""Labels order what they can, and a graph that is built anew in every batch does the rest.

    Labelled images are trained by a triplet ranking loss. For all images of the batch the nearest
    ones by the present outputs count as similar and very far ones as dissimilar, so the graph
    follows the network as it learns. A classifier that is trained on the labelled images gives the
    others a likeliest and an unlikeliest class, and with them more pairs.

    :survey: Sections IV-C, V-A, VII-F
    :cite: zhang2019ssdh
    :source: the authors' public code (all four terms, the pairs they take and their constants)
    :objective: \min\ \tfrac12\sum_{(a,p,n)}\max\big(0,1+\|h_a-h_p\|_2^2-\|h_a-h_n\|_2^2\big)
        +\tfrac\lambda2\sum_i\big(\|h_i-h_{i^+}\|_2^2+\max(0,m-\|h_i-h_{i^-}\|_2)^2\big)
        +\sum_{i\in\mathcal L}\mathrm{CE}(y_i,\hat y_i),\quad h=\sigma(z),\ i^\pm\text{ by the
        graph, and once more by pseudo labels for }i\notin\mathcal L
    :shapes: x (n, d), labels (n, C) with zero rows where hidden; h (n, bits) in (0, 1); codes int8
        (n, bits)
    :defaults: lam = 0.1, rank margin 1, pair margin 2.5 at 12 bits and 3 above, the 8 nearest of
        128 are similar, those at places 114 to 124 dissimilar (public code)
    :departures: VGG-F trained end to end is replaced by a hidden layer on frozen features; where
        the code draws one triplet and one pair of each kind for an image, the mean over all that
        it could draw is taken; places scale with the size of the batch (the code's change a little
        with bits); Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision: ClassVar[str] = "semi-supervised"

    lam: float = 0.1

    @property
    def m(self) -> float:
        """Margin of dissimilar pairs."""
        return 2.5 if self.bits <= 12 else 3.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk, hash layer and classifier."""
        assert n_classes is not None
        return Network(x, self.width, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking and classification of labelled rows; graph and pseudo labels."""
        net: Any = self.network_
        z, scores = net.both(batch.x)
        h, y = torch.sigmoid(z), batch.labels
        known = y.sum(1) > 0
        d2 = squared_distances(h)
        apart = (self.m - d2.clamp_min(1e-8).sqrt()).clamp_min(0).square()
        entropy = F.binary_cross_entropy_with_logits(scores, y, reduction="none").sum(1)
        similar, dissimilar = self.pseudo_pairs(scores.detach(), y)
        both = similar.any(1) & dissimilar.any(1)
        pseudo = _mean_where(d2, similar) + _mean_where(apart, dissimilar)
        return {
            "ranking": self.ranking(d2[known][:, known], y[known]),
            "graph": self.lam / 2 * self.graph(d2, apart),
            "pseudo labels": self.lam / 2 * (pseudo * both).sum() / both.sum().clamp_min(1),
            "classification": (entropy * known).sum() / known.sum().clamp_min(1),
        }

    @staticmethod
    def ranking(d2: Tensor, y: Tensor) -> Tensor:
        """Half the mean hinge over triplets whose negative shares no label with the others."""
        s = shares_label(y, y)
        a, p = (s - torch.eye(len(s)) > 0).nonzero(as_tuple=True)
        negative = (1 - s[a]) * (1 - s[p])
        hinge = (1 + d2[a, p][:, None] - d2[a]).clamp_min(0)
        return 0.5 * (hinge * negative).sum() / negative.sum().clamp_min(1)

    @staticmethod
    def graph(d2: Tensor, apart: Tensor) -> Tensor:
        """Near images drawn together, far ones pushed apart: mean over the images of a batch."""
        n = len(d2)
        order = d2.detach().argsort(dim=1)
        # Its own place comes first and adds nothing, as in the code.
        near = order[:, : max(2, round(NEIGHBOURS * n))]
        first = min(round(FAR[0] * n), n - 1)
        far = order[:, first : max(first + 1, round(FAR[1] * n))]
        return (d2.gather(1, near).mean(1) + apart.gather(1, far).mean(1)).mean()

    @staticmethod
    def pseudo_pairs(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which columns are similar and dissimilar to each unlabelled row, bool (B, B) each.

        A row's pseudo label is its class of highest score, its false label that of the lowest.
        Similar: unlabelled rows of the same pseudo label, labelled rows with the pseudo label and
        without the false label. Dissimilar: the same with the two exchanged.
        """
        known = y.sum(1) > 0
        true, false = scores.argmax(1), scores.argmin(1)
        has_true, has_false = y.T[true] > 0, y.T[false] > 0
        similar = torch.where(known, has_true & ~has_false, true[:, None] == true)
        dissimilar = torch.where(known, has_false & ~has_true, false[:, None] == true)
        return similar & ~known[:, None], dissimilar & ~known[:, None]
