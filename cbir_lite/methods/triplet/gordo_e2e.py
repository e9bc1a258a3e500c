"""End-to-end deep visual representations [72] (survey Sections III.5, V-C.2, VI-B)."""

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
from cbir_lite.methods.siamese._tuples import TupleLearner, in_blocks, require_maps, whitening


class _Regions(nn.Module):
    """Unit vectors of regions (n, R, d) to unit descriptors (n, bits): project, sum, normalise."""

    def __init__(self, x: Tensor, bits: int):
        super().__init__()
        self.project = whitening(x.flatten(0, 1), bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(F.normalize(self.project(x), dim=2).sum(1))


@dataclass(kw_only=True, eq=False)
class GordoE2E(TupleLearner):
    r"""Make every step of R-MAC differentiable, and train the whole by triplets.

    Maxima of fixed regions, unit length, a shift and a fully connected layer in the place of PCA
    whitening, unit length, sum and unit length: three streams with shared weights compute this for
    a query, a relevant and a not relevant image, and the triplet loss orders their distances.
    Negatives are mined: those nearest to the query. The projection starts from principal
    components, so training starts at R-MAC and goes on from there.

    :survey: Sections III.5, V-C.2, VI-B
    :cite: gordo2017endtoend
    :source: the survey's row and sentences and, for the layers, the abstract and a published
        summary of the forerunner (R-MAC by a three-stream network with triplet loss); this paper's
        own text was not read
    :objective: \tfrac12\max(0,m+\|q-d^+\|^2-\|q-d^-\|^2),\quad
        d=\mathrm{norm}\Big(\sum_r\mathrm{norm}\big(W\,\mathrm{norm}(\max_{p\in r}\phi(p))+b\big)
        \Big)
    :shapes: maps x (n, h, w, d); regions (n, R, d); descriptors float32 (n, bits)
    :defaults: m = 0.1, chosen here; levels = 2, because maps are small; 5 negatives a query, 1024
        queries an epoch, 10 epochs; learning rate 3e-4, because the projection starts well
    :departures: only the projection is trained, the network stays frozen; fixed regions, as in the
        paper's version without proposals (with them see gordo_dir); labels are taken as clean, so
        no cleaning of the training set; one size of image
    :fidelity: simplified
    """

    margin: float = 0.1
    levels: int = 2

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Unit vectors of the regions, float32 (n, R, d)."""
        require_maps(x, type(self).__name__)
        return in_blocks(x, lambda m: A.region_vectors(m, self.levels).numpy())

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The layers after the regions' maxima x (n, R, d)."""
        return _Regions(torch.from_numpy(np.array(x)), self.bits)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Half of the hinge on squared distances, averaged over triplets."""
        near, far = self.tuples(self.network_(batch.x)).squared()
        return {"triplet": 0.5 * (self.margin + near[:, None] - far).clamp_min(0).mean()}
