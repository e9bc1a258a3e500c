"""ADSQ [222]: asymmetric deep semantic quantization (survey Section VII-H)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import Codes, sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label
from cbir_lite.methods.networks import HashNetwork


class ThreeStreams(nn.Module):
    """One network for queries and one for the database, of one shape, and one that reads labels."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, n_classes: int):
        super().__init__()
        self.query = HashNetwork(x, width, bits, dropout)
        self.database = HashNetwork(x, width, bits, dropout)
        self.label = nn.Sequential(
            nn.Linear(n_classes, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, bits),
        )

    def forward(self, x: Tensor) -> Tensor:
        """u of a batch, in (-1, 1): the query side."""
        return torch.tanh(self.query(x))


def pair_likelihood(a: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Mean over all pairs of log(1 + exp(theta)) - s theta, theta half the inner product."""
    theta = 0.5 * a @ c.T
    return (F.softplus(theta) - s * theta).mean()


@dataclass(kw_only=True, eq=False)
class ADSQ(DeepMethod):
    r"""A network that reads labels leads two that read images, one for each side of a search.

    The label network is trained first, so that its outputs l keep the pair labels. Two image
    networks of one shape but different weights then give u for queries and v for the database;
    their inner products keep the pair labels as well, both are drawn to l, and all three share one
    binary code which the image networks should come near. Codes are compared by Hamming
    distance.

    :survey: Section VII-H
    :cite: yang2019adsq
    :source: the paper's abstract (three streams, three fully connected layers for labels, two image
        networks of one structure and different weights, what guides what) and the survey's
        sentence
    :objective: \min_l\ \mathrm{mean}_{ij}\,\mathcal L(l_i,l_j)
        +\tfrac\beta K\,\mathrm{mean}_i\|\mathrm{sgn}(l_i)-l_i\|_2^2;\quad
        \min_{u,v}\ \mathrm{mean}_{ij}\,\mathcal L(u_i,v_j)
        +\tfrac1K\,\mathrm{mean}_i\big(\alpha(\|u_i-l_i\|_2^2+\|v_i-l_i\|_2^2)
        +\beta(\|b_i-u_i\|_2^2+\|b_i-v_i\|_2^2)\big),\quad \mathcal L(a_i,c_j)
        =\log(1+e^{\Theta_{ij}})-s_{ij}\Theta_{ij},\ \Theta_{ij}=\tfrac12a_i^\top c_j,\
        b_i=\mathrm{sgn}(l_i+u_i+v_i)
    :shapes: x (n, d), labels (n, C); l, u, v (n, K) with K = bits; queries sgn(u) and database
        sgn(v), int8 (n, bits)
    :defaults: alpha = 3, beta = 0.1, 300 steps of the label network
    :departures: the paper's formulas and constants were not at hand, only what its streams do:
        the likelihood, the weights and the shared code are this package's reading; the label
        network learns before the image networks and is then fixed; image networks are hidden
        layers on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    alpha: float = 3.0
    beta: float = 0.1
    label_steps: int = 300

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two image networks and the label network."""
        assert n_classes is not None
        return ThreeStreams(x, self.width, self.bits, self.dropout, n_classes)

    def start_fit(self, data: TrainingData) -> None:
        """Train the label network on random batches of labels."""
        assert data.y is not None
        net: Any = self.network_
        optimiser, generator = self.adam(net.label.parameters()), self._generator(-1)
        for _ in range(self.label_steps):
            rows = torch.randint(len(data), (self.batch_size,), generator=generator)
            self._descend(sum(self.label_loss(data.y[rows]).values()), optimiser)

    def label_loss(self, y: Tensor) -> dict[str, Tensor]:
        """Pairs of label outputs, and their distance to signs."""
        net: Any = self.network_
        label = torch.tanh(net.label(y))
        gap = sign(label.detach()).float() - label
        return {
            "pairs": pair_likelihood(label, label, shares_label(y, y)),
            "quantization": self.beta * gap.square().mean(),
        }

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam over the two image networks."""
        net: Any = self.network_
        return [self.adam([*net.query.parameters(), *net.database.parameters()])]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Asymmetric pairs of images, guidance by labels, and distance to the shared codes."""
        net: Any = self.network_
        u, v = net(batch.x), torch.tanh(net.database(batch.x))
        with torch.no_grad():
            label = torch.tanh(net.label(batch.labels))
            b = sign(label + u + v).float()
        return {
            "pairs": pair_likelihood(u, v, batch.similarity),
            "guidance": self.alpha * ((u - label).square() + (v - label).square()).mean(),
            "quantization": self.beta * ((b - u).square() + (b - v).square()).mean(),
        }

    def encode_database(self, x: NDArray[Any]) -> Codes:
        """Signs of the database stream, int8 (n, bits)."""
        self._require_fit()
        codes: Codes = sign(self._in_blocks(self.network_.get_submodule("database"), x)).numpy()
        return codes
