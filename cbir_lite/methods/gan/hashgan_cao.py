"""HashGAN of Cao et al. [149]: pair-conditional Wasserstein GAN (survey Section V-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.gan._players import Flat, TwoPlayers, hidden, maker


class Critic(nn.Module):
    """Score (B,) of vectors (B, d) and an embedding (B, bits) in (-1, 1), near for similar ones."""

    def __init__(self, d: int, width: int, bits: int):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(d, width), nn.LeakyReLU(0.2))
        # Differences of scores know no constant.
        self.score = nn.Linear(width, 1, bias=False)
        self.embedding = nn.Linear(width, bits)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one hidden layer."""
        y = self.trunk(x)
        return self.score(y).squeeze(1), self.embedding(y).tanh()


class Networks(nn.Module):
    """Hash network, critic and generator on vectors; calling it gives z (B, bits) in (-1, 1)."""

    def __init__(
        self, x: NDArray[Any], width: int, bits: int, classes: int, noise: int, dropout: float
    ):
        super().__init__()
        self.flat = Flat(x)
        d, narrow = self.flat.d, max(1, width // 4)
        self.hash = nn.Sequential(hidden(d, width, dropout), nn.Linear(width, bits), nn.Tanh())
        self.critic = Critic(d, narrow, bits)
        self.generator = maker(noise + classes, narrow, d)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer for inputs (B, ...)."""
        z: Tensor = self.hash(self.flat(x))
        return z


def cosine_cross_entropy(u: Tensor, v: Tensor, s: Tensor, alpha: float) -> Tensor:
    """Mean over pairs of w (log(1 + exp(alpha cos)) - s alpha cos), codes u (n, K) and v (m, K).

    A similar pair, s = 1, weighs as many times more as pairs are more than similar pairs.
    """
    scaled = alpha * F.normalize(u) @ F.normalize(v).T
    w = torch.where(s > 0, s.numel() / s.sum().clamp(min=1), 1.0)
    return (w * (F.softplus(scaled) - s * scaled)).mean()


@dataclass(kw_only=True, eq=False)
class HashGANCao(TwoPlayers):
    r"""A conditional generator makes more training images; a hash network learns from both kinds.

    This is the supervised HashGAN, not the unsupervised one of the same year. First a Wasserstein
    critic with gradient penalty and a generator play; the generator is told labels, and the critic
    also embeds what it sees so that generated images must be similar to the real ones they should
    be similar to. Then the generator stands still and the hash network learns from pairs of real
    images and pairs of a real and a generated one, by a cross entropy of cosines that balances
    similar and dissimilar pairs.

    :survey: Section V-D
    :cite: cao2018hashgan
    :source: the authors' public code (losses, balance, two stages, settings for CIFAR-10) and the
        paper's abstract
    :objective: \min_D\ \overline{D(\hat x)}-\overline{D(x)}+10\,\overline{(\|\nabla D\|-1)^2}
        +L(e,e)+L(\bar e,\hat e),\quad\min_G\ -\overline{D(\hat x)}+\lambda_G L(\bar e,\hat e),\quad
        \text{then}\ \min_F\ L(h,h)+L(\bar h,\hat h)+\lambda\,\overline{1-\cos(|h|,\mathbf 1)},\quad
        L(u,v)=\overline{w_{ij}\big(\log(1+e^{\alpha\cos(u_i,v_j)})-s_{ij}\,\alpha\cos(u_i,v_j)\big)}
    :shapes: x (n, d), labels (n, C); h (n, bits); a bar stops gradients; codes int8 (n, bits)
    :defaults: alpha = 10, lambda_G = 10, penalty 10, n_critic = 5 critic steps a generator step,
        Adam's betas 0 and 0.9 of the players, noise = 246, which with ten labels makes 256 (public
        code, CIFAR-10); first = 0.25 of the epochs for the players, pace = 10 times the learning
        rate for the generator, which takes few steps, lambda = 0.1 (own choices, made on digits)
    :departures: images are the frozen backbone's features, and so is what the generator makes; the
        critic is a hidden layer of its own instead of the code's residual convolutions; its steps
        of one round share a batch, in the code each draws its own; unlabelled images of the
        database, which the code shows the critic, are left out; the code omits the quantization
        term of the paper, which is here. Adam with cosine decay and lr 1e-3 (code: 1e-4), of the
        generator pace times as much
    :fidelity: simplified
    """

    players = (("hash",), ("generator",))

    pace: float = 10.0
    alpha: float = 10.0
    lambda_G: float = 10.0
    lambda_Q: float = 0.1
    noise: int = 246
    n_critic: int = 5
    first: float = 0.25

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash network, critic and generator."""
        assert n_classes is not None
        return Networks(x, self.width, self.bits, n_classes, self.noise, self.dropout)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Hash network, generator, critic."""
        net: Any = self.network_
        found = [*super().optimisers(), self.adam(net.critic.parameters())]
        for optimiser in found[1:]:
            for group in optimiser.param_groups:
                group["betas"] = (0.0, 0.9)
        return found

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Critic and generator play first, if there is more than one epoch."""
        turns = min(max(1, round(self.first * self.epochs)), self.epochs - 1)
        self._playing = epoch < turns

    def draw(self, y: Tensor) -> Tensor:
        """What the generator makes of noise and labels (B, C): vectors (B, d)."""
        net: Any = self.network_
        fake: Tensor = net.generator(torch.cat([torch.randn(len(y), self.noise), y], 1))
        return fake

    def pairs(self, real: Tensor, fake: Tensor, s: Tensor) -> Tensor:
        """Cross entropy of real and generated codes, on which the real ones do not depend."""
        return cosine_cross_entropy(real.detach(), fake, s, self.alpha)

    def penalty(self, x: Tensor, fake: Tensor) -> Tensor:
        """Squared distance from 1 of the critic's slope between real and generated vectors."""
        net: Any = self.network_
        between = torch.lerp(x, fake, torch.rand(len(x), 1)).requires_grad_()
        score = net.critic(between)[0].sum()
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """What the critic minimises."""
        net: Any = self.network_
        x, fake, s = net.flat(batch.x), self.draw(batch.labels).detach(), batch.similarity
        (score, e), (fake_score, fake_e) = net.critic(x), net.critic(fake)
        return {
            "wasserstein": fake_score.mean() - score.mean(),
            "penalty": 10 * self.penalty(x, fake),
            "embedded": cosine_cross_entropy(e, e, s, self.alpha),
            "embedded fakes": self.pairs(e, fake_e, s),
        }

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """What the generator minimises."""
        net: Any = self.network_
        score, e = net.critic(self.draw(batch.labels))
        real = net.critic(net.flat(batch.x))[1]
        return {
            "generator": -score.mean(),
            "conditional": self.lambda_G * self.pairs(real, e, batch.similarity),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What the hash network minimises."""
        net: Any = self.network_
        with torch.no_grad():
            fake = self.draw(batch.labels)
        h, h_fake = net(batch.x), net.hash(fake)
        s = batch.similarity
        return {
            "real": cosine_cross_entropy(h, h, s, self.alpha),
            "generated": self.pairs(h, h_fake, s),
            "quantization": self.lambda_Q
            * (1 - F.cosine_similarity(h.abs(), torch.ones_like(h))).mean(),
        }

    def training_step(self, batch: Batch) -> dict[str, float]:
        """Some steps of the critic and one of the generator, later one of the hash network."""
        if self._playing:
            for _ in range(self.n_critic):
                judged = self.judge(batch)
                self._descend(sum(judged.values()), self._optimisers[2])
            terms = self.answer(batch)
            self._descend(sum(terms.values()), self._optimisers[1])
            terms |= judged
        else:
            terms = self.loss(batch)
            self._descend(sum(terms.values()), self._optimisers[0])
        return {k: float(v.detach()) for k, v in terms.items()}
