"""DH-FFL [211]: multilevel similarity hashing, fine-grained features (survey VII-C, VII-G)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import as_float32
from cbir_lite.methods.cnn._multilevel import multilevel_terms, pull_to_signs
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import HashNetwork

_BLOCK = 128


class CountSketch(NamedTuple):
    """Of each of d channels, the place int64 (d,) it is added to and its sign float32 (d,)."""

    place: Tensor
    sign: Tensor

    def __call__(self, x: Tensor, size: int) -> Tensor:
        """Rows (n, d) in ``size`` places (n, size)."""
        return torch.zeros(len(x), size).index_add_(1, self.place, x * self.sign)


def count_sketches(d: int, size: int, seed: int) -> list[CountSketch]:
    """Two sketches of d channels, each with random places and signs."""
    rng = np.random.default_rng(seed)
    drawn = ((rng.choice([-1.0, 1.0], d), rng.integers(size, size=d)) for _ in range(2))
    return [CountSketch(torch.from_numpy(p), torch.from_numpy(s).float()) for s, p in drawn]


def compact_bilinear(x: Tensor, sketches: list[CountSketch], size: int) -> Tensor:
    """Compact bilinear features (n, size) of maps (n, h, w, d), of length one.

    Bilinear pooling sums the outer product of the channels with themselves over positions; the
    tensor sketch approximates its inner products in ``size`` numbers: the circular convolution of
    two count sketches, a product of Fourier transforms. Then signed square roots, then scaling.
    """
    cells = x.flatten(0, 2)
    first, second = (torch.fft.rfft(s(cells, size)) for s in sketches)
    pooled = torch.fft.irfft((first * second).unflatten(0, (len(x), -1)).sum(1), n=size)
    return F.normalize(pooled.sign() * pooled.abs().sqrt())


@dataclass(kw_only=True, eq=False)
class DHFFL(DeepMethod):
    r"""Pairs of channels instead of channels, and distances that may miss their level a little.

    What tells fine classes apart is often that two parts occur together. Bilinear pooling keeps,
    for every pair of channels, how often both fire at one place; a sketch keeps it short. The
    codes are trained by a distance for every level of shared labels, of which a small miss costs
    nothing, and by a classifier of the labels on top of the outputs.

    :survey: Sections VII-C, VII-G
    :cite: qin2020dmsh
    :source: the paper's abstract (compact bilinear pooling with normalisation, multilevel
        contrastive loss with a zero-loss parameter, multi-label classification loss); full text
        and code were not found. The tensor sketch is the known one of compact bilinear pooling
    :objective: \min\ \sum_{i<j,\,s_{ij}>0}\max(0,|d_{ij}-m(s_{ij})|-\epsilon)^2
        +\sum_{i<j,\,s_{ij}=0}\max(0,m(0)-d_{ij})^2+\beta\sum_i\mathrm{CE}(y_i,\hat y_i)
        +\alpha\sum_i\||u_i|-1\|_1,\quad d_{ij}=\tfrac1{4K}\|u_i-u_j\|_2^2,\ m(s)=\tfrac12(1-s),\
        u=f\Big(\textstyle\sum_p\mathrm{TS}(x_p x_p^\top)\Big)
    :shapes: maps x (n, h, w, d), labels (n, C); sketch (n, size); u (n, bits); codes int8 (n, bits)
    :defaults: size = 1024, epsilon = 0.05, beta = 0.1 and alpha = 0.01 beside means over pairs,
        images, classes and bits; the levels of dmssph; all chosen here
    :departures: the forms of the losses, their levels and constants are chosen here; the maps are
        those of a frozen backbone, so that the sketch of an image is computed once, and a hidden
        layer follows it
    :fidelity: sketch
    """

    reads = "maps"

    size: int = 1024
    epsilon: float = 0.05
    beta: float = 0.1
    alpha: float = 0.01

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Compact bilinear features float32 (n, size) of maps (n, h, w, d); the seed draws them."""
        if x.ndim != 4:
            raise ValueError(
                f"fine_grained_multilevel reads maps (n, h, w, d) and got {x.shape}: extract "
                "features of kind 'maps'"
            )
        sketches = count_sketches(x.shape[-1], self.size, self.seed)
        features = np.empty((len(x), self.size), np.float32)
        for a in range(0, len(x), _BLOCK):
            block = torch.from_numpy(as_float32(x[a : a + _BLOCK]))
            features[a : a + _BLOCK] = compact_bilinear(block, sketches, self.size).numpy()
        return features

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network on compact bilinear features, with a classifier on its outputs."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.classifier = nn.Linear(self.bits, n_classes)
        return network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distances that miss their level by more than epsilon, classification, quantization."""
        net: Any = self.network_
        u = net(batch.x)
        entropy = F.binary_cross_entropy_with_logits(net.classifier(u), batch.labels)
        return {
            **multilevel_terms(u, batch.labels, self.epsilon),
            "classification": self.beta * entropy,
            "quantization": self.alpha * pull_to_signs(u),
        }
