"""Class sketch conditioned generative model [159] (survey Sections V-D, VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import HashNetwork, Standardise
from cbir_lite.methods.sketch._shared import Unit, per_label
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class Flow(nn.Module):
    """One step of an inverse autoregressive flow on z (n, m), given a context (n, w).

    Number k of shift and gate depends on the numbers before k only, so the Jacobian is triangular
    with the gates on its diagonal.
    """

    mask: Tensor

    def __init__(self, m: int, context: int):
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(m, m), diagonal=-1).repeat(2, 1))
        self.own = nn.Parameter(0.1 * torch.randn(2 * m, m))
        self.context = nn.Linear(context, 2 * m)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The new z (n, m) and the logarithm of the determinant (n,)."""
        shift, gate = (F.linear(z, self.own * self.mask) + self.context(h)).chunk(2, 1)
        # Gates start near one: the flow starts as almost the identity.
        gate = torch.sigmoid(gate + 2)
        return gate * z + (1 - gate) * shift, gate.log().sum(1)


class _Generator(nn.Module):
    """Latent numbers z (n, m) and standardised sketches (n, d_s) to photo features (n, bits)."""

    def __init__(self, m: int, d_s: int, width: int, bits: int, dropout: float):
        super().__init__()
        self.m = m
        self.body = nn.Sequential(
            nn.Linear(m + d_s, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, bits)
        )

    def forward(self, z: Tensor, s: Tensor) -> Tensor:
        """Generated features of length one."""
        return F.normalize(self.body(torch.cat([z, s], 1)), dim=1)


class _SketchTower(nn.Module):
    """Sketch features (n, d_s) to the mean of the photo features generated from them."""

    draws: Tensor

    def __init__(self, other: NDArray[Any], generator: _Generator, draws: int):
        super().__init__()
        self.standardise = Standardise(other)
        self.generator = generator
        # Drawn once, so that a sketch keeps its descriptor.
        self.register_buffer("draws", torch.randn(draws, generator.m))

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the draws, of length one."""
        s = self.standardise(x)
        total = s.new_zeros(())
        for z in self.draws:
            total = total + self.generator(z.expand(len(s), -1), s)
        return F.normalize(total, dim=1)


@dataclass(kw_only=True, eq=False)
class SketchConditionedGenerator(TwoTowerMethod):
    r"""What a photo could look like is generated from the sketch, then photos are searched.

    The survey counts this system among the adversarial ones; the paper's abstract describes a
    variational autoencoder with inverse autoregressive flows, which is what is built here. Encoder
    and flows give latent numbers for a photo beside its sketch, the generator rebuilds the photo's
    features from them and the sketch, and a feedback network must find the sketch again in
    what was generated. A query's photo features are generated from random latent numbers, several
    times, and their mean is compared with photos: the sketch search has become a photo search.

    :survey: Sections V-D, VII-B
    :cite: verma2019generative
    :source: the paper's abstract (flow-based variational autoencoder conditioned on the sketch,
        feedback, image-to-image search) and the survey's row; flows as in Kingma et al. 2016; no
        code was found
    :objective: \min\ \mathbb E_{q(z|x,s)}\|x-G(z,s)\|_2^2+\beta\,\mathrm{KL}\big(q(z|x,s)\,\|\,
        N(0,I)\big)+\lambda\|R(G(z,s))-s\|_2^2,\quad
        z_t=\sigma_t\odot z_{t-1}+(1-\sigma_t)\odot m_t
    :shapes: photos (n, d), other s (n, d_s), labels (n, C); photo features x and descriptors
        float32 (n, bits) of length one; z (n, m)
    :defaults: m = 16, two flows, beta = 0.01, lambda = 0.1, 20 draws; chosen here; cosine ranks
    :departures: photo features are a hidden layer on frozen ones, trained by classification beside
        the generator, which takes them as they are; that stands in for a CNN tuned on the seen
        classes and brings the class in; weights, sizes and the form of the feedback are not the
        paper's, whose full text could not be read; on this package's features the divergence ends
        near zero, so the sketch decides and the latent numbers add little
    :fidelity: sketch
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"

    latent: int = 16
    flows: int = 2
    beta: float = 0.01
    lam: float = 0.1
    draws: int = 20

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Photo features with their classifier, encoder, flows, generator and feedback."""
        sketches = self._others()
        d_s, half = sketches.shape[1], max(8, self.width // 2)
        generator = _Generator(self.latent, d_s, self.width, self.bits, self.dropout)
        photos = nn.Sequential(HashNetwork(x, self.width, self.bits, self.dropout), Unit())
        network = TwoTowers(photos, _SketchTower(sketches, generator, self.draws))
        network.classifier = nn.Linear(self.bits, n_classes or 1)
        network.encoder = nn.Sequential(nn.Linear(self.bits + d_s, half), nn.ReLU())
        network.moments = nn.Linear(half, 2 * self.latent)
        network.flows = nn.ModuleList(Flow(self.latent, half) for _ in range(self.flows))
        network.feedback = nn.Sequential(
            nn.Linear(self.bits, half), nn.ReLU(), nn.Linear(half, d_s)
        )
        return network

    def posterior(self, x: Tensor, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latent numbers z (n, m) of photo features x and sketches s, and log q(z) - log p(z).

        ``noise`` (n, m) is standard normal; the constants of both normal densities cancel.
        """
        h = self.network_.get_submodule("encoder")(torch.cat([x, s], 1))
        mean, log_scale = self.network_.get_submodule("moments")(h).chunk(2, 1)
        z = mean + log_scale.exp() * noise
        log_q = -0.5 * noise.square().sum(1) - log_scale.sum(1)
        flows = self.network_.get_submodule("flows")
        assert isinstance(flows, nn.ModuleList)
        for flow in flows:
            # The order is turned around, so that all numbers come to depend on all others.
            z, log_det = flow(z.flip(1), h)
            log_q = log_q - log_det
        return z, log_q + 0.5 * z.square().sum(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification of photo features; reconstruction, divergence and feedback given them."""
        assert batch.other is not None
        tower = self.network_.get_submodule("other")
        assert isinstance(tower, _SketchTower)
        x, s = self.network_(batch.x), tower.standardise(batch.other)
        # A temperature, because classifying vectors of length one otherwise stays vague.
        logits = self.network_.get_submodule("classifier")(10 * x)
        fixed = x.detach()
        z, divergence = self.posterior(fixed, s, torch.randn(len(s), self.latent))
        made = tower.generator(z, s)
        found = self.network_.get_submodule("feedback")(made)
        return {
            "class": F.cross_entropy(logits, per_label(batch.labels)),
            "reconstruction": (fixed - made).square().sum(1).mean(),
            "divergence": self.beta * divergence.mean(),
            "feedback": self.lam * F.mse_loss(found, s),
        }
