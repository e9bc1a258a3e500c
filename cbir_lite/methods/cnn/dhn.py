"""DHN [67]: deep hashing network (survey Sections III.4, IV-A, Tables II to IV)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod


def log_cosh(x: Tensor) -> Tensor:
    """log cosh x without overflow: a smooth |x|."""
    return x.abs() + F.softplus(-2 * x.abs()) - math.log(2)


@dataclass(kw_only=True, eq=False)
class DHN(DeepMethod):
    r"""A pair likelihood on tanh outputs, with a prior that has its two modes at the code values.

    Both terms come from one maximum a posteriori estimate. The inner product of two outputs is the
    log-odds that the pair is similar. The prior on each output is a Laplacian around plus one
    mixed with one around minus one, so that taking the sign loses little; its absolute value
    is smoothed by a log cosh.

    :survey: Sections III.4, IV-A; Tables II, III, IV
    :cite: zhu2016dhn
    :source: the first author's public Caffe code (plain inner product, log cosh, tanh, all pairs of
        a batch, weight of the prior) and the survey's row
    :objective: \min\ \sum_{s_{ij}\in S}\big(\log(1+e^{\langle z_i,z_j\rangle})
        -s_{ij}\langle z_i,z_j\rangle\big)
        +\lambda\sum_i\sum_k\log\cosh(|z_{ik}|-1),\quad z=\tanh(F(x))
    :shapes: x (n, d), labels (n, C); z (n, bits); codes sgn(z), int8 (n, bits)
    :defaults: lambda = 0.1 (public code), with the first sum averaged over the pairs of a batch and
        the second over its images
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay instead of SGD
    :fidelity: simplified
    """

    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood over all pairs of the batch, and the bimodal prior."""
        z = torch.tanh(self.network_(batch.x))
        s, product = batch.similarity, z @ z.T
        return {
            "likelihood": (F.softplus(product) - s * product).mean(),
            "prior": self.lam * log_cosh(z.abs() - 1).sum() / len(z),
        }
