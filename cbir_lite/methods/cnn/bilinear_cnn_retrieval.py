"""Compact bilinear features [74] of two parallel networks (survey Section III.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation, evenly


@dataclass(kw_only=True, eq=False)
class BilinearCNN(Aggregation):
    r"""Multiply the features of two streams at every place, and pool the products.

    At each place the outer product of both streams' channels tells which of them fire together;
    summed over places it no longer knows where. Signed root and unit length follow. The product of
    all channels would be huge, so each stream is reduced to few channels first, which makes the
    descriptor compact; it is compressed once more at the end.

    :survey: Section III.5
    :cite: alzubi2017cbcnn
    :source: the survey's row and sentence and the paper's abstract (two parallel networks, root
        bilinear pooling of reduced channels, training end to end)
    :objective: f(x)=\mathrm{norm}\Big(\mathrm{sgn}(B)|B|^{1/2}\Big),\quad
        B=\frac1P\sum_p \big(W^\top\phi_A(p)\big)\otimes\big(W^\top\phi_B(p)\big)
    :shapes: maps x (n, h, w, d); products (n, reduced reduced); descriptors float32 (n, bits)
    :defaults: reduced = 32 channels of each stream; whiten = 0.5, as full whitening lifts noise
        where training images are few
    :departures: both streams are the one frozen backbone, so the product is symmetric, where the
        paper runs two networks and trains them on for retrieval; nothing is trained here; the
        channels are reduced by PCA
    :fidelity: simplified
    """

    reduced: int = 32

    def prepare(self, x: NDArray[Any]) -> None:
        """Principal axes of local vectors that reduce the channels."""
        places = self.some(x).flatten(0, 2)
        rows = torch.from_numpy(evenly(len(places), 20000))
        k = min(self.reduced, places.shape[1])
        self.keep("stream", A.principal_whitening(places[rows], k, 0.0))

    def aggregate(self, maps: Tensor) -> Tensor:
        """Signed roots of the pooled products (n, reduced reduced)."""
        return A.bilinear(maps, self.axes("stream").projection)
