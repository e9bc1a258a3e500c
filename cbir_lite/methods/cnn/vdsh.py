"""VDSH [100]: very deep supervised hashing, trained layer by layer (survey Section IV-A)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Descriptors, Method, sign
from cbir_lite.methods.shallow._linear import pooled
from cbir_lite.methods.shallow.sdh_shen import b_step, w_step

Float = NDArray[Any]


def with_one(z: Float) -> Float:
    """z (n, p) with a constant column, which carries the bias: (n, p + 1)."""
    return np.concatenate([z, np.ones((len(z), 1), z.dtype)], axis=1)


def relu(u: Float) -> Float:
    """max(u, 0)."""
    return np.maximum(u, 0)


def u_step(z: Float, v: Float) -> Float:
    """The u of every entry that minimises (z - relu(u))^2 + (u - v)^2."""
    active, resting = relu((z + v) / 2), np.minimum(v, 0)
    gain = np.square(z) + np.square(resting - v) - np.square(z - active) - np.square(active - v)
    best: Float = np.where(gain >= 0, active, resting)
    return best


def z_step(theta: Float, target: Float, u: Float, weight: float) -> Float:
    """The z (n, p) that minimises weight |target - theta (z, 1)|^2 + |z - relu(u)|^2."""
    W, c = theta[:, :-1], theta[:, -1]
    A = weight * W.T @ W + np.eye(W.shape[1], dtype=W.dtype)
    right = weight * (target - c) @ W + relu(u)
    z: Float = cho_solve(cho_factor(A), right.T).T
    return z


def theta_step(z: Float, target: Float, ridge: float) -> Float:
    """Weights (q, p + 1) of a layer: ridge regression of target (n, q) on (z, 1), z (n, p)."""
    z = with_one(z)
    A = z.T @ z + ridge * np.eye(z.shape[1], dtype=z.dtype)
    theta: Float = cho_solve(cho_factor(A), z.T @ target).T
    return theta


@dataclass(kw_only=True, eq=False)
class VDSH(Method):
    r"""Many layers without backpropagation: each is fitted on its own, to variables of its own.

    For every image and hidden layer the output z and the input u of the rectifier become
    variables, tied to the layers by squared penalties. Given these, each layer's weights are one
    ridge regression, and each variable has a best value that involves its two neighbours only,
    so no gradient runs through the depth. At the top, labels are regressed on codes, which are
    found bit by bit. ``history_`` holds the terms per row after each round; their sum never rises.

    :survey: Section IV-A
    :cite: zhang2016vdsh
    :source: the abstract and a public summary of the method (least squares of the labels with
        regularised weights, auxiliary variables for layer outputs, local updates); the paper's
        own updates were not available
    :objective: \min\ \sum_i\|y_i-W^\top b_i\|^2+\lambda\|W\|^2
        +\nu\big(\|b_i-\theta_M\bar z_i^{M-1}\|^2+r\|\theta_M\|^2\big)
        +\rho\sum_{m<M}\Big(\|z_i^m-\max(u_i^m,0)\|^2+\|u_i^m-\theta_m\bar z_i^{m-1}\|^2
        +r_m\|\theta_m\|^2\Big),\quad b_i\in\{-1,1\}^K,\ z_i^0=x_i,\ \bar z=(z,1)
    :shapes: x (n, d), labels (n, C); z^m (n, width); codes int8 (n, bits)
    :defaults: 3 hidden layers of 512, lambda = 1, nu = rho = 1e-3, 4 rounds; r = 0.03 n, for the
        first layer 0.3 n (validation)
    :departures: the paper trains up to 64 layers on a graphics card. Squared penalties with exact
        block updates take the place of its multipliers and of its two local copies of each weight;
        the top codes are discrete as in SDH; layers above the first start as the identity,
        which rectified outputs pass unchanged
    :fidelity: simplified
    """

    depth: int = 3
    width: int = 512
    rounds: int = 4
    lam: float = 1.0
    nu: float = 1e-3
    rho: float = 1e-3
    ridge: float = 0.03
    ridge_first: float = 0.3
    sweeps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"depth={self.depth}: there must be at least one hidden layer")

    def fit(self, split: Split, **loop: Any) -> Self:
        """Rounds of the top and then all layers downwards, from a forward pass."""
        x, Y = pooled(split.x, system="VDSH"), split.labels.astype(np.float64)
        self.mean_ = x.mean(0)
        std = x.std(0)
        self.scale_ = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, np.float32(1))
        X = (x - self.mean_) / self.scale_
        ridges = [self.ridge_first * len(x)] + [self.ridge * len(x)] * self.depth
        theta = self._start(X.shape[1])
        z, u = [X], []
        for t in theta[:-1]:
            u.append(with_one(z[-1]) @ t.T)
            z.append(relu(u[-1]))
        F = with_one(z[-1]) @ theta[-1].T
        B = sign(F).astype(np.float64)
        # The first layer's inputs never change.
        X1 = with_one(X)
        first = cho_factor(X1.T @ X1 + np.float32(ridges[0]) * np.eye(X1.shape[1], dtype=X1.dtype))
        W = w_step(B, Y, self.lam)
        self.history_ = [self._terms(B, Y, W, z, u, theta, ridges)]
        for _ in range(self.rounds):
            B = b_step(B, Y, W, F, self.nu, self.sweeps)
            W = w_step(B, Y, self.lam)
            target, weight = B.astype(np.float32), self.nu / self.rho
            theta[-1] = theta_step(z[-1], target, ridges[-1])
            for m in range(self.depth - 1, -1, -1):
                z[m + 1] = z_step(theta[m + 1], target, u[m], weight)
                u[m] = u_step(z[m + 1], with_one(z[m]) @ theta[m].T)
                if m:
                    theta[m] = theta_step(z[m], u[m], ridges[m])
                else:
                    theta[0] = cho_solve(first, X1.T @ u[0]).T
                target, weight = u[m], 1.0
            F = with_one(z[-1]) @ theta[-1].T
            self.history_.append(self._terms(B, Y, W, z, u, theta, ridges))
        for m, t in enumerate(theta):
            setattr(self, f"theta{m}_", t)
        return self

    def _start(self, d: int) -> list[Float]:
        """Random first and last layers of unit output scale, identities between."""
        rng = np.random.default_rng(self.seed)
        sizes = [d, *[self.width] * self.depth, self.bits]
        theta = []
        for m, (a, b) in enumerate(itertools.pairwise(sizes)):
            W = rng.standard_normal((b, a)) * np.sqrt((2 if m == 0 else 1) / a)
            if 0 < m < self.depth:
                W = np.eye(a)
            theta.append(np.append(W, np.zeros((b, 1)), axis=1).astype(np.float32))
        return theta

    def _terms(
        self,
        B: Float,
        Y: Float,
        W: Float,
        z: list[Float],
        u: list[Float],
        theta: list[Float],
        ridges: list[float],
    ) -> dict[str, float]:
        """Terms of the objective divided by n; each layer's ridge counts to its regression."""

        def squares(v: Float) -> float:
            return float(np.square(v).sum(dtype=np.float64))

        n = len(B)
        inputs = [
            squares(t - with_one(below) @ weights.T) + r * squares(weights)
            for t, below, weights, r in zip([*u, B], z, theta, ridges, strict=True)
        ]
        outputs = sum(squares(above - relu(v)) for above, v in zip(z[1:], u, strict=True))
        return {
            "classification": (squares(Y - B @ W) + self.lam * squares(W)) / n,
            "hashing": self.nu * inputs[-1] / n,
            "layers": self.rho * (sum(inputs[:-1]) + outputs) / n,
        }

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Outputs of the top layer, float32 (n, bits)."""
        self._require_fit()
        z = (pooled(x, len(self.mean_), "VDSH") - self.mean_) / self.scale_
        for m in range(self.depth):
            z = relu(with_one(z) @ getattr(self, f"theta{m}_").T)
        F: Descriptors = with_one(z) @ getattr(self, f"theta{self.depth}_").T
        return F

    def encode(self, x: NDArray[Any]) -> Codes:
        """Signs of the top outputs, int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes
