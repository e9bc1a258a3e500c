"""DSRH [131]: deep semantic-preserving and ranking-based hashing (survey Sections V-C.2, VII-F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.quantizers import class_shares
from cbir_lite.methods.triplet._triplets import DivideAndEncode, ranking_loss, squared_distances


class TwoStreams(DivideAndEncode):
    """A hash stream of one slice for each bit, and a classification stream, on one hidden layer."""

    def __init__(
        self, x: NDArray[np.generic], width: int, bits: int, n_classes: int, dropout: float
    ):
        super().__init__(x, width, bits, dropout)
        self.classify = nn.Linear(self.weight.numel(), n_classes)

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h (n, bits) in (-1, 1) and class scores (n, C)."""
        hidden = self.trunk(x)
        return torch.tanh(self.encode(hidden)), self.classify(hidden)


@dataclass(kw_only=True, eq=False)
class DSRH(DeepMethod):
    r"""Codes that order triplets, do not repeat bits, and come from features that tell classes.

    Two streams leave one hidden layer. The hash stream cuts it into one bag of features for each
    bit and is trained on triplets, with a penalty on correlated bits: the products of the bits over
    a batch should be those of orthogonal columns of plus and minus one. The classification stream
    keeps the hidden layer semantic.

    Another system of the same letters is Zhao's DSRH for multi-label images [207].

    :survey: Sections V-C.2, VII-F
    :cite: yao2016dsrh
    :source: the survey's sentences, the paper's abstract, and the loss layer in the public Caffe
        fork of one of its authors (hinge of margin 1 on squared distances, squared difference of
        H'H and batch size x identity, the two mixed as lambda and 1 - lambda)
    :objective: \min\ \lambda\sum\max\big(0,\ m+\|h-h^+\|_2^2-\|h-h^-\|_2^2\big)
        +(1-\lambda)\,\|\tfrac1BH^\top H-I\|_F^2-\sum_i\log p(y_i|x_i),\quad h=\tanh(W_ix^{(i)})
    :shapes: x (n, d), labels (n, C); H (n, bits); codes int8 (n, bits)
    :defaults: lambda = 0.5; m = bits, chosen on a held-out part of the training images, as the
        margin 1 of the public code is less than one bit; the parameters of the paper are not public
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features, which
        has about width / bits features in a bag; one batch of rows with all its triplets instead of
        three streams of images drawn as triplets; classification weighs as much as the rest, and
        its targets are shares where an image has several labels; Adam with cosine decay instead of
        SGD
    :fidelity: simplified
    """

    lam: float = 0.5
    margin: float = 1.0

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.margin * self.bits

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash stream and classification stream."""
        assert n_classes is not None
        return TwoStreams(x, self.width, self.bits, n_classes, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hinge averaged over valid triplets, entries of H'H / B, class log-likelihood."""
        network: Any = self.network_
        h, scores = network.streams(batch.x)
        gram = h.T @ h / len(h) - torch.eye(self.bits)
        return {
            "ranking": self.lam * ranking_loss(squared_distances(h), batch.similarity, self.m),
            "orthogonality": (1 - self.lam) * gram.square().sum() / self.bits,
            "classification": F.cross_entropy(scores, class_shares(batch.labels)),
        }
