"""Fusion of multi-layer features [190] (survey Section VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.features import aggregation as A
from cbir_lite.methods.base import Descriptors, Method, require_finite

LAYERS = ("low", "middle", "high")


def layers_of(parts: list[int]) -> list[list[int]]:
    """Widths of the stages in each of at most three layers, from low to high, as even as can be."""
    cuts = np.array_split(np.array(parts), min(len(LAYERS), len(parts)))
    return [cut.tolist() for cut in cuts]


def shares(bits: int, sizes: list[int]) -> list[int]:
    """Dimensions of each layer, as even as can be; what a narrow layer leaves goes to the next.

    Raises ``ValueError`` when the layers hold fewer than ``bits`` dimensions together.
    """
    given: list[int] = []
    for place, size in enumerate(sizes):
        rest = bits - sum(given)
        # A layer takes more than its share where those above it are too narrow for theirs.
        given.append(min(size, max(rest // (len(sizes) - place), rest - sum(sizes[place + 1 :]))))
    if sum(given) < bits:
        raise ValueError(f"bits={bits} exceeds the {sum(sizes)} dimensions of the layers")
    return given


@dataclass(kw_only=True, eq=False)
class MultiLayerFusion(Method):
    r"""Compare two images on low, middle and high layers, and add up what each layer says.

    High layers of a network know what an image shows, low layers how it looks in detail, and
    neither alone suffices to find the same thing again. The image is described by each layer on its
    own; the similarities of the layers are added with weights when the database is searched, so no
    layer drowns in another with more dimensions. Real-valued: ``bits`` counts the dimensions of all
    layers together. The variant ``high`` compares high layers alone, at as many dimensions as they
    have in the fusion.

    :survey: Section VI-C
    :cite: yu2017complementary
    :source: the survey's sentence and the paper's title; abstract and text were not found
    :objective: s(q,i)=\sum_l w_l\,\langle f_l(q),f_l(i)\rangle,\quad
        f_l=\frac{P_l^\top(\phi_l-\mu_l)}{\|P_l^\top(\phi_l-\mu_l)\|_2},\quad d=\sum_lw_l-s
    :shapes: x (n, sum d) of the stages of a network; descriptors float32 (n, bits), the layers side
        by side, each of unit length
    :defaults: w = (1, 1, 1) / 3; principal components with half whitening (power 0.5); chosen here
    :departures: the layers are thirds of the stages of this package's backbones, each stage
        averaged over positions and brought to unit length; how the paper describes a layer, which
        layers it takes and how it weighs them is not known
    :fidelity: sketch
    """

    supervision = "unsupervised"
    descriptor = "real"
    reads = "stages"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"high": {"low": 0.0, "middle": 0.0}}

    low: float = 1.0
    middle: float = 1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.low, self.middle, self.high) < 0 or self.low + self.middle + self.high <= 0:
            raise ValueError(
                f"low={self.low}, middle={self.middle}, high={self.high}: weights must not be "
                "negative, and not all zero"
            )

    def fit(self, split: Split, **loop: Any) -> Self:
        """Principal components of each layer; raises ``ValueError`` when bits exceeds sum d."""
        self.parts_ = list(split.parts)
        layers = layers_of(self.parts_)
        self.dimensions_ = shares(self.bits, [sum(widths) for widths in layers])
        described = self._layers(split.x)
        for place, (x, size) in enumerate(zip(described, self.dimensions_, strict=True)):
            axes = A.principal_whitening(x, size, 0.5)
            setattr(self, f"mean{place}_", axes.mean.numpy())
            setattr(self, f"axes{place}_", axes.projection.numpy())
        return self

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Descriptors float32 (n, bits): a unit vector for each layer, from low to high."""
        self._require_fit()
        parts = []
        for place, layer in enumerate(self._layers(x)):
            mean, axes = (
                torch.from_numpy(getattr(self, f"{name}{place}_")) for name in ("mean", "axes")
            )
            parts.append(A.Whitening(mean, axes)(layer))
        return torch.cat(parts, 1).numpy()

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """One minus the weighted mean of the layers' cosines, float32 (n_queries, n_database)."""
        w = np.array([self.low, self.middle, self.high][-len(self.dimensions_) :], np.float32)
        # The weighted sum of the layers' inner products is one product with weighted columns.
        columns = np.repeat(w / w.sum(), self.dimensions_)
        d: NDArray[np.float32] = 1 - (queries * columns) @ database.T
        return d

    def _layers(self, x: NDArray[Any]) -> list[Tensor]:
        """Each layer of x (n, sum d): its stages at unit length, side by side."""
        if x.ndim != 2 or x.shape[1] != sum(self.parts_):
            raise ValueError(
                f"MultiLayerFusion reads stages (n, {sum(self.parts_)}) and got {x.shape}: "
                "extract features of kind 'stages'"
            )
        require_finite(x, "MultiLayerFusion")
        stages = torch.from_numpy(np.array(x, np.float32)).split(self.parts_, dim=1)
        found, first = [], 0
        for widths in layers_of(self.parts_):
            own = stages[first : first + len(widths)]
            found.append(torch.cat([A.l2n(stage) for stage in own], 1))
            first += len(widths)
        return found
