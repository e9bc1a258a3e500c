"""Similarity-based siamese network (SBS-CNN) [124] (survey Sections IV-B, V-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.triplet._triplets import MetricLearner, UnitNetwork


def opinions(features: Tensor, centers: Tensor) -> Tensor:
    """Cosines of the centred features of every pair, (K, B, B), one matrix for each expert.

    features (B, K, d): what K experts see of B images; centers (K, d): their means.
    """
    unit = F.normalize(features.float() - centers, dim=2).transpose(0, 1)
    return unit @ unit.transpose(1, 2)


def similarity_loss(f: Tensor, target: Tensor) -> Tensor:
    """Mean over pairs i != j of (cosine - target)^2 for unit rows f (B, D) and target (B, B)."""
    others = 1 - torch.eye(len(f), dtype=f.dtype)
    return ((f @ f.T - target).square() * others).sum() / others.sum()


@dataclass(kw_only=True, eq=False)
class SBSCNN(MetricLearner):
    r"""A light siamese network learns how similar two images are from experts, not from labels.

    Pretrained networks are the experts: each gives its own similarity for a pair of images of a
    domain in which nothing is labelled. Their opinions are brought to one scale and averaged. A
    much smaller network with two branches of shared weights learns to give the same similarity for
    the pair. After this transfer the small network alone describes images, and the experts are no
    longer needed.

    :survey: Sections IV-B, V-C, VIII-B
    :cite: liu2020rs
    :source: the survey's sentences, and the authors' abstract of the work that follows it, which
        tells what this one does (a siamese network trained without labels on similarities that
        several pretrained networks compute for pairs); its text and loss could not be had
    :objective: \min\sum_{i\ne j}\big(f_i^\top f_j-\bar s_{ij}\big)^2,\quad
        \bar s_{ij}=\frac1K\sum_{k=1}^K\frac{s^{(k)}_{ij}-m_k}{\sigma_k}\bar\sigma+\bar m
    :shapes: x (n, d) and views (n, V, d) are what K = V + 1 experts see; s (K, B, B); descriptors
        float32 (n, bits) of unit length
    :defaults: hidden layer of width / 4, because the model is light; mean and deviation of each
        expert from 1000 images; all chosen here
    :departures: one pretrained network is here, so the experts are this network on the picture and
        on its turned, mirrored and cropped views, which agree more than different networks would;
        the loss, the scale and the average are choices made here; the light model reads features of
        the same network instead of pixels; pictures of the survey's data sets, not remote sensing
    :fidelity: sketch
    """

    supervision = "unsupervised"
    views = ("rotate-10", "rotate10", "flip", "crop0")

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The light network."""
        return UnitNetwork(x, max(8, self.width // 4), self.bits, self.dropout)

    @staticmethod
    def seen(data: TrainingData | Batch) -> Tensor:
        """Features (n, K, d): the picture first, then its views."""
        assert data.views is not None
        return torch.cat([data.x[:, None], data.views], 1)

    def start_fit(self, data: TrainingData) -> None:
        """The centre of each expert's features, mean and deviation of its similarities."""
        rows = torch.linspace(0, len(data) - 1, min(1000, len(data))).long()
        features = self.seen(data.rows(rows)).float()
        centers = features.mean(0)
        apart = ~torch.eye(len(rows), dtype=torch.bool)
        s = opinions(features, centers)[:, apart]
        self.memory_["centers"] = centers
        self.memory_["mean"], self.memory_["deviation"] = s.mean(1), s.std(1).clamp_min(1e-6)

    def consensus(self, batch: Batch) -> Tensor:
        """The experts' mean similarity (B, B), each on the scale of all."""
        mean, deviation = self.memory_["mean"], self.memory_["deviation"]
        s = opinions(self.seen(batch), self.memory_["centers"])
        scaled = (s - mean[:, None, None]) / deviation[:, None, None]
        return scaled.mean(0) * deviation.mean() + mean.mean()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """How far the network's similarities are from the experts'."""
        return {"similarity": similarity_loss(self.network_(batch.x), self.consensus(batch))}

    def agreement(self, x: NDArray[Any], views: NDArray[Any]) -> NDArray[np.float32]:
        """Correlations (K, K) between the experts' similarities of images x (n, d)."""
        self._require_fit()
        seen = torch.cat([torch.as_tensor(x)[:, None], torch.as_tensor(views)], 1)
        s = opinions(seen, self.memory_["centers"])[:, ~torch.eye(len(x), dtype=torch.bool)]
        found: NDArray[np.float32] = torch.corrcoef(s).numpy()
        return found
