"""HashGAN of Ghasedi et al. [120]: an encoder inside a discriminator (survey Section IV-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.gan._players import Flat, TwoPlayers, hidden, maker, telling


def entropy(t: Tensor) -> Tensor:
    """Entropy in nats of codes with Bernoulli probabilities t (..., bits): summed over the bits."""
    t = t.clamp(1e-6, 1 - 1e-6)
    return -(t * t.log() + (1 - t) * (1 - t).log()).sum(-1)


class Networks(nn.Module):
    """Discriminator and encoder on one trunk, and a generator; calling it gives z (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, noise: int, dropout: float):
        super().__init__()
        self.flat = Flat(x)
        self.trunk = hidden(self.flat.d, width, dropout)
        self.logit = nn.Linear(width, 1)
        self.encode = nn.Linear(width, bits)
        self.generator = maker(noise + bits, max(1, width // 2), self.flat.d)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer before its sigmoid."""
        z: Tensor = self.encode(self.trunk(self.flat(x)))
        return z


@dataclass(kw_only=True, eq=False)
class HashGANGhasedi(TwoPlayers):
    r"""Codes that are sure, balanced, independent and stable, inside a discriminator.

    This is the unsupervised HashGAN, not the pair-conditional one of the same year. The encoder
    shares its trunk with a discriminator, so that telling real from generated inputs regularises
    the codes. On real images each bit shall be certain, be on for half of the images, have
    directions of its own and survive turning, shifting and mirroring. The generator draws from
    noise and a random code; it matches the mean hidden features of real inputs, and both sides work
    together on one thing: the code shall be readable from what was drawn.

    :survey: Sections IV-B, V-D, VI-A; Tables II, III, IV
    :cite: ghasedi2018hashgan
    :source: the paper's abstract in two versions and a public third-party reimplementation (terms,
        weights, adversarial warm-up, feature matching); the authors' code was not found
    :objective: \min_{D,E}\ L_A+\overline{H(t)}-H(\bar t)+\overline{\|t-\tilde t\|^2}
        +\|W^\top W-I\|_F^2+\overline{\|b-\hat t\|^2},\quad
        \min_G\ \|\overline{f(x)}-\overline{f(\hat x)}\|^2+\overline{\|b-\hat t\|^2},\quad
        L_A=-\log D(x)-\log(1-D(\hat x)),\ \hat x=G(\epsilon,b),\ t=\sigma(W^\top f(x)+c)
    :shapes: x (n, d), views (n, 4, d); t (n, bits) in (0, 1); codes int8 (n, bits)
    :defaults: all terms weigh the same, sums over bits, but feature matching is a mean over hidden
        units (the reimplementation reports that the paper weighs nothing, and uses weights of its
        own); noise = 128 and warm = 0.1 of the epochs without the hashing terms (the
        reimplementation); epochs = 15 instead of 30: a step takes five passes through the trunk
    :departures: images are the frozen backbone's features, and so is what the generator draws;
        images are turned by ten degrees, mirrored or cropped instead of warped at random; trunk and
        generator have one hidden layer without batch normalisation; Adam with cosine decay. The
        conference's abstract page mentions a triplet ranking loss on generated images, the paper
        itself and the author's page an agreement of input and read code, as here. The
        reimplementation compares the d x d product of the hash layer's weights with the identity,
        which has no more than K directions; here it is K x K. The generator takes part in the
        agreement
    :fidelity: simplified
    """

    supervision = "unsupervised"
    views = ("rotate-10", "rotate10", "flip", "crop0")
    players = (("trunk", "logit", "encode"), ("generator",))

    epochs: int = 15
    noise: int = 128
    warm: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Shared trunk with its two heads, and the generator."""
        return Networks(x, self.width, self.bits, self.noise, self.dropout)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The adversaries play alone at first."""
        self.hashing_ = epoch >= self.warm * self.epochs

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Random codes b (n, bits) in {0, 1} and what the generator makes of them (n, d)."""
        b = torch.randint(0, 2, (n, self.bits)).float()
        net: Any = self.network_
        return b, net.generator(torch.cat([torch.rand(n, self.noise), b], 1))

    def collaborative(self, b: Tensor, f: Tensor) -> Tensor:
        """How far the codes read from hidden features f (n, width) are from those drawn."""
        net: Any = self.network_
        return (torch.sigmoid(net.encode(f)) - b).square().sum(1).mean()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What discriminator and encoder minimise."""
        net: Any = self.network_
        assert batch.views is not None
        b, fake = self.draw(len(batch.x))
        f, f_fake = net.trunk(net.flat(batch.x)), net.trunk(fake.detach())
        terms = {"adversarial": telling(net.logit(f), net.logit(f_fake))}
        if not self.hashing_:
            return terms
        rows = torch.arange(len(batch.x))
        seen = batch.views[rows, torch.randint(0, batch.views.shape[1], rows.shape)]
        t, t_seen = torch.sigmoid(net.encode(f)), torch.sigmoid(net(seen))
        W = net.encode.weight
        return terms | {
            "certain": entropy(t).mean(),
            "uniform": -entropy(t.mean(0)),
            "consistent": (t - t_seen).square().sum(1).mean(),
            "independent": (W @ W.T - torch.eye(self.bits)).square().sum(),
            "collaborative": self.collaborative(b, f_fake),
        }

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """The generator matches the mean hidden features of real inputs, and its code is read."""
        net: Any = self.network_
        with torch.no_grad():
            f = net.trunk(net.flat(batch.x))
        b, fake = self.draw(len(batch.x))
        f_fake = net.trunk(fake)
        terms = {"matching": (f.mean(0) - f_fake.mean(0)).square().mean()}
        if self.hashing_:
            terms["readable"] = self.collaborative(b, f_fake)
        return terms
