"""Lifted structure loss [66]: metric learning on whole batches (survey Sections III.4, VIII-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet._triplets import MetricLearner, squared_distances

ABSENT = -1e9


@dataclass(kw_only=True, eq=False)
class LiftedStructure(MetricLearner):
    r"""Every matching pair of a batch against all other images that match neither.

    A pair or a triplet uses few of the distances that a batch holds. Here the whole matrix of
    distances enters: for each matching pair a smooth maximum picks out the nearest negatives of
    both of its images, and the pair must be nearer to each other than that by the margin alpha.

    Real-valued: ``bits`` is the number of dimensions, each a float32.

    :survey: Sections III.4, VIII-A
    :cite: song2016lifted
    :source: the authors' repository and public reimplementations (smooth maximum over the negatives
        of both images, squared hinge halved over pairs, distances that are not squared, margin 1,
        descriptors that are not normalised)
    :objective: \min\ \frac1{2|P|}\sum_{(i,j)\in P}\max(0,J_{ij})^2,\quad
        J_{ij}=\log\Big(\sum_{k\in N_i}e^{\alpha-D_{ik}}+\sum_{l\in N_j}e^{\alpha-D_{jl}}\Big)
        +D_{ij},\ D_{ij}=\|f_i-f_j\|_2
    :shapes: x (n, d), labels (n, C); f float32 (n, bits)
    :defaults: alpha = 1 (public code)
    :departures: GoogLeNet trained end to end is replaced by a hidden layer on frozen features (or a
        small conv net on images); batches are random rows with all their matching pairs, where the
        paper draws pairs and adds their hardest negatives; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    alpha: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over matching pairs i < j of half the squared hinge of J_ij."""
        s = batch.similarity
        # The root has no gradient at zero, where equal rows would be.
        D = (squared_distances(self.network_(batch.x)) + 1e-12).sqrt()
        nearest = torch.logsumexp(torch.where(s > 0, ABSENT, self.alpha - D), 1)
        i, j = (torch.triu(s, 1) > 0).nonzero(as_tuple=True)
        J = torch.logaddexp(nearest[i], nearest[j]) + D[i, j]
        return {"lifted": J.clamp_min(0).square().sum() / (2 * max(1, len(i)))}
