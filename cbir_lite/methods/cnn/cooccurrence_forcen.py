"""Co-occurrence of deep features [88] (survey Sections III.8, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation


@dataclass(kw_only=True, eq=False)
class Cooccurrence(Aggregation):
    r"""Weigh every activation by what else fires around it.

    Two channels occur together where both exceed the mean activation within a small window. The
    co-occurrence map gives each strong activation the sum of the other channels' strong activations
    around it, so a channel counts more where it is part of a pattern. The product of the maps and
    the co-occurrence map is summed over places, brought to unit length and whitened.

    :survey: Sections III.8, VI-C
    :cite: forcen2020cooccurrence
    :source: the authors' code (jiforcen/co-occurrence: threshold at the mean activation, sum of the
        other channels over the window, kept where the channel itself is strong) and the paper's
        abstract (direct and trained filters, combination with the feature map)
    :objective: c_k(p)=\mathbb 1[a_k(p)>\bar a]\sum_{q\in N(p)}\sum_{j\ne k}a_j(q)\,
        \mathbb 1[a_j(q)>\bar a],\quad f=\sum_p a(p)\odot c(p)
    :shapes: maps x (n, h, w, d); co-occurrence map (n, h, w, d); descriptors float32 (n, bits)
    :defaults: radius = 1 (windows of three by three places; the code's example has 4, on maps
        several times as wide); whiten = 0.5, as full whitening lifts noise where training images
        are few
    :departures: the code ends with the co-occurrence map, so the product with the maps and the sum
        over places are chosen here; its constant factors fall out with the unit length; only
        the direct aggregation, not the trained filter of the paper's second variant; maps are
        those of this package's backbones
    :fidelity: simplified
    """

    radius: int = 1

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums over places of maps times co-occurrence map (n, d)."""
        return (maps * A.cooccurrence(maps, self.radius)).sum((1, 2))
