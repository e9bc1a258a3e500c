"""R-MAC [214]: regional maximum activations of convolutions (survey Section VII-E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import BLOCK, BUDGET, MapReader, evenly


@dataclass(kw_only=True, eq=False)
class RMAC(MapReader):
    r"""Describe many square regions of the maps by their maxima, and add the descriptions up.

    Regions lie on a grid at several scales and overlap. Each gives the maximum of every channel,
    is brought to unit length, projected on whitened principal components of the regions of the
    training images and brought to unit length again, so that a small object weighs as much as a
    large one. The sum over regions, of unit length, is compared by cosine.

    :survey: Section VII-E
    :cite: tolias2016rmac
    :source: openings of the authors' public MATLAB code and of its Python ports (regions, levels,
        overlap of two fifths), and the formula of the survey's row
    :objective: f=\mathrm{norm}\Big(\sum_{r}\mathrm{norm}\big(P^\top(\mathrm{norm}(\max_{p\in r}
        \phi(p))-\mu)\big)\Big)
    :shapes: maps x (n, h, w, d); R regions (n, R, d); descriptors float32 (n, bits)
    :defaults: levels = 3 (paper); whiten = 1, the full whitening of the paper
    :departures: the whitening keeps ``bits`` dimensions instead of all; neither the localisation of
        the object by integral maxima, nor the query expansion that the paper does after ranking;
        maps are those of this package's backbones
    :fidelity: simplified
    """

    levels: int = 3
    whiten: float = 1.0

    def learn(self, x: NDArray[Any]) -> None:
        """Whitened principal components of the training images' regions."""
        count = len(A.regions(x.shape[1], x.shape[2], self.levels))
        rows = evenly(len(x), BUDGET // (count * x.shape[-1]))
        parts = [
            A.region_vectors(self._check(x[rows[a : a + BLOCK]], a), self.levels)
            for a in range(0, len(rows), BLOCK)
        ]
        regions = torch.cat(parts).flatten(0, 1)
        self.keep("region", A.principal_whitening(regions, self.bits, self.whiten))

    def describe(self, maps: Tensor) -> Tensor:
        """Sums (n, bits) over the regions' whitened unit vectors."""
        return self.axes("region")(A.region_vectors(maps, self.levels)).sum(1)
