"""Listwise AP loss [224]: learning with average precision (survey Section VIII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import MetricLearner, UnitNetwork


def soft_histogram(S: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Weighted counts (B, bins) of cosines S (B, n), each shared by its two nearest bin centres.

    Centres go from 1 down to -1 in equal steps. A cosine's shares are linear in it, so the counts
    have gradients.
    """
    place = (1 - S.clamp(-1, 1)) * (bins - 1) / 2
    lower = place.detach().floor().clamp(max=bins - 2)
    share = place - lower
    at = lower.long()
    counts = torch.zeros(len(S), bins)
    return counts.scatter_add(1, at, weight * (1 - share)).scatter_add(1, at + 1, weight * share)


def average_precision(S: Tensor, relevant: Tensor, listed: Tensor, bins: int) -> Tensor:
    """AP (B,) of rows that rank the listed items by cosines S (B, n), from soft histograms.

    ``relevant`` and ``listed`` are (B, n) of zeros and ones; a row without relevant items has 0.
    """
    items = soft_histogram(S, listed, bins)
    hits = soft_histogram(S, relevant * listed, bins)
    precision = hits.cumsum(1) / items.cumsum(1).clamp_min(1e-12)
    recall_steps = hits / hits.sum(1, keepdim=True).clamp_min(1e-12)
    return (precision * recall_steps).sum(1)


@dataclass(kw_only=True, eq=False)
class ListwiseAP(MetricLearner):
    r"""Average precision itself, made differentiable by soft histograms, over a batch as the list.

    Every image of a batch queries all others. Its cosines are counted in a few bins, an image
    between two bin centres in shares; precision at a bin and the recall it adds then follow from
    cumulated counts, and their product summed over bins is the AP that is maximised. Large batches
    make the list resemble a database.

    Real-valued: ``bits`` is the number of dimensions, each a float32; rankings by Euclidean
    distance and by cosine agree because all descriptors have length one.

    :survey: Section VIII-A
    :cite: revaud2019listwise
    :source: the authors' public code (triangular bins, precision and recall from cumulated counts,
        one minus the mean AP) and the paper's abstract
    :objective: \min\ 1-\frac1B\sum_q\mathrm{AP}_q,\quad
        \mathrm{AP}_q=\sum_{m=1}^M\hat P_m\,\Delta\hat r_m,\
        \hat P_m=\frac{\sum_{m'\le m}\delta_{m'}^\top y}{\sum_{m'\le m}\delta_{m'}^\top1},\
        \Delta\hat r_m=\frac{\delta_m^\top y}{N_q},
        \ \delta_{mi}=\max\Big(0,1-\frac{|S_{qi}-b_m|}{\Delta}\Big)
    :shapes: x (n, d), labels (n, C); S (B, B); f float32 (n, bits), of length one
    :defaults: M = 20 centres from 1 to -1 (the public code has 25 from 1 to 0), batches of 512
    :departures: ResNet-101 with generalised-mean pooling, trained end to end on whole batches of
        high-resolution landmarks by passing gradients in stages, is replaced by a hidden layer on
        frozen features; the query itself is left out of its list; Adam with cosine decay
    :fidelity: simplified
    """

    batch_size: int = 512
    bins: int = 20

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Descriptors of length one."""
        return UnitNetwork(x, self.width, self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """One minus the mean AP over the queries of the batch that have a relevant image."""
        f = self.network_(batch.x)
        others = 1 - torch.eye(len(f))
        relevant = batch.similarity * others
        ap = average_precision(f @ f.T, relevant, others, self.bins)
        asks = (relevant.sum(1) > 0).float()
        return {"1 - mAP": (asks * (1 - ap)).sum() / asks.sum().clamp_min(1)}
