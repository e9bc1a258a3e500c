"""HashNet [71]: deep learning to hash by continuation (survey Sections III, V-A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label

STAGES = 50
LAST_ITERATION = 10_000


@dataclass(kw_only=True, eq=False)
class HashNet(DeepMethod):
    r"""A pair likelihood weighted against imbalance, on tanh outputs that sharpen into signs.

    Similar pairs are rare, so the pairs of each kind weigh as much as all pairs together; the
    counts are taken from the labels of the training set. The slope beta of the tanh grows in
    stages: each stage starts from the solution of an easier, smoother one.

    :survey: Sections III.5, V-A; Tables II, III, IV
    :cite: cao2017hashnet
    :source: the paper and the authors' public code (alpha = 10 / bits, beta = sqrt(1 + 0.005 t) in
        50 stages of 200 of its 10,000 iterations, class weight from the counts of the training set)
    :objective: \min\ \sum_{s_{ij}\in S}w_{ij}\big(\log(1+e^{\alpha\langle h_i,h_j\rangle})
        -\alpha s_{ij}\langle h_i,h_j\rangle\big),\quad h=\tanh(\beta z),\ \beta\to\infty,
        \quad w_{ij}=c_{ij}\,|S|/|S_1|\text{ if }s_{ij}=1,\ |S|/|S_0|\text{ if }s_{ij}=0
    :shapes: x (n, d), labels (n, C); z and h (n, bits); codes sign(z), int8 (n, bits)
    :defaults: alpha = 10 / bits; beta from 1 towards the square root of 51, the public schedule
        stretched over the epochs; c_ij is the Jaccard index of the two label sets of a similar
        pair; the sum is a mean over pairs
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; all
        pairs i < j of one batch instead of two batches; Adam with cosine decay instead of SGD.
        Dissimilar pairs have c_ij = 1, because their Jaccard index is zero and would remove them;
        with several labels the public Caffe code takes 4 n_ij^2 / (n_i n_j) instead, of the numbers
        of labels shared and had
    :fidelity: simplified
    """

    @property
    def alpha(self) -> float:
        """Scale of the inner product, which keeps the likelihood alike for all code lengths."""
        return 10.0 / self.bits

    def start_fit(self, data: TrainingData) -> None:
        """The weights |S|/|S1| and |S|/|S0| over all pairs i != j of the training set."""
        assert data.y is not None
        # Rows of one label set are alike: counting label sets avoids the n x n similarity.
        kinds, counts = data.y.unique(dim=0, return_counts=True)
        counts = counts.double()
        with_itself = counts[kinds.sum(1) > 0].sum()
        s1 = counts @ shares_label(kinds, kinds).double() @ counts - with_itself
        s = torch.tensor(float(len(data) * (len(data) - 1)))
        self.memory_ = {
            "beta": torch.tensor(1.0),
            "w1": (s / s1.clamp_min(1)).float(),
            "w0": (s / (s - s1).clamp_min(1)).float(),
        }

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The next stage of the continuation."""
        stage = STAGES * epoch // self.epochs
        self.memory_["beta"] = torch.tensor(1 + 0.005 * LAST_ITERATION * stage / STAGES).sqrt()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted negative log likelihood, averaged over pairs i < j."""
        h = torch.tanh(self.memory_["beta"] * self.network_(batch.x))
        i, j = torch.triu_indices(len(h), len(h), offset=1)
        s = batch.similarity[i, j]
        y = batch.labels
        shared = (y @ y.T)[i, j]
        c = shared / (y.sum(1)[i] + y.sum(1)[j] - shared).clamp_min(1)
        w = torch.where(s > 0, c * self.memory_["w1"], self.memory_["w0"])
        product = self.alpha * (h @ h.T)[i, j]
        return {"likelihood": (w * (F.softplus(product) - s * product)).mean()}
