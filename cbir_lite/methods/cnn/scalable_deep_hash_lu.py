"""Deep hashing for scalable image search [103]: three criteria (survey Sections IV-A, V-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.shallow import _liong
from cbir_lite.methods.shallow._linear import pooled, principal_components

COMPONENTS = 256


def shared_labels(y: Tensor) -> Tensor:
    """Share of common labels among all labels of two rows of y (n, C), (n, n); 0 without labels."""
    common = y @ y.T
    count = y.sum(1)
    return common / (count[:, None] + count[None, :] - common).clamp_min(1)


class TanhNetwork(nn.Module):
    """The network of DH: principal components of the features, then three tanh layers.

    Calling it gives z (B, bits), before the last tanh.
    """

    P: Tensor

    def __init__(self, x: NDArray[np.generic], bits: int, seed: int):
        super().__init__()
        self.standardise = Standardise(x)
        y = self.standardise(torch.as_tensor(x)).numpy()
        sizes = _liong.widths(min(y.shape[1], COMPONENTS), bits)
        _, V, deviation = principal_components(y, min(y.shape[1], COMPONENTS))
        scale = float(np.sqrt(np.square(deviation[: sizes[0]]).mean())) or 1.0
        P = (V / scale).astype(np.float32)
        self.register_buffer("P", torch.from_numpy(P))
        self.layers = nn.ModuleList()
        for W, c in _liong.start(y @ P, sizes, np.random.default_rng(seed)):
            layer = nn.Linear(W.shape[1], W.shape[0])
            layer.load_state_dict({"weight": torch.from_numpy(W), "bias": torch.from_numpy(c)})
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        h: Tensor = self.standardise(x) @ self.P
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        z: Tensor = self.layers[-1](h)
        return z


@dataclass(kw_only=True, eq=False)
class DeepScalableHash(DeepMethod):
    r"""Codes near the outputs, even bits and few repeats, with classes apart: also for many labels.

    The journal form of DH and SDH of 2015. Three criteria at the top say what a code should be: the
    real-valued outputs lie near their signs, each bit varies as much as it can, and the
    hash functions are nearly orthogonal. A fourth term spreads the outputs of images without a
    common label and gathers the others, each pair as much as its labels agree.

    :survey: Sections IV-A, V-A
    :cite: lu2017scalable
    :source: the survey's sentence, the abstract, and a public re-implementation of the conference
        form (terms); the weighting of pairs with several labels is not from the paper
    :objective: \min\ \tfrac12\mathrm{mean}_i\|b_i-h_i\|_2^2
        -\frac{\lambda_1}{2}\Big(\mathrm{mean}_i\|h_i-\bar h\|_2^2
        +\alpha\,\frac{\sum_{ij}[s_{ij}=0]\,d_{ij}}{\sum_{ij}[s_{ij}=0]}
        -\alpha\,\frac{\sum_{ij}s_{ij}\,d_{ij}}{\sum_{ij}s_{ij}}\Big)
        +\frac{\lambda_2}{2}\sum_m\|W_mW_m^\top-I\|_F^2,\quad d_{ij}=\|h_i-h_j\|_2^2,\
        s_{ij}=\frac{|y_i\cap y_j|}{|y_i\cup y_j|}
    :shapes: x (n, d), labels (n, C); h = tanh(z) (n, bits), W_m of three layers; codes
        int8 (n, bits)
    :defaults: lambda_1 = 0.3, lambda_2 = 60, alpha = 30 (validation); widths as in DH
    :departures: features are reduced to 256 principal components, and the three layers start from
        principal directions, turned at random; means over a batch and its pairs instead of sums
        over the training set, so the weights differ from the paper's, and orthogonality has to
        weigh much: else the scatters make bits alike. Adam with cosine decay instead of gradient
        descent on all rows; width and dropout have no effect
    :fidelity: simplified
    """

    lam1: float = 0.3
    lam2: float = 60.0
    alpha: float = 30.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The tanh network."""
        return TanhNetwork(pooled(x, system="DeepScalableHash"), self.bits, self.seed)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Quantization, balance, both scatters over pairs of the batch, and orthogonality."""
        h = torch.tanh(self.network_(batch.x))
        squares = h.square().sum(1)
        d = squares[:, None] + squares[None, :] - 2 * h @ h.T
        pairs = 1 - torch.eye(len(h))
        s = pairs * shared_labels(batch.labels)
        different = pairs * (batch.similarity == 0)
        layers: Any = self.network_.layers
        products = [layer.weight @ layer.weight.T for layer in layers]
        apart = [(p - torch.eye(len(p))).square().sum() for p in products]
        half = self.lam1 / 2
        return {
            "quantization": (sign(h.detach()) - h).square().sum(1).mean() / 2,
            "balance": -half * (h - h.mean(0)).square().sum(1).mean(),
            "between": -half * self.alpha * (different * d).sum() / different.sum().clamp_min(1),
            "within": half * self.alpha * (s * d).sum() / s.sum().clamp_min(1e-8),
            "independence": self.lam2 / 2 * torch.stack(apart).sum(),
        }
