"""Bags of local convolutional features [187] (survey Sections VI-C, VII-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import LocalAggregation


@dataclass(kw_only=True, eq=False)
class BagsOfLocalFeatures(LocalAggregation):
    r"""Every place of the maps becomes a visual word, and an image the count of its words.

    Local activations are brought to unit length, whitened by PCA and brought to unit length again;
    k-means on the training images makes the vocabulary. An assignment map holds the word of every
    place, so any rectangle of an image can be counted at once. Histograms are compared by cosine.

    :survey: Sections VI-C, VII-D
    :cite: mohedano2016bags
    :source: the survey's row and sentences and the paper's abstract (words of local activations,
        assignment map); normalisation, whitening and the paper's size of vocabulary are as commonly
        reported and were not checked in its text
    :objective: h_k=\#\{p:\arg\min_j\|\psi(p)-c_j\|=k\},\quad \text{rank by }\cos(h_q,h_i)
    :shapes: maps x (n, h, w, d); assignment maps int64 (n, h, w); histograms (n, words);
        descriptors float32 (n, bits)
    :defaults: words = 128 where the paper has 25000: small maps give few local vectors, and images
        that share no word cannot be ranked; local = 64; local_whiten = 0.5, half of the paper's;
        whiten = 0, as histograms are not whitened
    :departures: histograms are compressed to ``bits`` dimensions by PCA, where the paper keeps them
        sparse in an inverted file; neither maps upscaled by interpolation nor spatial reranking
        and query expansion; maps are those of this package's backbones
    :fidelity: simplified
    """

    words: int = 128
    whiten: float = 0.0
    local_whiten: float = 0.5

    def aggregate(self, maps: Tensor) -> Tensor:
        """Histograms (n, words); the vocabulary comes from ``self.seed``."""
        return A.bag_of_words(self.reduced(maps), self.book)

    def assignment(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The word of every place, int64 (n, h, w), of maps (n, h, w, d)."""
        self._require_fit()
        return A.nearest_words(
            self.reduced(torch.from_numpy(self._check(x, 0))), self.book.words
        ).numpy()
