"""DRSCH [64]: deep regularized similarity comparison hashing (survey Sections III.3, V-C.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.triplet._triplets import ranking_loss, squared_distances

LONG_CODE = 64
BETWEEN_CLASSES = 0.001


class WeightedBits(HashNetwork):
    """A hash network and one weight for each bit, 1 unless it is learned."""

    def __init__(
        self, x: NDArray[np.generic], width: int, bits: int, dropout: float, learn_weights: bool
    ):
        super().__init__(x, width, bits, dropout)
        self.w = nn.Parameter(torch.ones(bits), requires_grad=learn_weights)


@dataclass(kw_only=True, eq=False)
class DRSCH(DeepMethod):
    r"""Triplets in near-Hamming space, regularised so that neighbours keep similar codes.

    Outputs are squashed by a tanh that sharpens during training. Two terms are minimised: a hinge
    that asks the mismatched pair of a triplet to be farther apart than the matched one by a margin,
    and a graph Laplacian that pulls together all pairs of a batch in proportion to their affinity,
    which goes on where the triplets are in order already.

    The variant ``bit_scalable`` also learns a weight for each bit of a long code and returns the
    bits of the largest weights, so that one training could serve every shorter length.

    :survey: Sections III.3, V-C.2
    :cite: zhang2015drsch
    :source: the paper's abstract and the authors' public code (tanh with a growing slope, weights
        of bits that start at one, hinge on squared distances of all triplets of a batch, Laplacian
        of affinities 1 within a class and 0.001 between classes, bits ordered by the size of their
        weights)
    :objective: \min\ \sum_{(i,i^+,i^-)}\max\big(0,\ m+\|r_i-r_{i^+}\|_2^2-\|r_i-r_{i^-}\|_2^2\big)
        +\lambda\,\mathrm{tr}(RLR^\top),\quad r=w\odot\tanh(\beta z),\ L=D-A,
        \ a_{ij}=1\text{ within a class, else }0.001
    :shapes: x (n, d), labels (n, C); r (n, bits), in the variant (n, 64) of which bits are kept;
        codes int8 (n, bits)
    :defaults: m = bits / 2, lambda = 0.01 with the trace averaged over pairs, beta from 1 to 2, all
        chosen on a held-out part of the training images; the public code has a margin of 5, which
        grows slowly, for 64 bits and lambda = 0.001 beside the sum over tens of thousands of
        triplets
    :departures: the CNN trained end to end is replaced by a hidden layer on frozen features (or a
        small conv net on images); batches are random, not a fixed number of images of each class;
        the public code's Laplacian has D with the opposite sign, which leaves its trace without a
        lower bound of zero, and D - A is used; the variant's codes are ranked by plain Hamming
        distance, without its weights; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    variants = {"bit_scalable": {"scalable": True}}  # noqa: RUF012

    lam: float = 0.01
    last_slope: float = 2.0
    margin_per_bit: float = 0.5
    scalable: bool = False

    @property
    def length(self) -> int:
        """Bits that are trained: more than are kept when the code is scalable."""
        return max(LONG_CODE, self.bits) if self.scalable else self.bits

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.length * self.margin_per_bit

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash layer and the weights of its bits."""
        return WeightedBits(x, self.width, self.length, self.dropout, self.scalable)

    def start_fit(self, data: TrainingData) -> None:
        """The slope beta of the tanh starts at one."""
        self.memory_ = {"beta": torch.tensor(1.0)}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The slope grows by equal factors."""
        self.memory_["beta"] = torch.tensor(self.last_slope ** (epoch / max(1, self.epochs - 1)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hinge averaged over valid triplets, Laplacian term averaged over pairs."""
        r = self.network_.get_parameter("w") * torch.tanh(
            self.memory_["beta"] * self.network_(batch.x)
        )
        s = batch.similarity
        d = squared_distances(r)
        a = torch.where(s > 0, 1.0, BETWEEN_CLASSES)
        # tr(R L R') is half the sum of a_ij ||r_i - r_j||^2.
        return {
            "ranking": ranking_loss(d, s, self.m),
            "laplacian": self.lam * 0.5 * (a * d).mean(),
        }

    def outputs(self, x: Tensor | NDArray[Any], batch_size: int = 2048) -> Tensor:
        """z (n, bits); of a scalable code the most significant bits, these first."""
        z = super().outputs(x, batch_size)
        order = (
            self.network_.get_parameter("w").detach().abs().argsort(descending=True, stable=True)
        )
        return z[:, order[: self.bits]] if self.scalable else z
