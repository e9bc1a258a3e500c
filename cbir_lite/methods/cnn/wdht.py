"""WDHT [174]: weakly supervised deep hashing using tag embeddings (survey Section IV-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.cnn._tags import item_vectors, rarity, word_vectors
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


@dataclass(kw_only=True, eq=False)
class WDHT(DeepMethod):
    r"""The words that people attached to a picture become one vector, and the codes follow it.

    Every tag has a word vector; the tags of a picture give their weighted mean. The inner product
    of two codes should be the cosine of these means. A further layer predicts the mean from the
    code, and must come nearer to the picture's own than to that of any other picture of the
    batch. No class label is read.

    :survey: Section IV-C
    :cite: gattupalli2019wdht
    :source: the paper's abstract and a published reader's summary of its three losses and of the
        weights of tags
    :objective: \min\ \frac1{m^2}\sum_{ij}\big(\tfrac1kh_i^\top h_j-\cos(w_i,w_j)\big)^2
        +\lambda_1\frac1{m}\sum_{i\ne j}\max\big(0,\mu-\cos(f_i,w_i)+\cos(f_i,w_j)\big)
        +\lambda_2\||h_i|-\mathbf 1\|_2^2,\quad f=W_2h
    :shapes: x (n, d), tags (n, V) multi-hot; w (n, 300) or (n, V) if there are fewer tags; h in
        (-1, 1) (n, bits); codes int8 (n, bits)
    :defaults: tags weighted by inverse document frequency, 300 dimensions as usual for word2vec;
        mu = 0.2, lambda_1 = 1, lambda_2 = 0.1, the hinge a mean over pairs; chosen here
    :departures: word2vec vectors, learned elsewhere from much text, are replaced by a factorisation
        of the mutual information of the tags of the training set, so they know nothing that these
        tags do not say; frozen features; the exact form and weights of the losses are not the
        paper's equations but a summary's; Adam
    :fidelity: simplified
    """

    supervision = "weakly-supervised"

    dimensions: int = 300
    margin: float = 0.2
    lam_hinge: float = 1.0
    lam_quantization: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network, with ``semantic`` from a code to the space of words."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.semantic = nn.Linear(self.bits, min(self.dimensions, n_classes))
        return network

    def start_fit(self, data: TrainingData) -> None:
        """The vector of every training picture."""
        assert data.y is not None
        vectors = word_vectors(data.y, self.dimensions)
        self.memory_ = {"words": vectors, "rarity": rarity(data.y)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pairs, ranking of the pictures' word vectors, distance from plus and minus one."""
        h = self.network_(batch.x).tanh()
        f = F.normalize(self.network_.get_submodule("semantic")(h), dim=1)
        w = item_vectors(batch.labels, self.memory_["words"], self.memory_["rarity"])
        cosine = f @ w.T
        hinge = (self.margin - cosine.diagonal()[:, None] + cosine).clamp_min(0)
        others = 1 - torch.eye(len(w))
        return {
            "pairs": (h @ h.T / self.bits - w @ w.T).square().mean(),
            "ranking": self.lam_hinge * (hinge * others).sum() / others.sum(),
            "quantization": self.lam_quantization * (h.abs() - 1).square().mean(),
        }
