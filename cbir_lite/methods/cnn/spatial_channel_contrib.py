"""Spatial and channel contribution (SRSC) for object retrieval [216] (survey Section VII-E)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.cnn._aggregation import Aggregation


def spatial_contribution(maps: Tensor, share: float) -> Tensor:
    """Stack of the strongly responding channels (n, h, w), at most 1 at any place.

    The ``share`` of channels with the largest sums is stacked.
    """
    sums = maps.sum((1, 2))
    count = max(1, round(share * maps.shape[3]))
    strong = sums.topk(count, 1).indices
    stack = torch.gather(maps, 3, strong[:, None, None].expand(*maps.shape[:3], -1)).sum(3)
    return stack / stack.amax((1, 2), keepdim=True).clamp_min(1e-12)


def channel_contribution(maps: Tensor) -> Tensor:
    """How rarely, and how weakly, each channel fires (n, d): two logarithms added.

    One is that of all channels' share of non-zero places over the channel's own, the other the same
    of sums. Channels that never fire contribute nothing.
    """
    fires = (maps > 0).float().mean((1, 2))
    sums = maps.sum((1, 2))

    def rarity(v: Tensor) -> Tensor:
        return torch.log(v.sum(1, keepdim=True).clamp_min(1e-6) / v.clamp_min(1e-6))

    both = rarity(fires) + rarity(sums)
    return torch.where(fires > 0, both, torch.zeros_like(both))


@dataclass(kw_only=True, eq=False)
class SpatialChannelContribution(Aggregation):
    r"""Let the strongest channels say where the object is, and rare channels say what it is.

    The channels with the strongest response of an image are stacked into one map, which is high on
    the region of interest: the spatial contribution of each place. The channel contribution joins
    two measures of how telling a channel is, its sparsity and the size of its values. Both weigh
    the sum of the maps, which is brought to unit length and compressed.

    :survey: Section VII-E
    :cite: shi2019spatial
    :source: the survey's sentence and the paper's abstract; the paper's formulas could not be read
    :objective: f_c=\gamma_c\sum_p s(p)\,\phi_c(p),\quad
        s=\sum_{c\in\mathrm{strong}}\phi_c\big/\max_p(\cdot),\quad
        \gamma_c=\log\tfrac{\sum_j\rho_j}{\rho_c}+\log\tfrac{\sum_j\sigma_j}{\sigma_c}
    :shapes: maps x (n, h, w, d); spatial (n, h, w); channel (n, d); descriptors float32 (n, bits)
    :defaults: share = 0.5 of the channels is stacked (fewer leave out places of digits); whiten =
        0.5; both chosen here
    :departures: the formulas are written after the abstract: which channels are strong, and adding
        the logarithms, are choices made here; maps are those of this package's backbones
    :fidelity: sketch
    """

    share: float = 0.5

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums (n, d) weighted by place and channel."""
        where = spatial_contribution(maps, self.share)
        return torch.einsum("nhwd,nhw->nd", maps, where) * channel_contribution(maps)
