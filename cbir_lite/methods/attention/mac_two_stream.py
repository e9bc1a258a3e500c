"""MAC [138]: two-stream attentive CNNs, main and auxiliary (survey Sections V-E, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.siamese._tuples import BLOCK, require_maps
from cbir_lite.methods.triplet._triplets import MetricLearner


def contrast_saliency(maps: Tensor) -> Tensor:
    """How much each place stands out, shares (n, h, w) that sum to one.

    The distance of a place from the mean of all places, times a Gaussian around the centre of the
    map, whose spread is a third of each side.
    """
    h, w = maps.shape[1:3]
    rare = (maps - maps.mean(dim=(1, 2), keepdim=True)).norm(dim=3)
    up = (torch.arange(h, dtype=maps.dtype) - (h - 1) / 2) / (h / 3)
    side = (torch.arange(w, dtype=maps.dtype) - (w - 1) / 2) / (w / 3)
    saliency = rare * torch.exp(-0.5 * (up[:, None].square() + side.square())) + 1e-6
    return saliency / saliency.sum(dim=(1, 2), keepdim=True)


class _Network(nn.Module):
    """The main stream, the auxiliary stream, and what joins them; unit descriptors (n, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, classes: int):
        super().__init__()
        h, w, d = x.shape[1:]
        self.standardise = Standardise(x[:: -(-len(x) // BLOCK)].astype(np.float32))
        self.main = nn.Sequential(nn.Dropout(dropout), nn.Linear(d, width), nn.ReLU())
        self.auxiliary = nn.Sequential(nn.Linear(d, max(8, width // 8)), nn.ReLU())
        self.score = nn.Linear(max(8, width // 8), 1)
        self.location = nn.Parameter(torch.zeros(h * w))
        self.join = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, bits))
        self.classifier = nn.Linear(bits, classes)

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Joined outputs (n, bits) and the logarithms of the attention (n, P)."""
        places = self.standardise(x).flatten(1, 2)
        features = self.main(places)
        log_share = (self.score(self.auxiliary(places)).squeeze(2) + self.location).log_softmax(1)
        attended = torch.einsum("np,npd->nd", log_share.exp(), features)
        return self.join(torch.cat([features.mean(1), attended], 1)), log_share

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.streams(x)[0])


@dataclass(kw_only=True, eq=False)
class MACTwoStream(MetricLearner):
    r"""One stream sees what is in the image, another where a person would look, and both are fused.

    Two images are alike to a person when what catches the eye is alike, whatever lies around it.
    The main stream learns features of all places that tell the classes apart. The auxiliary stream
    is a small network that predicts the saliency of each place and knows the places of the map, so
    that it can prefer the centre. Its prediction weights the features of the main stream; the
    weighted sum and the plain mean are joined to the descriptor. Both tasks are trained together.

    :survey: Sections V-E, VI-C
    :cite: yang2017mac
    :source: the survey's row and sentences, and the abstract of the journal paper of the same
        authors (main stream for semantics, auxiliary stream for saliency, fusion of both); its
        losses and layers were not read
    :objective: \min\ \mathrm{CE}\big(y,Wf(x)\big)+\lambda\,\mathrm{KL}\big(s(x)\,\|\,a(x)\big),
        \quad f=U\Big[\tfrac1P\sum_p h(\phi_p),\ \sum_p a_p\,h(\phi_p)\Big]
    :shapes: maps x (n, h, w, d), labels (n, C); saliency s and attention a (n, h, w), each of sum
        one; descriptors float32 (n, bits) of unit length
    :defaults: lam = 1; hidden layer of the auxiliary stream width / 8; 15 epochs; chosen here
    :departures: recorded or predicted fixations cannot be had, so the saliency to learn is how much
        a place differs from the mean of the image, with a preference for the centre; both streams
        read the maps of one frozen network instead of being two networks; losses, weights and
        fusion are choices made here
    :fidelity: sketch
    """

    reads = "maps"

    epochs: int = 15
    lam: float = 1.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Both streams on maps x (n, h, w, d)."""
        require_maps(x, type(self).__name__)
        assert n_classes is not None
        return _Network(x, self.width, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification by the joined features, saliency by the auxiliary stream."""
        network = self.network_
        assert isinstance(network, _Network)
        joined, log_share = network.streams(batch.x)
        y = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        s = contrast_saliency(network.standardise(batch.x)).flatten(1)
        divergence = (s * (s.log() - log_share)).sum(1).mean()
        return {
            "classification": F.cross_entropy(network.classifier(joined), y),
            "saliency": self.lam * divergence,
        }

    def attention(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What the auxiliary stream predicts, shares float32 (n, h, w)."""
        self._require_fit()
        network = self.network_
        assert isinstance(network, _Network)
        with torch.inference_mode():
            share = network.streams(torch.as_tensor(x))[1].exp()
        found: NDArray[np.float32] = share.view(x.shape[:3]).numpy()
        return found
