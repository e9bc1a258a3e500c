"""DELF [55]: attentive local features (survey Sections II-B, V-E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import Descriptors
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.siamese._tuples import BLOCK, require_maps
from cbir_lite.methods.triplet._triplets import MetricLearner


class _Network(nn.Module):
    """Local features, their attention scores, and a classifier on the weighted sum."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, keep: int, classes: int):
        super().__init__()
        self.keep = keep
        self.attend = False
        some = x[:: -(-len(x) // BLOCK)].astype(np.float32)
        self.standardise = Standardise(some)
        self.local = nn.Linear(x.shape[-1], bits)
        self.hidden = nn.Linear(x.shape[-1], max(8, width // 4))
        self.score = nn.Linear(max(8, width // 4), 1)
        self.classifier = nn.Linear(bits, classes)

    def features(self, places: Tensor) -> Tensor:
        """Local features (n, P, bits) of standardised places (n, P, d)."""
        return self.local(places)

    def scores(self, places: Tensor) -> Tensor:
        """Attention (n, P), positive: a softplus at the end."""
        return F.softplus(self.score(F.relu(self.hidden(places)))).squeeze(2)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (n, C): of the mean feature first, of the attended sum in the second stage."""
        places = self.standardise(x).flatten(1, 2)
        features = self.features(places)
        if not self.attend:
            return self.classifier(features.mean(1))
        alpha = self.scores(places)
        share = alpha / alpha.sum(1, keepdim=True).clamp_min(1e-6)
        return self.classifier(torch.einsum("np,npd->nd", share, features))

    def forward(self, x: Tensor) -> Tensor:
        """The keypoints: features of unit length at the best places (n, keep bits)."""
        places = self.standardise(x).flatten(1, 2)
        count = min(self.keep, places.shape[1])
        best = self.scores(places).topk(count, 1).indices
        features = F.normalize(self.features(places), dim=2)
        kept = features.gather(1, best[..., None].expand(-1, -1, features.shape[2]))
        return kept.flatten(1)


@dataclass(kw_only=True, eq=False)
class DELF(MetricLearner):
    r"""Every place of the maps is a local feature, and attention says which are worth keeping.

    Two stages, both trained by classification of whole images. First the local features learn to
    tell the classes apart from their mean. Then they are fixed, and a small network learns a score
    for each place so that the sum of features weighted by the scores is classified well: places
    that help get high scores, background gets low ones. In retrieval the places with the highest
    scores are the keypoints of an image, and images are ranked by how well the keypoints of the
    query find matches among theirs.

    :survey: Sections II-B, V-E; Table I
    :cite: noh2017delf
    :source: the survey's row and sentences and the paper's abstract (training by image labels only,
        attention that selects keypoints); the two stages and the softplus are as commonly reported
        and were not checked in its text
    :objective: \mathrm{CE}\Big(y,W\sum_n\alpha_\theta(f_n)f_n\Big),\quad
        d(q,x)=\frac1K\sum_k\min_j\|q_k-x_j\|_2
    :shapes: maps x (n, h, w, d); scores (n, h w); keypoints float32 (n, keep bits)
    :defaults: keep = 6 keypoints of bits dimensions each; half of the epochs for each stage;
        hidden layer of the scores width / 4, all chosen here
    :departures: a linear layer on frozen maps replaces the network trained on landmarks and the PCA
        to 40 dimensions after it; scores are divided by their sum; one size of image, not a
        pyramid; matches are not verified by geometry and are found exhaustively, not in an index
    :fidelity: simplified
    """

    reads = "maps"

    keep: int = 6

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Local features, scores and classifier on maps x (n, h, w, d)."""
        require_maps(x, type(self).__name__)
        assert n_classes is not None
        return _Network(x, self.width, self.bits, self.keep, n_classes)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Features and classifier in the first half of the epochs, attention in the second."""
        second = epoch >= (self.epochs + 1) // 2
        network = self._net
        network.attend = second
        for part in (network.local, network.classifier):
            part.requires_grad_(not second)

    @property
    def _net(self) -> _Network:
        network = self.network_
        assert isinstance(network, _Network)
        return network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of whole images."""
        target = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        logits = self._net.classify(batch.x)
        return {"classification": F.cross_entropy(logits, target)}

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Keypoints float32 (n, keep bits), best first."""
        return self.outputs(x).numpy()

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Mean over the query's keypoints of the distance to the nearest one of the other image."""
        q, b = (torch.as_tensor(v).unflatten(1, (-1, self.bits)) for v in (queries, database))
        total = torch.zeros(len(q), len(b))
        for k in range(q.shape[1]):
            nearest = torch.stack([torch.cdist(q[:, k], b[:, j]) for j in range(b.shape[1])])
            total += nearest.amin(0)
        distances: NDArray[np.float32] = (total / q.shape[1]).numpy()
        return distances

    def scores(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Attention of every place, float32 (n, h, w)."""
        self._require_fit()
        with torch.inference_mode():
            places = self._net.standardise(torch.as_tensor(x)).flatten(1, 2)
            return self._net.scores(places).view(x.shape[:3]).clone().numpy()
