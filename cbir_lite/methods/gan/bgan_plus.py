"""BGAN+ [166]: one binary GAN for retrieval and compression (survey Sections V-D, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import Codes, Descriptors, sign
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan._players import Flat, maker
from cbir_lite.methods.gan.bgan import BGAN, Discriminator, neighbours, structure
from cbir_lite.methods.networks import trunk


class Networks(nn.Module):
    """Trunk with two hash layers, generator, discriminator; calling it gives z for retrieval."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, times: int, dropout: float):
        super().__init__()
        self.target = Flat(x)
        narrow = max(1, width // 4)
        self.trunk = trunk(x, width, dropout)
        self.retrieval = nn.Linear(width, bits)
        self.compression = nn.Linear(width, times * bits)
        self.generator = maker(times * bits, narrow, self.target.d)
        self.discriminator = Discriminator(self.target.d, narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the hash layer for retrieval (B, bits) before its activation."""
        z: Tensor = self.retrieval(self.trunk(x))
        return z


@dataclass(kw_only=True, eq=False)
class BGANPlus(BGAN):
    r"""BGAN with two codes for each image: one to find it by, one to draw it from.

    One trunk feeds two hash layers. The short code keeps the neighbourhood of an image and is what
    retrieval uses; the longer one is what the generator draws the image from, against a
    discriminator that compares drawn and real ones. So neither code has to serve both purposes, as
    it does in BGAN, and the trunk learns from both.

    :survey: Sections V-D, VI-A
    :cite: song2020bganplus
    :source: the paper's abstract (two codes in one binary GAN, without labels), and for all that it
        has in common with BGAN that paper's abstract and public code; the equations of BGAN+ were
        not at hand
    :objective: \min_{E,G}\max_D\ \omega_N L_N+\omega_C L_C+\omega_A L_A,\quad
        L_N=\tfrac12\sum_{ij}\big(\tfrac1K b_i^\top b_j-s_{ij}\big)^2,\
        L_C=\|x-\hat x\|_2^2+\|D_h(x)-D_h(\hat x)\|_2^2,\
        L_A=\log D(x)+\log(1-D(\hat x)),\quad \hat x=G(c),\ b=\tanh(\beta z_r),\ c=\tanh(\beta z_c)
    :shapes: x (n, d) or images uint8 (n, h, w, c); b (n, bits), c (n, times bits); codes int8
        (n, bits), compressed int8 (n, times bits)
    :defaults: times = 4 (own choice); the rest as in BGAN
    :departures: as in BGAN: the VGG-19 trained end to end is replaced by a hidden layer on frozen
        features, whose standardised values the generator draws (of images, the pixels); one hidden
        layer each in generator and discriminator; the generator minimises -log D. How the paper
        divides and weighs its terms between the two codes was not at hand
    :fidelity: simplified
    """

    times: int = 4

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two encoders on one trunk, generator and discriminator."""
        return Networks(x, self.width, self.bits, self.times, self.dropout)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One for encoders and generator, one for the discriminator."""
        net: Any = self.network_
        parts = (net.trunk, net.retrieval, net.compression, net.generator)
        own = [p for part in parts for p in part.parameters()]
        return [self.adam(own), self.adam(net.discriminator.parameters())]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What encoders and generator minimise."""
        net: Any = self.network_
        near, index = self.memory_["neighbours"], batch.index
        if not net.training:
            near, index = neighbours(batch.x, self.K1, self.K2), torch.arange(len(batch.x))
        hidden, x = net.trunk(batch.x), net.target(batch.x)
        b = torch.tanh(self.beta_ * net.retrieval(hidden))
        fake = net.generator(torch.tanh(self.beta_ * net.compression(hidden)))
        self._real_and_fake = x, fake.detach()
        judged, seen = net.discriminator(fake)
        wanted = net.discriminator(x)[1].detach()
        apart = b @ b.T / self.bits - structure(near, index)
        return {
            "neighbourhood": self.omega_N * 0.5 * apart.square().mean(),
            "content": self.omega_C * F.mse_loss(fake, x),
            "perceptual": self.omega_C * F.mse_loss(seen, wanted),
            "adversarial": self.omega_A * F.softplus(-judged).mean(),
        }

    def compress(self, x: NDArray[Any]) -> Codes:
        """The codes to draw from, int8 (n, times bits), of inputs (n, ...)."""
        self._require_fit()
        net: Any = self.network_
        z = self._in_blocks(nn.Sequential(net.trunk, net.compression), x)
        codes: Codes = sign(z).numpy()
        return codes

    def draw(self, codes: NDArray[np.int8]) -> Descriptors:
        """Inputs float32 (n, ...) as the generator draws them from codes (n, times bits)."""
        self._require_fit()
        net: Any = self.network_
        net.eval()
        with torch.inference_mode():
            flat = net.generator(torch.from_numpy(np.ascontiguousarray(codes)).float())
            scaling = net.target.standardise
            drawn: Tensor = flat.view(-1, *self.input_shape_) * scaling.scale + scaling.mean
        return drawn.numpy()
