"""UADH [122]: unsupervised semantic-preserving adversarial hashing (survey Sections IV-B, V-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.gan._players import Flat, TwoPlayers, maker, telling
from cbir_lite.methods.gan.bgan import nearest, structure
from cbir_lite.methods.networks import HashNetwork

_BLOCK = 1000


def semantic_neighbours(x: Tensor, K: int) -> Tensor:
    """Rows (n, 2 (K + 1)), with repeats, that are alike in features (n, d) or in neighbours.

    Alike in features is a row itself and its K nearest by cosine; alike in neighbours the K + 1
    rows whose nearest share most with one's own, the lower row first among equals.
    """
    n, m = len(x), min(K + 1, len(x))
    near = nearest(x, m - 1)
    columns, starts = near.numpy().ravel(), np.arange(0, n * m + 1, m)
    member = sparse.csr_matrix((np.ones(n * m, np.int32), columns, starts), shape=(n, n))
    found = []
    for a in range(0, n, _BLOCK):
        shared = torch.from_numpy((member[a : a + _BLOCK] @ member.T).toarray()).long()
        found.append((shared * n - torch.arange(n)).topk(m, dim=1).indices)
    return torch.cat([near, torch.cat(found)], 1)


class PairDiscriminator(nn.Module):
    """Logit (B,) that an input (B, d) came with its code (B, bits), not with a generator."""

    def __init__(self, d: int, bits: int, width: int):
        super().__init__()
        self.input, self.code = nn.Linear(d, width), nn.Linear(bits, width)
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One hidden layer on both."""
        y: Tensor = self.logit(F.leaky_relu(self.input(x) + self.code(h), 0.2)).squeeze(1)
        return y


class Networks(nn.Module):
    """Encoder, generator and discriminator of pairs; calling it gives z (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.flat = Flat(x)
        narrow = max(1, width // 2)
        self.encoder = HashNetwork(x, width, bits, dropout)
        self.generator = maker(bits, narrow, self.flat.d)
        self.discriminator = PairDiscriminator(self.flat.d, bits, narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer before tanh."""
        z: Tensor = self.encoder(x)
        return z


@dataclass(kw_only=True, eq=False)
class UADH(TwoPlayers):
    r"""Encoder and generator become each other's inverse; neighbourhoods say which pairs are alike.

    An encoder turns images into codes and a generator turns random codes into images. A
    discriminator looks at pairs of image and code and learns which of the two made them; encoder
    and generator make their pairs alike, so that each undoes the other and the codes of images
    spread as random codes do. What is similar is not told but taken from features: images that are
    near, or whose neighbours are the same, get near codes.

    :survey: Sections IV-B, V-D, IX; Table IV
    :cite: deng2019uadh
    :source: the paper's abstract (the three networks, discrimination of pairs, similarity from
        features and neighbours); its equations were not at hand and no public code was found
    :objective: \min_{E,G}\max_D\ \lambda\big(\log D(x,h)+\log(1-D(G(b),b))\big)
        +\overline{\big(\tfrac1K h_i^\top h_j-s_{ij}\big)^2}
        +\eta\,\overline{(h-\mathrm{sgn}(h))^2},\quad h=\tanh(E(x)),\ b\sim\{-1,1\}^K
    :shapes: x (n, d) or images; S (B, B) in {-1, 1}; h, b (n, bits); codes int8 (n, bits)
    :defaults: near = 0.02 (share of the training set that counts as near, in features and in
        neighbours), lambda_A = 0.1, eta = 0.1 (own choices)
    :departures: the paper's similarity matrix, its loss and its weights were not at hand: S, the
        squared error and the quantization term follow the abstract and the survey, their form is
        this package's. Images are the frozen backbone's features, and so is what the generator
        makes; each network has one hidden layer; encoder and generator minimise the discriminator's
        loss with the labels exchanged
    :fidelity: sketch
    """

    supervision = "unsupervised"
    players = (("encoder", "generator"), ("discriminator",))

    near: float = 0.02
    lambda_A: float = 0.1
    eta: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The three networks."""
        return Networks(x, self.width, self.bits, self.dropout)

    def neighbours(self, x: Tensor) -> Tensor:
        """The rows alike to each of some rows."""
        return semantic_neighbours(x, max(1, round(self.near * len(x))))

    def start_fit(self, data: TrainingData) -> None:
        """What is alike in the training set."""
        self.memory_ = {"neighbours": self.neighbours(data.x).to(torch.int32)}

    def semantic(self, h: Tensor, S: Tensor) -> dict[str, Tensor]:
        """Similarity and quantization terms of relaxed codes h (B, bits) and S (B, B)."""
        return {
            "similarity": (h @ h.T / h.shape[1] - S).square().mean(),
            "quantization": self.eta * (h - sign(h.detach())).square().mean(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What encoder and generator minimise."""
        net: Any = self.network_
        near, index = self.memory_["neighbours"], batch.index
        if not net.training:
            near, index = self.neighbours(batch.x), torch.arange(len(batch.x))
        S = structure(near, index)
        x, h = net.flat(batch.x), torch.tanh(net(batch.x))
        b = 2.0 * torch.randint(0, 2, h.shape) - 1
        fake = net.generator(b)
        self._pairs = x, h.detach(), fake.detach(), b
        fooled = telling(net.discriminator(fake, b), net.discriminator(x, h))
        return {**self.semantic(h, S), "adversarial": self.lambda_A * fooled}

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """What the discriminator of pairs minimises, on the pairs just made."""
        net: Any = self.network_
        x, h, fake, b = self._pairs
        told = telling(net.discriminator(x, h), net.discriminator(fake, b))
        return {"discriminator": told}
