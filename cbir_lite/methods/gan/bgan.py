"""BGAN [121]: binary generative adversarial networks (survey Sections IV-B, V-D, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.derived import derived
from cbir_lite.methods.networks import HashNetwork, Standardise

BETAS = (1.0, 2.5, 5.0, 7.5, 10.0)
_BLOCK = 1000


def nearest(x: Tensor, k: int) -> Tensor:
    """Rows (n, k + 1): each row of features (n, d) itself first, then its k cosine neighbours."""
    unit = F.normalize(x.flatten(1).float())
    found = []
    for a in range(0, len(unit), _BLOCK):
        similarity = unit[a : a + _BLOCK] @ unit.T
        rows = torch.arange(len(similarity))
        similarity[rows, a + rows] = torch.inf
        found.append(similarity.topk(k + 1, dim=1).indices)
    return torch.cat(found)


def expand(near: Tensor, k: int) -> Tensor:
    """Neighbours (n, k * (K1 + 1)), with repeats: those of the k rows that share most of them.

    ``near`` (n, K1 + 1) is from :func:`nearest`. Of rows that share the same number, the lower
    comes first.
    """
    n, m = near.shape
    columns = near.numpy().ravel()
    member = sparse.csr_matrix(
        (np.ones(n * m, np.int64), columns, np.arange(0, n * m + 1, m)), shape=(n, n)
    )
    found = []
    for a in range(0, n, _BLOCK):
        shared = torch.from_numpy((member[a : a + _BLOCK] @ member.T).toarray())
        # Ranks without ties: by the number shared, then by row.
        alike = (shared * n - torch.arange(n)).topk(k, dim=1).indices
        found.append(near[alike].flatten(1))
    return torch.cat(found)


def neighbours(x: Tensor, K1: int, K2: int) -> Tensor:
    """Neighbours of x (n, d) in two steps, rows (n, m); small sets have fewer."""
    return expand(nearest(x, min(K1, len(x) - 1)), min(K2, len(x)))


def structure(neighbours: Tensor, index: Tensor) -> Tensor:
    """S (B, B) in {-1, 1} between the rows of ``index`` (B,): 1 if either is the other's neighbour.

    ``neighbours`` (n, m) is from :func:`expand`.
    """
    place = torch.full((len(neighbours),), -1)
    place[index] = torch.arange(len(index))
    column = place[neighbours[index]]
    row = torch.arange(len(index))[:, None].expand_as(column)
    inside = column >= 0
    S = -torch.ones(len(index), len(index))
    S[row[inside], column[inside]] = 1
    return torch.maximum(S, S.T)


class Discriminator(nn.Module):
    """Real or reconstructed? Gives the logit (B,) and its hidden layer (B, width)."""

    def __init__(self, d: int, width: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(d, width), nn.ELU())
        self.logit = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised, flattened inputs (B, d)."""
        hidden = self.hidden(x)
        return self.logit(hidden).squeeze(1), hidden


class Networks(nn.Module):
    """Encoder with hashing layer, generator and discriminator; calling it gives z (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        d, narrow = int(np.prod(x.shape[1:])), max(1, width // 4)
        self.standardise = Standardise(x)
        self.encoder = HashNetwork(x, width, bits, dropout)
        self.generator = nn.Sequential(nn.Linear(bits, narrow), nn.ReLU(), nn.Linear(narrow, d))
        self.discriminator = Discriminator(d, narrow)

    def target(self, x: Tensor) -> Tensor:
        """What the generator reconstructs (B, d): standardised features, or pixels of images."""
        y: Tensor = self.standardise(x).flatten(1)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hashing layer before its activation."""
        z: Tensor = self.encoder(x)
        return z


@dataclass(kw_only=True, eq=False)
class BGAN(DeepMethod):
    r"""Codes that keep the neighbourhood of an image and from which a generator can draw it again.

    Neighbours come in two steps: the K1 nearest by cosine, then the neighbours of the K2 images
    that share most of them. The activation tanh(beta z) approaches the sign as beta grows during
    training. A discriminator learns to tell inputs from reconstructions, the generator to fool it.

    :survey: Sections IV-B, V-D, VI-A; Tables II, III, IV
    :cite: song2018bgan
    :source: the paper's abstract and framework, and the authors' public code (K1, K2, construction
        of S, steps of beta, discriminator's hidden layer as perceptual loss, weights); the paper's
        equations were not at hand
    :objective: \min_{E,G}\max_D\ \omega_N L_N+\omega_C L_C+\omega_A L_A,\quad
        L_N=\tfrac12\sum_{ij}\big(\tfrac1K b_i^\top b_j-s_{ij}\big)^2,\
        L_C=\|x-\hat x\|_2^2+\|D_h(x)-D_h(\hat x)\|_2^2,\
        L_A=\log D(x)+\log(1-D(\hat x)),\quad \hat x=G(b),\ b=\tanh(\beta z)\to\mathrm{sgn}(z)
    :shapes: x (n, d) or images uint8 (n, h, w, c); S (B, B); b (n, bits); codes int8 (n, bits)
    :defaults: K1 = 20, K2 = 30 (public code); weights 1, 0.1, 0.1 (the code's P_param, LL_param,
        G_param, of which it sets the last two without applying them); beta in five equal stages 1,
        2.5, 5, 7.5, 10 (the code's 2 to 20, halved: it writes tanh(beta z / 2)); sums are means
    :departures: VGG-19 trained end to end is replaced by a hidden layer on frozen features, from
        which the neighbours come too, and the generator reconstructs the standardised features (of
        images, the pixels); generator and discriminator have one hidden layer, a quarter as wide as
        the encoder's, instead of (de)convolutions; the generator minimises -log D instead of log(1
        - D). Against the code: inner products are divided by K, encoder and generator share one
        objective, the discriminator's fakes are reconstructions instead of generated from noise,
        the generator reads the relaxed code instead of a sample around z, the pixel error counts
        (the code computes it and leaves it out of every gradient), beta grows (its code lists the
        steps and stays at the first), and its extra KL and quantization terms are left out
    :fidelity: simplified
    """

    supervision = "unsupervised"

    K1: int = 20
    K2: int = 30
    omega_N: float = 1.0
    omega_C: float = 0.1
    omega_A: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Encoder, generator and discriminator."""
        return Networks(x, self.width, self.bits, self.dropout)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One for encoder and generator, one for the discriminator."""
        net: Any = self.network_
        own = [*net.encoder.parameters(), *net.generator.parameters()]
        return [self.adam(own), self.adam(net.discriminator.parameters())]

    def start_fit(self, data: TrainingData) -> None:
        """The neighbourhood structure of the training set."""
        near = derived(neighbours, data.x, self.K1, self.K2)
        self.memory_ = {"neighbours": near.to(torch.int32)}
        self.beta_ = BETAS[0]

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The next stage of beta."""
        self.beta_ = BETAS[epoch * len(BETAS) // self.epochs]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What encoder and generator minimise."""
        net: Any = self.network_
        x = net.target(batch.x)
        if net.training:
            S = structure(self.memory_["neighbours"], batch.index)
        else:
            near = neighbours(batch.x, self.K1, self.K2)
            S = structure(near, torch.arange(len(batch.x)))
        b = torch.tanh(self.beta_ * net(batch.x))
        fake = net.generator(b)
        self._real_and_fake = x, fake.detach()
        judged, seen = net.discriminator(fake)
        real_seen = net.discriminator(x)[1].detach()
        content = F.mse_loss(fake, x)
        perceptual = F.mse_loss(seen, real_seen)
        return {
            "neighbourhood": self.omega_N * 0.5 * (b @ b.T / self.bits - S).square().mean(),
            "content": self.omega_C * content,
            "perceptual": self.omega_C * perceptual,
            "adversarial": self.omega_A * F.softplus(-judged).mean(),
        }

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """-log D(x) - log(1 - D(G(b))): what the discriminator minimises."""
        net: Any = self.network_
        loss: Tensor = (
            F.softplus(-net.discriminator(real)[0]) + F.softplus(net.discriminator(fake)[0])
        ).mean()
        return loss

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of encoder and generator, then one of the discriminator on what they made."""
        terms = super().training_step(batch)
        discriminator = self.discriminator_loss(*self._real_and_fake)
        self._descend(discriminator, self._optimisers[1])
        return {**terms, "discriminator": discriminator.item()}
