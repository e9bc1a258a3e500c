"""Co-weighting of semantic convolutional features [199] (survey Sections VI-C, VII-E, VII-F)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation


def element_value_weights(maps: Tensor) -> Tensor:
    """Channel weights (n, d): the logarithm of all channels' sum over the channel's own.

    A channel that never fires weighs nothing.
    """
    sums = maps.clamp_min(0).sum((1, 2))
    ratio = sums.sum(1, keepdim=True).clamp_min(1e-6) / sums.clamp_min(1e-6)
    return torch.where(sums > 0, ratio.log(), torch.zeros_like(sums))


@dataclass(kw_only=True, eq=False)
class CoWeighting(Aggregation):
    r"""Weigh places by a Gaussian that moves with the object, and channels by how seldom they fire.

    A fixed prior on the centre of the image misses objects beside it. Here the foreground is
    selected first, and the Gaussian sits on its centre of mass. Channels with large sums over all
    places belong to patterns that repeat everywhere, so a channel counts more the smaller its sum
    is. Both weights apply to the selected places' features, whose sum is compressed.

    :survey: Sections VI-C, VII-E, VII-F
    :cite: zhu2019coweighting
    :source: the abstracts of the paper and of its forerunner on adaptive co-weighting (selection,
        adaptive Gaussian filter, element-value sensitive channel vector)
    :objective: f=w_c\odot\sum_p M(p)\,w_s(p)\,\phi(p),\quad
        w_s(p)=e^{-\frac12\|(p-\bar p)/\sigma\|^2},\quad
        w_{c,k}=\log\big(\textstyle\sum_j\sigma_j/\sigma_k\big)
    :shapes: maps x (n, h, w, d); place weights (n, h, w); channel weights (n, d); descriptors
        float32 (n, bits)
    :defaults: the spread is a third of the map along each axis; whiten = 0.5; both chosen here
    :departures: the foreground is where the sum over channels is at least the median, not the
        paper's contour; the formulas follow the abstracts; maps are those of this package's
        backbones
    :fidelity: sketch
    """

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums (n, d) of the foreground, weighted by place and channel."""
        mask = A.sum_mask(maps)
        where = A.gaussian_around(maps, mask) * mask
        return torch.einsum("nhwd,nhw->nd", maps, where) * element_value_weights(maps)
