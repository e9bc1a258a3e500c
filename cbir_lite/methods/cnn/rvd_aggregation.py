"""Robust aggregation (RVD-W) of CNN features [69] (survey Sections III.4, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import LocalAggregation, evenly


@dataclass(kw_only=True, eq=False)
class RobustVisualDescriptor(LocalAggregation):
    r"""Give each local feature to several words, and let only the direction of its residual count.

    A local feature near the border of two words may fall to either; here it goes to its three
    nearest, with a weight that falls with the rank. Residuals are decorrelated and whitened within
    each word and brought to unit length, so an outlier far from its word counts no more than
    others. The sums of all words are joined, the signed root is taken, and the whole is compressed.
    The codebook starts from ``self.seed``.

    :survey: Sections III.4, VI-C
    :cite: husain2017rvdw
    :source: the survey's row and the abstract of the journal paper (rank assignment,
        direction-preserving normalisation, whitening in each cluster, aggregation by rank); the
        weights could not be read
    :objective: v_k=\sum_{r}\beta_r\sum_{p:NN_r(p)=k}\frac{W_k(\psi(p)-c_k)}{\|W_k(\psi(p)-c_k)\|},
        \quad f=\mathrm{norm}\big(\mathrm{concat}_k\,\mathrm{sgn}(v_k)|v_k|^{1/2}\big)
    :shapes: maps x (n, h, w, d); joined (n, words local); descriptors float32 (n, bits)
    :defaults: words = 8 and local = 64, less than in the paper because small maps give few places;
        three nearest words with weights 4, 2, 1; whiten = 0 at the end
    :departures: unit length by the Euclidean norm; the weights of ranks and no selection of
        components after PCA are choices made here; words with few members are whitened less
        (their covariance is mixed with that of all residuals); maps are those of this package's
        backbones
    :fidelity: simplified
    """

    words: int = 8
    whiten: float = 0.0

    def prepare(self, x: NDArray[Any]) -> None:
        """Local axes and words, then the whitening (words, local, local) of each word."""
        super().prepare(x)
        places = self.reduced(self.some(x)).flatten(0, 2)
        places = places[torch.from_numpy(evenly(len(places), 20000))]
        words = self.book.words
        member = torch.cdist(places, words).argmin(1)
        residual = places - words[member]
        d = residual.shape[1]
        everywhere = residual.T @ residual / len(residual)
        rotations = []
        for k in range(len(words)):
            own = residual[member == k]
            # As if every word had seen d residuals of the average word besides its own.
            scatter = (own.T @ own + d * everywhere) / (len(own) + d)
            values, axes = torch.linalg.eigh(scatter.double())
            values = values.clamp_min(1e-6 * float(values[-1]))
            rotations.append((axes / values.sqrt()).float())
        self.rotations_ = torch.stack(rotations).numpy()

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums of directions by rank (n, words local), signed root."""
        rotations = torch.from_numpy(self.rotations_)
        v = A.robust_directions(self.reduced(maps), self.book.words, rotations)
        return v.sign() * v.abs().sqrt()
