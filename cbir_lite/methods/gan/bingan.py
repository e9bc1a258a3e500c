"""BinGAN [150]: binary codes in the last layer of a discriminator (survey Section V-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan._players import Flat, TwoPlayers, maker, telling


class Networks(nn.Module):
    """A discriminator whose last layer before the logit is the code (B, bits), and a generator."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, noise: int, dropout: float):
        super().__init__()
        self.flat = Flat(x)
        self.high = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(self.flat.d, width), nn.LeakyReLU(0.2)
        )
        self.low = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, bits))
        self.logit = nn.Linear(bits, 1)
        self.generator = maker(noise, max(1, width // 2), self.flat.d)

    def forward(self, x: Tensor) -> Tensor:
        """The low-dimensional layer, whose sign is the code."""
        z: Tensor = self.low(self.high(self.flat(x)))
        return z


def off_diagonal_mean(m: Tensor) -> Tensor:
    """Mean of a matrix (B, B) over the pairs of different rows."""
    return (m.sum() - m.diagonal().sum()) / (len(m) * (len(m) - 1))


@dataclass(kw_only=True, eq=False)
class BinGAN(TwoPlayers):
    r"""The last layer of a discriminator made binary, and made to order pairs as a wide one does.

    A discriminator learns to tell inputs from what a generator makes of noise; the generator
    matches the mean of the discriminator's last layer. That layer is low-dimensional and its signs
    are the code. Two regularisers act on it: pairs shall agree in the code as much as they do in
    the signs of the wide layer before it (distance matching), and bits shall be balanced, and codes
    of pairs that are unalike in the wide layer uncorrelated (binarization representation entropy).

    :survey: Sections V-D, VI-A; Tables II, III
    :cite: zieba2018bingan
    :source: the authors' public code (both regularisers, softsign, weights, feature matching,
        generator's noise) and the paper's abstract
    :objective: \min_D\ \tfrac12\big(-\log D(x)-\log(1-D(\hat x))\big)+\lambda_{DMR}\,
        \overline{\big|\tfrac1M h_i^\top h_j-\tfrac1K s_i^\top s_j\big|}+\lambda_{BRE}\Big(
        \overline{\bar s_k^2}+\overline{e^{-|h_i^\top h_j|/M\beta}\,|s_i^\top s_j|/K}\Big),\quad
        \min_G\ \tfrac1K\|\overline{f(x)}-\overline{f(\hat x)}\|^2,\quad
        s=f/(|f|+\gamma),\ h=\mathrm{sgn}(g)
    :shapes: x (n, d); wide layer g (n, M) with M = width; f, s (n, bits); codes int8 (n, bits)
    :defaults: beta = 2, noise = 100 (public code); lambda_DMR = 2, lambda_BRE = 0.04, gamma = 0.1:
        the code's 0.05 and 0.001 (its setting for CIFAR-10) times 40 and its 0.001 times 100, for
        at that gamma the softsign lets next to no gradient through, which the few steps here do not
        make up for (chosen on digits)
    :departures: a wide layer on frozen features replaces nine convolutional layers, and the
        generator makes such features; D has one logit instead of two whose log-sum-exp is it; no
        weight normalisation; Adam with its usual momentum of 0.9 instead of 0.5, and cosine decay,
        on batches of 128 instead of 25. On MNIST the codes rank below random projections: in the
        records their bits are less balanced and more correlated than those of LSH
    :fidelity: simplified
    """

    supervision = "unsupervised"
    players = (("high", "low", "logit"), ("generator",))

    noise: int = 100
    lambda_DMR: float = 2.0
    lambda_BRE: float = 0.04
    beta: float = 2.0
    gamma: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Discriminator and generator."""
        return Networks(x, self.width, self.bits, self.noise, self.dropout)

    def draw(self, n: int) -> Tensor:
        """What the generator makes of uniform noise (n, d)."""
        net: Any = self.network_
        fake: Tensor = net.generator(torch.rand(n, self.noise))
        return fake

    def regularisers(self, f: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Of the low layer f (B, bits), given the signs of the wide layer g (B, M)."""
        s, h = f / (f.abs() + self.gamma), torch.where(g.detach() >= 0, 1.0, -1.0)
        low, high = s @ s.T / s.shape[1], h @ h.T / h.shape[1]
        alpha = torch.exp(-high.abs() / self.beta)
        return {
            "matching": self.lambda_DMR * off_diagonal_mean((high - low).abs()),
            "balance": self.lambda_BRE * s.mean(0).square().mean(),
            "correlation": self.lambda_BRE * off_diagonal_mean(alpha * low.abs()),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What the discriminator minimises."""
        net: Any = self.network_
        g = net.high(net.flat(batch.x))
        f, f_fake = net.low(g), net.low(net.high(self.draw(len(g)).detach()))
        adversarial = 0.5 * telling(net.logit(f), net.logit(f_fake))
        return {"adversarial": adversarial, **self.regularisers(f, g)}

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """The generator matches the mean of the low layer."""
        net: Any = self.network_
        with torch.no_grad():
            f = net(batch.x)
        f_fake = net.low(net.high(self.draw(len(f))))
        return {"feature": (f.mean(0) - f_fake.mean(0)).square().mean()}
