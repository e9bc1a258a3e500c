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
from cbir_lite.methods.derived import derived
from cbir_lite.methods.gan._players import Flat, TwoPlayers, maker, telling
from cbir_lite.methods.networks import HashNetwork

_BLOCK = 1000
_VOTERS = 5000


def neighbourhoods(x: Tensor, near: float) -> dict[str, Tensor]:
    """What decides which of n rows (n, d) are alike, for :func:`similar`.

    A share ``near`` of the voters (at most 5,000 rows, evenly spaced) is near to a row by cosine;
    a voter is near to itself. ``members`` (n, m) are their places among the voters, ``cosine`` (n,)
    the cosine from which a row is near, ``shared`` (n,) the rank from which it has the same
    neighbours: n times the number of voters shared, minus its place, so the lower row comes first.
    """
    unit = F.normalize(x.flatten(1).float())
    n, v = len(unit), min(len(unit), _VOTERS)
    m = min(max(1, round(near * v)) + 1, v)
    voters = torch.arange(v) * n // v
    own = torch.full((n,), -1)
    own[voters] = torch.arange(v)
    members, cosine, shared = [], [], []
    for a in range(0, n, _BLOCK):
        similarity = unit[a : a + _BLOCK] @ unit[voters].T
        is_voter = (own[a : a + _BLOCK] >= 0).nonzero().squeeze(1)
        similarity[is_voter, own[a + is_voter]] = torch.inf
        top = similarity.topk(min(m + 1, v), dim=1)
        members.append(top.indices[:, :m])
        # Between the last that is near and the first that is not: rounding moves neither.
        last = top.values[:, m - 1 :].mean(1)
        cosine.append(last if m < v else torch.full_like(last, -torch.inf))
    near_voters = torch.cat(members)
    columns, starts = near_voters.numpy().ravel(), np.arange(0, n * m + 1, m)
    member = sparse.csr_matrix((np.ones(n * m, np.int32), columns, starts), shape=(n, v))
    of_voters = member[voters.numpy()].T.tocsr()
    for a in range(0, n, _BLOCK):
        counts = torch.from_numpy((member[a : a + _BLOCK] @ of_voters).toarray()).long()
        shared.append((counts * n - voters).topk(m, dim=1).values[:, -1])
    return {
        "members": near_voters.to(torch.int32),
        "cosine": torch.cat(cosine),
        "shared": torch.cat(shared),
    }


def similar(x: Tensor, index: Tensor, known: dict[str, Tensor]) -> Tensor:
    """S (B, B) in {-1, 1} of rows x (B, d), which are ``index`` (B,) of those that are known.

    1 if either is near to the other, or has the same neighbours.
    """
    n = len(known["cosine"])
    unit = F.normalize(x.flatten(1).float())
    cosine = (unit @ unit.T).fill_diagonal_(torch.inf)
    member = torch.zeros(len(index), min(n, _VOTERS))
    member.scatter_(1, known["members"][index].long(), 1)
    rank = (member @ member.T).long() * n - index
    alike = (cosine >= known["cosine"][index, None]) | (rank >= known["shared"][index, None])
    return torch.where(alike | alike.T, 1.0, -1.0)


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
        makes; of more than 5,000 training images, that many say what is near and vote on what has
        the same neighbours; each network has one hidden layer; encoder and generator minimise the
        discriminator's loss with the labels exchanged
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

    def start_fit(self, data: TrainingData) -> None:
        """What is alike in the training set."""
        self.memory_ = dict(derived(neighbourhoods, data.x, self.near))

    def semantic(self, h: Tensor, S: Tensor) -> dict[str, Tensor]:
        """Similarity and quantization terms of relaxed codes h (B, bits) and S (B, B)."""
        return {
            "similarity": (h @ h.T / h.shape[1] - S).square().mean(),
            "quantization": self.eta * (h - sign(h.detach())).square().mean(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What encoder and generator minimise."""
        net: Any = self.network_
        known, index = self.memory_, batch.index
        if not net.training:
            known, index = neighbourhoods(batch.x, self.near), torch.arange(len(batch.x))
        S = similar(batch.x, index, known)
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
