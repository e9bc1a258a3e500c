"""RODH [196]: ranking optimization discrete hashing (survey Section VI-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.cnn.greedyhash import straight_through
from cbir_lite.methods.deep import Batch


def soft_histogram(d: Tensor, bits: int) -> Tensor:
    """Share (n, m, bits + 3) of each distance ``d`` (n, m) in the bins -1..bits + 1.

    A distance that is a whole number gives half of itself to its bin and a quarter to each
    neighbour, so that discrete codes still have a gradient between bins.
    """
    bins = torch.arange(-1, bits + 2, dtype=d.dtype)
    return (2 - (d[..., None] - bins).abs()).clamp_min(0) / 4


def average_precision(d: Tensor, relevant: Tensor, bits: int) -> Tensor:
    """Relaxed AP (n,) of rankings by distances ``d`` (n, m), ``relevant`` (n, m) in {0, 1}.

    Items in one bin are tied: each counts the relevant items of nearer bins and half of its own
    bin's. Columns that shall not be ranked are left out of ``d`` by the caller.
    """
    share = soft_histogram(d, bits)
    total = share.sum(1)
    hits = (share * relevant[..., None]).sum(1)
    # Among n tied items one is, in expectation, at place (n + 1) / 2.
    found = 0.5 + hits.cumsum(1) - hits / 2
    seen = 0.5 + total.cumsum(1) - total / 2
    return (hits * found / seen).sum(1) / hits.sum(1).clamp_min(1e-6)


@dataclass(kw_only=True, eq=False)
class RODH(LatentLayer):
    r"""Codes are discrete in every step, and are ranked as they will be searched.

    The sign is part of the forward pass, so nothing is relaxed; gradients pass through it as if
    it were the tanh below it. Two terms act on the exact codes: the labels must be readable from
    them by a linear layer, and every image of a batch, used as a query, should see a high
    average precision in the Hamming ranking of the others.

    :survey: Section VI-A
    :cite: lu2020rodh
    :source: the survey's sentence and row only (discrete codes from the network, ranking
        optimization); neither the text of the paper nor code of its authors was found
    :objective: \min\ \mathrm{CE}\big(y,Wb\big)
        +\lambda\Big(1-\frac1n\sum_q\mathrm{AP}_q\Big),\quad b=\mathrm{sgn}(\tanh z),
        \ \mathrm{AP}_q=\frac1{N_q^+}\sum_{d=-1}^{K+1}h_d^+\,
        \frac{H_{d-1}^++\frac12(1+h_d^+)}{H_{d-1}+\frac12(1+h_d)}
    :shapes: x (n, d), labels (n, C); z and b (n, K) with K = bits, W (C, K); h and H (n, K + 3)
        are the relaxed counts at and up to a distance, h+ and H+ those of relevant images; codes b
    :defaults: lambda = 1
    :departures: the ranking term, its relaxation by a histogram of distances that
        counts ties, and the straight-through gradient are this implementation's; the paper's CNN is
        replaced by a hidden layer on frozen features; images with several labels are classified by
        one logistic term a class; Adam with cosine decay
    :fidelity: sketch
    """

    lam: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification of exact codes, and what the batch's mean average precision lacks."""
        b = straight_through(torch.tanh(self.network_(batch.x)))
        n = len(b)
        others = ~torch.eye(n, dtype=torch.bool)
        d = ((self.bits - b @ b.T) / 2)[others].view(n, n - 1)
        relevant = batch.similarity[others].view(n, n - 1)
        has_relevant = relevant.sum(1) > 0
        ap = average_precision(d, relevant, self.bits)
        ranking = ((1 - ap) * has_relevant).sum() / has_relevant.sum().clamp_min(1)
        return {
            "classification": self.classification(b, batch.labels),
            "ranking": self.lam * ranking,
        }
