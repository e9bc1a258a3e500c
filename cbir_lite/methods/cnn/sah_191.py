"""SAH [191]: simultaneous feature aggregating and hashing (survey Section VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.features import aggregation as A
from cbir_lite.methods.autoencoder.rba import RBA
from cbir_lite.methods.base import Descriptors, as_float32, require_finite
from cbir_lite.methods.cnn._aggregation import BLOCK, evenly

_PLACES = 20000
"""Local vectors from which axes and words are learned."""


@dataclass(kw_only=True, eq=False)
class SAH(RBA):
    r"""Embed the local features, then learn the aggregation and the hash function as one problem.

    Aggregation and hashing are usually designed apart, and the aggregate may be one that no short
    code describes well. Here both are unknowns of one objective. Each local feature is first
    embedded by its directions to all visual words. A vector is the aggregate of an image if it is
    equally similar to all embedded features (generalized max pooling); a binary autoencoder is to
    rebuild the aggregates from codes. Codes, encoder, decoder and aggregates are updated in turn,
    none of which raises the objective, and the aggregates move to where codes rebuild them
    better. The journal version of the work is the system RBA [152], whose steps this one
    uses; that one aggregates local features as they are. Words and codes start from ``self.seed``.

    :survey: Section VI-C
    :cite: do2017sah
    :source: the survey's row with the objective, and the abstract of the extended version (joint
        optimisation, autoencoder with binary codes); the steps follow from the objective
    :objective: \min\ \tfrac12\|\Phi-W_2B-c_2\|^2+\tfrac\lambda2\|B-W_1\Phi-c_1\|^2
        +\tfrac\beta2\big(\|W_1\|^2+\|W_2\|^2\big)+\tfrac\gamma2\sum_i\big(\|V_i^\top\varphi_i-1\|^2
        +\mu\|\varphi_i\|^2\big),\quad V_i=\mathrm{norm}\Big(P^\top\mathrm{concat}_k
        \tfrac{\psi(p)-w_k}{\|\psi(p)-w_k\|}\Big)
    :shapes: maps x (n, h, w, d); embedded V (n, h w, dimensions); phi (n, dimensions) with bits <=
        dimensions; codes int8 (n, bits)
    :defaults: words = 8, local = 32 dimensions of a place, 128 of its embedding, whitened by half;
        the rest as in RBA; chosen here
    :departures: local features are places of frozen maps instead of SIFT or a VGG network's;
        triangulation is the one embedding, with few words because small maps give few places;
        constants are not the paper's. As in the paper a new image is aggregated by generalized max
        pooling alone
    :fidelity: simplified
    """

    words: int = 8
    local: int = 32
    dimensions: int = 128

    def fit(self, split: Split, **loop: Any) -> Self:
        """Words and axes of the embedding, then the joint objective on embedded places."""
        x = self._checked(split.x)
        for a in range(0, len(x), BLOCK):
            require_finite(x[a : a + BLOCK], type(self).__name__, a)
        self.channels_ = int(x.shape[-1])
        self._learn_embedding(x)
        return super().fit(Split(self.embedded(x), supervision="unsupervised"), **loop)

    def _learn_embedding(self, x: NDArray[Any]) -> None:
        rows = evenly(len(x), -(-_PLACES // (x.shape[1] * x.shape[2])))
        places = A.l2n(torch.from_numpy(as_float32(x[rows])))
        flat = places.flatten(0, 2)
        local = A.principal_whitening(flat, min(self.local, flat.shape[1]), 0.0)
        self.local_mean_, self.local_axes_ = (t.numpy() for t in local)
        self.words_ = A.learn_codebook(local(places), self.words, self.seed).words.numpy()
        directions = self._directions(places).flatten(0, 1)
        kept = max(self.bits, min(self.dimensions, directions.shape[1]))
        embedding = A.principal_whitening(directions, kept, 0.5)
        self.embedding_mean_, self.embedding_axes_ = (t.numpy() for t in embedding)

    def _directions(self, unit: Tensor) -> Tensor:
        """Directions (n, P, words local) from the words to places of unit length (n, h, w, d)."""
        local = A.Whitening(*map(torch.from_numpy, (self.local_mean_, self.local_axes_)))
        return A.triangulation(local(unit), torch.from_numpy(self.words_))

    def embedded(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Embedded places of unit length, float32 (n, h, w, dimensions)."""
        axes = A.Whitening(*map(torch.from_numpy, (self.embedding_mean_, self.embedding_axes_)))
        parts = [
            axes(self._directions(A.l2n(torch.from_numpy(as_float32(x[a : a + BLOCK])))))
            for a in range(0, len(x), BLOCK)
        ]
        found: NDArray[np.float32] = torch.cat(parts).unflatten(1, x.shape[1:3]).numpy()
        return found

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """W_1 phi(x) + c_1 float32 (n, bits) of maps (n, h, w, d)."""
        self._require_fit()
        x = self._checked(x, self.channels_)
        require_finite(x, type(self).__name__)
        return super().embed(self.embedded(x))
