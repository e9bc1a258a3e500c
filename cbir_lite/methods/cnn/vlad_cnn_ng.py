"""VLAD of convolutional features [184] (survey Section VI-C)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import LocalAggregation


@dataclass(kw_only=True, eq=False)
class VLADOfCNN(LocalAggregation):
    r"""Sum up, for each visual word, how the local activations near it differ from it.

    Local activations are brought to unit length and given to the nearest word of a small codebook.
    The residuals of each word are summed, the signed root is taken, each word's sum is brought to
    unit length so that no word rules, and all are joined and compressed by PCA. Lower layers than
    the last were found to serve instances better, because they keep local detail.

    :survey: Section VI-C
    :cite: ng2015exploiting
    :source: the survey's row and sentence and the paper's abstract (VLAD of layers, compressed);
        the normalisation of words and the paper's size of codebook are as commonly reported
    :objective: v_k=\sum_{p:NN(p)=k}(\psi(p)-c_k),\quad f=V^\top\big(\mathrm{concat}_k\,
        \mathrm{norm}(\mathrm{sgn}(v_k)|v_k|^{1/2})-\mu\big)
    :shapes: maps x (n, h, w, d); joined (n, words local); descriptors float32 (n, bits)
    :defaults: words = 8 where the paper has 100, because small maps give few local vectors, which
        many words would not share; local = 64; whiten = 0, as the paper compresses by PCA
    :departures: the last layer only, not the best of all layers; local vectors are compressed
        by PCA first; maps are those of this package's backbones
    :fidelity: simplified
    """

    words: int = 8
    whiten: float = 0.0

    def aggregate(self, maps: Tensor) -> Tensor:
        """Residuals of each word, joined (n, words local); the words come from ``self.seed``."""
        return A.vlad(self.reduced(maps), self.book)
