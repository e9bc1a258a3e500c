"""SADH [118]: similarity-adaptive deep hashing (survey Sections IV-B, V-A, Fig. 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from torch import Tensor

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._pseudo import PseudoSupervised, directions, k_means
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import HashNetwork

Float64 = NDArray[np.float64]

IMAGES = 50_000
"""Training images for which the published weights of the constraints are meant."""
GAMMA = 1e-3


def anchor_graph(x: Tensor, C: Tensor, s: int) -> Tensor:
    """Z (n, anchors): the weights of the s nearest anchors C of each row of x, summing to one.

    Gaussian, as wide as the s-th nearest anchors are away in the mean. The graph between rows is
    A = Z diag(1^T Z)^-1 Z^T, which has rows that sum to one and is never formed.
    """
    d = (x.square().sum(1)[:, None] + C.square().sum(1) - 2 * x @ C.T).clamp_min(0)
    nearest = d.topk(s, dim=1, largest=False)
    sigma = nearest.values[:, -1].sqrt().mean().clamp_min(1e-12)
    weights = torch.softmax(-nearest.values / sigma.square(), dim=1)
    return torch.zeros_like(d).scatter_(1, nearest.indices, weights)


def lagrangian(
    B: Float64,
    Z: csr_matrix,
    linear: Float64,
    quadratic: float,
    rho: tuple[float, float],
) -> tuple[float, Float64]:
    """What the B step minimises, and its gradient (n, K).

    tr(B^T L B) + <linear, B> + quadratic / 2 |B|^2 + rho_3 / 2 |B^T 1|^2
    + rho_4 / 4 |B^T B - n I|^2 with L = I - A, the anchor graph's Laplacian.
    """
    n, K = B.shape
    degrees = np.maximum(np.asarray(Z.sum(0)).ravel(), 1e-12)
    LB = B - Z @ ((Z.T @ B) / degrees[:, None])
    sums, gram = B.sum(0), B.T @ B - n * np.eye(K)
    value = (B * (LB + linear + quadratic / 2 * B)).sum()
    value += rho[0] / 2 * np.square(sums).sum() + rho[1] / 4 * np.square(gram).sum()
    slope = 2 * LB + linear + quadratic * B + rho[0] * sums + rho[1] * B @ gram
    return float(value), slope


def admm(
    Z: csr_matrix,
    B: Float64,
    rho: tuple[float, float, float, float],
    iterations: int = 50,
    inner: int = 20,
    tolerance: float = 1e-4,
) -> tuple[Float64, list[float]]:
    """Codes (n, K) in {-1, 1} from a start B, and the objective after each iteration.

    {-1, 1} is where the box [-1, 1] and the sphere of radius sqrt(nK) meet: Z1 lies in the one, Z2
    on the other, and multipliers Y1 and Y2 draw B to both.
    """
    n, K = B.shape
    rho1, rho2, *constraints = rho
    weights = (constraints[0], constraints[1])
    Z1 = Z2 = B
    Y1 = Y2 = np.zeros_like(B)
    values: list[float] = []
    for _ in range(iterations):
        linear = Y1 + Y2 - rho1 * Z1 - rho2 * Z2

        def step(flat: Float64, linear: Float64 = linear) -> tuple[float, Float64]:
            value, slope = lagrangian(flat.reshape(n, K), Z, linear, rho1 + rho2, weights)
            return value, slope.ravel()

        found = minimize(step, B.ravel(), jac=True, method="L-BFGS-B", options={"maxfun": inner})
        B = found.x.reshape(n, K)
        Z1 = np.clip(B + Y1 / rho1, -1, 1)
        Z2 = B + Y2 / rho2
        Z2 = math.sqrt(n * K) * Z2 / np.linalg.norm(Z2)
        Y1, Y2 = Y1 + GAMMA * rho1 * (B - Z1), Y2 + GAMMA * rho2 * (B - Z2)
        away = rho1 * np.square(B - Z1).sum() + rho2 * np.square(B - Z2).sum()
        multipliers = (Y1 * (B - Z1) + Y2 * (B - Z2)).sum()
        smooth = lagrangian(B, Z, np.zeros_like(B), 0.0, weights)[0]
        values.append(float(smooth + multipliers + away / 2))
        if len(values) > 1 and abs(values[-1] - values[-2]) <= tolerance * abs(values[-2]):
            break
    return sign(B).astype(np.float64), values


@dataclass(kw_only=True, eq=False)
class SADH(PseudoSupervised):
    r"""Codes of a similarity graph teach the network, whose features make a better graph.

    Three modules take turns. A graph joins every image to its nearest anchors, found by k-means.
    Binary codes are then optimised so that joined images share them while bits stay balanced and
    uncorrelated; the binary constraint is kept as such and handled by ADMM. Finally the network
    learns to predict the codes. The next round builds its graph on the hidden layer that was
    learned meanwhile.

    :survey: Sections IV-B, V-A; Fig. 5
    :cite: shen2018sadh
    :source: the paper's abstract and the authors' public code (anchor graph, ADMM with its
        constants, Euclidean loss on tanh outputs, three rounds)
    :objective: \min_{B\in\{-1,1\}^{n\times K}}\ \mathrm{tr}(B^\top LB)
        +\tfrac{\rho_3}2\|B^\top\mathbf1\|^2+\tfrac{\rho_4}4\|B^\top B-nI\|^2;
        \quad\min_\Theta\ \tfrac1K\,\mathrm{mean}_i\|\tanh(z_i)-b_i\|^2;
        \quad L=I-Z\Lambda^{-1}Z^\top\text{ from the hidden layer}
    :shapes: x (n, d); Z (n, anchors); B (n, bits); codes int8 (n, bits)
    :defaults: 500 anchors but ten images each at least, s = 2 of them for each image, rho_1 = rho_2
        = 1e-2, rho_3 = rho_4 = 1e-3 (public code) for 50,000 images and in inverse proportion for
        other numbers (chosen here: the public code has 118,000, with their mirror images), at most
        50 iterations of 20 evaluations, random start in every round, 3 rounds (public code)
    :departures: VGG is replaced by a hidden layer on frozen features; images are not mirrored;
        graphs are built on centred rows of unit length, where the public code only centres;
        multipliers start at zero, where it draws them; the hidden layer learns, which there is
        fixed at the rate of zero; codes are signs, where it cuts outputs at their overall mean;
        Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"

    anchors: int = 500
    s: int = 2
    rho1: float = 1e-2
    rho2: float = 1e-2
    rho3: float = 1e-3
    rho4: float = 1e-3
    rounds: int = 3

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """At the start of a round, a new graph and new codes."""
        if epoch % math.ceil(self.epochs / self.rounds) == 0:
            self.memory_ = {"B": self.find_codes(self.graph(epoch, data), epoch)}

    def graph(self, epoch: int, data: TrainingData) -> Tensor:
        """The anchor graph Z of the features, or of the hidden layer once it has learned."""
        assert isinstance(self.network_, HashNetwork)
        u = directions(self._in_blocks(self.network_.trunk, data.x) if epoch else data.x)
        k = max(self.s, min(self.anchors, len(u) // 10))
        C = k_means(u, k, self._generator(self.epochs + epoch), rounds=30)
        return anchor_graph(u, C, self.s)

    def find_codes(self, Z: Tensor, epoch: int) -> Tensor:
        """Codes float (n, bits) of an anchor graph, from random ones."""
        rng = np.random.default_rng([self.seed, epoch])
        start = sign(rng.standard_normal((len(Z), self.bits))).astype(np.float64)
        more = IMAGES / len(Z)
        rho = (self.rho1, self.rho2, self.rho3 * more, self.rho4 * more)
        B, _ = admm(csr_matrix(Z.double().numpy()), start, rho)
        return torch.from_numpy(B).float()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared distance of relaxed codes from the optimised ones."""
        h = torch.tanh(self.network_(batch.x))
        return {"fit": (h - self.memory_["B"][batch.index]).square().mean()}
