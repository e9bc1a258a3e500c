"""TBH [87]: auto-encoding twin-bottleneck hashing (survey Sections III.8, V-B, VI-B, IX)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.autoencoder._straight_through import binary_units
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork, Standardise

_GAIN = 6.0
"""Start of the layers around the graph, so that what differs between images survives the mixing."""


def code_graph(b: Tensor, gamma: float) -> Tensor:
    """A (B, B) = (1 - d_H(b_i, b_j) / bits)^gamma from codes b (B, bits) in {0, 1}."""
    differs = b @ (1 - b).T
    similarity = 1 - (differs + differs.T) / b.shape[1]
    return similarity.clamp_min(0).pow(gamma)


def convolve(A: Tensor, h: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 h (B, L): each row of h becomes a mean over rows with similar codes."""
    scale = A.sum(1, keepdim=True).clamp_min(1e-8).rsqrt()
    return scale * (A @ (scale * h))


class Networks(nn.Module):
    """Encoder with two bottlenecks, graph layer, decoder, two discriminators.

    Calling it gives the logits z (B, bits) of the binary bottleneck.
    """

    def __init__(self, x: NDArray[Any], width: int, bits: int, latent: int, dropout: float):
        super().__init__()
        d = int(np.prod(x.shape[1:]))
        self.standardise = Standardise(x)
        self.encoder = HashNetwork(x, width, bits, dropout)
        self.continuous = nn.Linear(width, latent)
        self.graph = nn.Linear(latent, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, width // 4), nn.ReLU(), nn.Linear(width // 4, d)
        )
        self.d1 = nn.Linear(bits, 1)
        self.d2 = nn.Linear(latent, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                mixes = layer in (self.continuous, self.graph)
                nn.init.xavier_uniform_(layer.weight, gain=_GAIN if mixes else 1.0)
                nn.init.zeros_(layer.bias)
        # A judge with an opinion before it has learned pushes all codes into one corner.
        nn.init.zeros_(self.d1.weight)
        nn.init.zeros_(self.d2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the bits."""
        z: Tensor = self.encoder(x)
        return z

    def bottlenecks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the bits (B, bits) and the continuous variables (B, latent) in (0, 1)."""
        hidden = self.encoder.trunk(x)
        return self.encoder.hash_layer(hidden), self.continuous(hidden).sigmoid()


@dataclass(kw_only=True, eq=False)
class TBH(DeepMethod):
    r"""An autoencoder in which the codes say whose details may be mixed.

    The encoder gives each image a binary code and a continuous vector. The codes of a batch span a
    graph, closer codes with heavier edges, and a graph convolution replaces each continuous vector
    by a mean over the images with similar codes. The decoder must rebuild the image from that mean,
    so only codes that group images which look alike make it possible. Two discriminators keep the
    codes close to fair coin tosses and the mixed vectors close to uniform noise. Only the codes are
    kept for retrieval.

    :survey: Sections III.8 (2020), V-B, VI-B, IX; Tables II, III
    :cite: shen2020tbh
    :source: the paper's abstract, and the authors' public code (layers, graph, normalised
        convolution, binary units and their gradient, one-layer discriminators, both players' steps
        from one pass)
    :objective: \min_{E,G}\ \tfrac12\|x-\hat x\|^2-\lambda\big(\log d_1(b)+\log d_2(z')\big),\quad
        \min_{d_1,d_2}\ -\log d_1(y_b)-\log(1-d_1(b))-\log d_2(y_c)-\log(1-d_2(z')),\quad
        z'=\sigma\big(D^{-\frac12}AD^{-\frac12}(Wz+w)\big),\
        A_{ij}=\big(1-\tfrac1K d_H(b_i,b_j)\big)^{\gamma},\ y_b\sim\mathcal B(\tfrac12)^K,\
        y_c\sim\mathcal U(0,1)^L
    :shapes: x (n, d) or images uint8 (n, h, w, c); b (B, bits) in {0, 1}, z and z' (B, L), A (B,
        B); codes int8 (n, bits)
    :defaults: L = 512, lambda = 1, bits at the threshold 1/2 of the sigmoid, no dropout or weight
        decay (public code); gamma = 6, batches of 64, 15 epochs (chosen on validation images)
    :departures: standardised frozen features instead of VGG's last layer, hidden layers of 512 and
        128 units (code: 1024); the graph's exponent gamma is 6 instead of the code's 1.4 (the paper
        has 1) and its batches are smaller, because in the few steps taken here the wide graph mixes
        the whole batch alike, nothing can be rebuilt and the codes do not improve; the layers
        around the graph start larger, the discriminators at zero; the encoder maximises log d as
        written above (the code lets it minimise log(1 - d) and sums squared errors over the batch);
        Adam with cosine decay at a higher rate
    :fidelity: simplified
    """

    supervision = "unsupervised"

    epochs: int = 15
    batch_size: int = 64
    dropout: float = 0.0
    weight_decay: float = 0.0
    latent: int = 512
    lam: float = 1.0
    gamma: float = 6.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Encoder, graph layer, decoder and discriminators."""
        return Networks(x, self.width, self.bits, self.latent, self.dropout)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One for the autoencoder, one for the discriminators."""
        net: Any = self.network_
        against = [*net.d1.parameters(), *net.d2.parameters()]
        judges = {id(p) for p in against}
        own = [p for p in net.parameters() if id(p) not in judges]
        return [self.adam(own), self.adam(against)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What encoder, graph layer and decoder minimise."""
        net: Any = self.network_
        logits, z = net.bottlenecks(batch.x)
        b = binary_units(logits.sigmoid())
        mixed = convolve(code_graph(b, self.gamma), net.graph(z)).sigmoid()
        self._fakes = b.detach(), mixed.detach()
        x = net.standardise(batch.x).flatten(1)
        return {
            "reconstruction": 0.5 * (net.decoder(mixed) - x).square().sum(1).mean(),
            "adversarial b": self.lam * F.softplus(-net.d1(b)).mean(),
            "adversarial z": self.lam * F.softplus(-net.d2(mixed)).mean(),
        }

    def discriminator_loss(self, fakes: tuple[Tensor, Tensor]) -> Tensor:
        """What the discriminators minimise, on codes and mixed vectors and as many random ones."""
        net: Any = self.network_
        b, mixed = fakes
        fair, uniform = torch.randint(0, 2, b.shape).to(b.dtype), torch.rand(mixed.shape)
        terms = [
            F.softplus(-judge(real)).mean() + F.softplus(judge(fake)).mean()
            for judge, real, fake in ((net.d1, fair, b), (net.d2, uniform, mixed))
        ]
        return terms[0] + terms[1]

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the autoencoder, then one of the discriminators on what it made."""
        terms = super().training_step(batch)
        discriminators = self.discriminator_loss(self._fakes)
        self._descend(discriminators, self._optimisers[1])
        return {**terms, "discriminators": discriminators.item()}
