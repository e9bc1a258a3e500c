"""DAR [111]: discriminative attributes and visual representations (survey Section IV-B)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._pseudo import PseudoSupervised, directions, k_means, nearest_centres
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.triplet._triplets import squared_distances


def strongest_rows(P: Tensor, rows: Tensor, m: int) -> Tensor:
    """Cluster of each row of P (n, clusters), or -1: a cluster keeps its m strongest of ``rows``.

    A row that several clusters keep belongs to the one that is strongest on it.
    """
    best = rows[P[rows].topk(m, dim=0).indices]
    kept = torch.full_like(P, -1.0).scatter_(0, best, P.gather(0, best))
    strength, cluster = kept.max(1)
    return torch.where(strength >= 0, cluster, -1)


@dataclass(kw_only=True, eq=False)
class DAR(PseudoSupervised):
    r"""Discriminative clusters of images first; then bits that separate the clusters.

    In the first stage the network learns to classify clusters. To keep it from memorising where
    k-means happened to put an image, the clusters found on one half of the images train the
    classifier, whose strongest answers on the other half become the next clusters, and the halves
    change roles every few epochs. In the second stage the probabilities of the clusters are
    a soft supervision of the hash layer: an image and one that probably shares its cluster are to
    be nearer than images that probably do not.

    :survey: Section IV-B; Table III
    :cite: huang2016dar
    :source: the paper's abstract (discriminative clustering coupled with a network, membership as
        soft supervision, shared attributes, separability) and a later survey's summary of it
        (triplet objective); the halves are those of the clustering method it builds on
    :objective: \text{1: }\min\ \mathrm{mean}_{i:c_i\ge0}\,\mathrm{CE}(c_i,P_i);
        \quad\text{2: }\min\ \tfrac1K\,\mathrm{mean}_{a,n}\,(1-P_a^\top P_n)
        \max\big(0,m+\|h_a-h_p\|^2-\|h_a-h_n\|^2\big)
        +\tfrac\lambda K\,\mathrm{mean}_i\|h_i-\mathrm{sgn}(h_i)\|^2,\quad p\sim P_a^\top P_p
    :shapes: x (n, d); P (n, clusters); h = tanh(z) (n, bits); codes int8 (n, bits)
    :defaults: 20 clusters, m = bits / 2, lam = 0.1, halves changed every 5 epochs, half of the
        epochs for each stage; a cluster keeps as many rows as if all had equally many. Of 15 and 60
        clusters the fewer did better on a held-out part of the training images
    :departures: the loss of the second stage is this package's reading of the summaries, the
        paper's formulas and constants were not available; whole images in place of patches; the CNN
        trained end to end is replaced by a hidden layer on frozen features; Adam with cosine decay
        instead of SGD
    :fidelity: sketch
    """

    supervision = "unsupervised"

    clusters: int = 20
    lam: float = 0.1
    margin_per_bit: float = 0.5
    period: int = 5

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits * self.margin_per_bit

    @property
    def first_stage(self) -> int:
        """Number of epochs of clustering."""
        return math.ceil(self.epochs / 2)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network, and a classifier of clusters beside its hash layer."""
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.classifier = nn.Linear(self.width, self.clusters)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Two halves, and k-means clusters of the first."""
        generator = self._generator(self.epochs)
        half = torch.zeros(len(data), dtype=torch.bool)
        half[torch.randperm(len(data), generator=generator)[: len(data) // 2]] = True
        u = directions(data.x)
        cluster = torch.full((len(data),), -1)
        cluster[half] = nearest_centres(u[half], k_means(u[half], self.clusters, generator))
        self.memory_ = {"half": half, "cluster": cluster}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Change the halves' roles, or hand the memberships to the second stage."""
        if epoch == self.first_stage:
            self.memory_ = {"P": self.memberships(data)}
        elif epoch < self.first_stage and epoch and epoch % self.period == 0:
            half = ~self.memory_["half"]
            rows = half.nonzero()[:, 0]
            m = max(1, len(rows) // self.clusters)
            cluster = strongest_rows(self.memberships(data), rows, m)
            self.memory_ = {"half": half, "cluster": cluster}

    def memberships(self, data: TrainingData) -> Tensor:
        """P (n, clusters): the probability of each cluster for each training row."""
        network: Any = self.network_
        scores = self._in_blocks(nn.Sequential(network.trunk, network.classifier), data.x)
        return scores.softmax(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification of the clusters' members, or triplets of probable members."""
        network: Any = self.network_
        hidden = network.trunk(batch.x)
        if "cluster" in self.memory_:
            cluster = self.memory_["cluster"][batch.index]
            losses = F.cross_entropy(
                network.classifier(hidden), cluster, ignore_index=-1, reduction="sum"
            )
            return {"clustering": losses / (cluster >= 0).sum().clamp_min(1)}
        P = self.memory_["P"][batch.index]
        h = torch.tanh(network.hash_layer(hidden))
        d, together = squared_distances(h), P @ P.T
        hinge = (self.m + d.gather(1, self.partners(together)) - d).clamp_min(0)
        apart = 1 - together
        return {
            "triplet": (hinge * apart).sum() / apart.sum().clamp_min(1) / self.bits,
            "quantization": self.lam * (h - sign(h.detach())).square().mean(),
        }

    @staticmethod
    def partners(together: Tensor) -> Tensor:
        """Another row for each, (B, 1), drawn by the probability of sharing a cluster (B, B)."""
        others = 1 - torch.eye(len(together))
        return torch.multinomial(together.clamp_min(1e-12) * others, 1)
