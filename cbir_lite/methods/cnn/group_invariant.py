"""Group invariant representation by nested invariance pooling [213] (survey Section VII-D)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.cnn._aggregation import Aggregation


def orbit(h: int, w: int, scales: int) -> Tensor:
    """Weights (h w, scales, h w) of the means over windows around every place, at each scale.

    At scale s of S the window reaches s / S of the longer side from its centre; what falls outside
    of the map is cut off.
    """
    rows, columns = torch.arange(h).float(), torch.arange(w).float()
    up = (rows[:, None] - rows).abs()
    side = (columns[:, None] - columns).abs()
    far = torch.maximum(up[:, None, :, None], side[None, :, None, :]).reshape(h * w, h * w)
    reach = (max(h, w) - 1) * torch.arange(1, scales + 1) / scales
    inside = (far[:, None] <= reach.ceil()[:, None]).float()
    return inside / inside.sum(2, keepdim=True)


def nested(maps: Tensor, scales: int) -> Tensor:
    """Moments (n, d) of order 1 in windows, 2 over scales, infinity over places of the window."""
    n, h, w, d = maps.shape
    weights = orbit(h, w, scales).flatten(0, 1)
    means = (weights @ maps.reshape(n, h * w, d)).unflatten(1, (h * w, scales))
    return means.square().mean(2).sqrt().amax(1)


@dataclass(kw_only=True, eq=False)
class NestedInvariance(Aggregation):
    r"""Pool responses over one group of transformations after the other, with growing order.

    What does not change when an image is transformed can be computed by pooling over all images
    that the transformations make of it. Several groups are nested: the responses are averaged over
    small translations, the averages are pooled over scales by a moment of second order, and the
    result over large translations by the maximum, the moment of infinite order. A low order keeps
    what is common and a high order what is special; the order grows from the inside to the outside.

    :survey: Section VII-D
    :cite: morere2016group
    :source: the paper's abstract, and abstract and introduction of its successor with the same
        pooling (translations, scales and rotations nested; moments of increasing order); its tables
        were not read
    :objective: f_i(x)=\max_{g\in G_T}\Big(\tfrac1{|G_S|}\sum_{s\in G_S}\big(\tfrac1{|W|}
        \sum_{t\in W}\phi_i(t\,s\,g\cdot x)\big)^2\Big)^{1/2}
    :shapes: maps x (n, h, w, d); descriptors float32 (n, bits)
    :defaults: scales = 3; whiten = 0.5 of the components at the end; chosen here
    :departures: the groups act on the maps and not on the image, so there are no rotations: large
        translations, which on maps hold the mirror images and quarter turns of the layout as well,
        take their place as the outermost group; scales are window sizes on maps of one image size;
        the second moment is not centred; compressed by PCA, not hashed
    :fidelity: simplified
    """

    scales: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scales < 1:
            raise ValueError(f"scales={self.scales}: at least one window size is needed")

    def aggregate(self, maps: Tensor) -> Tensor:
        """Nested moments (n, d)."""
        return nested(maps, self.scales)
