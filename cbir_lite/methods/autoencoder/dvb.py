"""DVB [86]: deep variational binaries (survey Sections III.7, IV-B, V-B, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.shallow._linear import principal_components

LOG_VARIANCE = 6.0
"""Log variances end here: exponentials of inputs far from all others would overflow."""


def kl(mu: Tensor, log_var: Tensor, prior_mu: Tensor, prior_log_var: Tensor) -> Tensor:
    """KL(q || p) of diagonal Gaussians, mean over their L dimensions, (B,)."""
    spread = (log_var.exp() + (mu - prior_mu).square()) / prior_log_var.exp()
    return 0.5 * (prior_log_var - log_var + spread - 1).mean(1)


def neighbour_graph(x: Tensor, k: int) -> Tensor:
    """W = D^-1/2 C D^-1/2 (B, B); C links each row of x to its k nearest and they to it."""
    d = torch.cdist(x, x)
    d.fill_diagonal_(torch.inf)
    C = torch.zeros_like(d).scatter_(1, d.topk(min(k, len(x) - 1), largest=False).indices, 1.0)
    C = torch.maximum(C, C.T)
    scale = C.sum(1).rsqrt()
    return scale[:, None] * C * scale


class Gaussian(nn.Module):
    """Inputs (B, d) to mean and log variance of a Gaussian over z, (B, latent) each."""

    def __init__(self, d: int, width: int, latent: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(d, width), nn.ReLU())
        self.mean = nn.Linear(width, latent)
        self.log_variance = nn.Linear(width, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the distribution of z."""
        hidden = self.hidden(x)
        return self.mean(hidden), self.log_variance(hidden).clamp(-LOG_VARIANCE, LOG_VARIANCE)


class Networks(nn.Module):
    """p(z|x), q(b|x,z) and q(z|x,b); calling it gives the code before tanh at the mean of z."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, latent: int, dropout: float):
        super().__init__()
        d = int(np.prod(x.shape[1:]))
        self.standardise = Standardise(x)
        self.dropout = nn.Dropout(dropout)
        self.prior = Gaussian(d, width // 2, latent)
        self.posterior = Gaussian(d + bits, width // 2, latent)
        self.coder = nn.Sequential(
            nn.Linear(d + latent, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, bits)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, bits)."""
        x = self.standardise(x).flatten(1)
        z: Tensor = self.coder(torch.cat([x, self.prior(x)[0]], 1))
        return z


@dataclass(kw_only=True, eq=False)
class DVB(DeepMethod):
    r"""Codes read off an image together with a latent variable that knows where it lies in the set.

    A conditional variational autoencoder with three networks: p(z|x) proposes a latent variable,
    q(b|x,z) turns image and latent variable into a code, and q(z|x,b) must recover the latent
    variable once the code is known, which rewards codes that tell about it. The latent variable
    is drawn towards the centre of the image's cluster in the training set and to those of its
    neighbours in the batch, so that what is known of the whole set reaches the codes. Bits are
    decorrelated and drawn to plus and minus one.

    :survey: Sections III.7 (2019), IV-B, V-B, VI-A; Fig. 5; Tables II, III
    :cite: shen2019dvb
    :source: abstracts of the journal paper and of its conference version, and the first author's
        public research code (the three networks, KL term, sampling, the five losses and weights)
    :objective: \min\ \mathrm{KL}\big(q(z|x,b)\|p(z|x)\big)+\alpha\tfrac12\|f-\mathrm{sgn}(f)\|^2
        +\tfrac12\|\tfrac1Bf^\top f-I\|_F^2-\beta\,\mathrm{tr}(\bar z^\top W\bar z)
        +\tfrac12\|z-c\|^2,\quad z\sim p(z|x)=\mathcal N(\mu,\sigma^2),\ f=\tanh q(b|x,z)
    :shapes: x (n, d); z and the cluster's centre c (B, L); graph W (B, B) of nearest neighbours; f
        (B, bits); codes int8 (n, bits)
    :defaults: alpha = 0.8 and noise of 0.02 standard deviations (public code), 10 neighbours (the
        code's function; its caller passes the batch size, which links everything), beta = 1; L = 64
        and 100 clusters chosen here; terms are means over rows and sums over dimensions, the KL
        term is a mean over both (as in the code)
    :departures: hidden layers of 512 and 256 units on standardised frozen features instead of
        VGG-16 and two layers of 1024; the code reads cluster centres from a file and does not show
        how they were made: here they are k-means centres of the principal components, scaled to a
        mean variance of one, and accordingly the mean and variance of z are not squashed to [0, 1]:
        beside standardised features, z would hardly reach the code; decorrelation is between bits,
        as in an earlier version of the code (the last one has it between images); at retrieval z is
        its mean; the code's noise is scaled by what its KL term takes for the log variance, and it
        decays weights by 0.005. The code sums all terms but the KL term over rows, so here that one
        weighs a batch size more beside them, and its graph has 9 others and is not symmetric. In
        the records the codes of CIFAR-10 rank above signs of principal components by mAP@1000 from
        16 bits on, and a little below them by mAP over the whole database. Log variances end at
        plus and minus 6, which they reach on MNIST only, where some features hardly ever vary and
        the KL term overflowed
    :fidelity: simplified
    """

    supervision = "unsupervised"

    latent: int = 64
    clusters: int = 100
    alpha: float = 0.8
    beta: float = 1.0
    neighbours: int = 10
    noise: float = 0.02

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The three networks."""
        latent = min(self.latent, int(np.prod(x.shape[1:])))
        return Networks(x, self.width, self.bits, latent, self.dropout)

    def start_fit(self, data: TrainingData) -> None:
        """Clusters of the training rows among their principal components."""
        net: Any = self.network_
        x = net.standardise(data.x).flatten(1).numpy()
        mean, V, _ = principal_components(x, net.prior.mean.out_features)
        k = min(self.clusters, len(x))
        found = KMeans(k, n_init=1, max_iter=50, random_state=self.seed).fit((x - mean) @ V)
        places = found.cluster_centers_
        spread = float(np.sqrt(places[found.labels_].var(0).mean()))
        c = places / (spread if spread > 0 else 1.0)
        parts = {"mean": mean, "V": V, "places": places, "c": c}
        self.memory_ = {k: torch.from_numpy(v.astype(np.float32)) for k, v in parts.items()}

    def centres(self, x: Tensor) -> Tensor:
        """c (B, L): the scaled centre of the cluster nearest to flat standardised x (B, d)."""
        m = self.memory_
        nearest = torch.cdist((x - m["mean"]) @ m["V"], m["places"]).argmin(1)
        return m["c"][nearest]

    def terms(self, x: Tensor, z: Tensor, c: Tensor) -> dict[str, Tensor]:
        """The five terms for flat standardised x (B, d), a sample z (B, L) and centres c (B, L)."""
        net: Any = self.network_
        f = net.coder(torch.cat([net.dropout(x), z], 1)).tanh()
        mu, log_var = net.posterior(torch.cat([x, f], 1))
        prior = net.prior(x)
        unit = F.normalize(z, dim=1)
        W = neighbour_graph(x, self.neighbours)
        correlation = f.T @ f / len(f) - torch.eye(self.bits)
        return {
            "kl": kl(mu, log_var, *prior).mean(),
            "quantization": self.alpha * 0.5 * (f - sign(f.detach())).square().sum(1).mean(),
            "decorrelation": 0.5 * correlation.square().sum(),
            "graph": -self.beta * (unit * (W @ unit)).sum() / len(z),
            "centre": 0.5 * (z - c).square().sum(1).mean(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms at a sample of p(z|x)."""
        net: Any = self.network_
        x = net.standardise(batch.x).flatten(1)
        mu, log_var = net.prior(x)
        z = mu + self.noise * torch.randn_like(mu) * (0.5 * log_var).exp()
        return self.terms(x, z, self.centres(x))
