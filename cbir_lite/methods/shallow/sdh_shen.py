"""SDH [96]: supervised discrete hashing (survey Section IV-A, Tables II to IV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Descriptors, Method, sign
from cbir_lite.methods.shallow._linear import Float64, pooled

_BLOCK = 4096


def w_step(B: Float64, Y: Float64, lam: float) -> Float64:
    """Classifier W (bits, C): ridge regression of the labels Y (n, C) on the codes B (n, bits)."""
    gram = B.T @ B + lam * np.eye(B.shape[1])
    return np.asarray(cho_solve(cho_factor(gram), B.T @ Y))


def b_step(B: Float64, Y: Float64, W: Float64, F: Float64, nu: float, sweeps: int) -> Float64:
    """Codes B (n, bits) by discrete cyclic coordinate descent: one bit of all rows at a time.

    With the other bits B' fixed, the best bit k is sgn(q_k - B' W' w_k), Q = Y W^T + nu F. Stops
    after ``sweeps`` rounds, or when a round changes nothing.
    """
    B, Q, gram = B.copy(), Y @ W.T + nu * F, W @ W.T
    for _ in range(sweeps):
        before = B.copy()
        for k in range(B.shape[1]):
            B[:, k] = sign(Q[:, k] - B @ gram[:, k] + B[:, k] * gram[k, k])
        if np.array_equal(B, before):
            break
    return B


@dataclass(kw_only=True, eq=False)
class SDH(Method):
    r"""Learn bits from which labels can be read off linearly, without relaxing the bits.

    Three steps in turn: W classifies the codes (ridge), P hashes the kernel features (ridge),
    and B is found bit by bit (discrete cyclic coordinate descent). None of them raises
    the objective. ``history_`` holds its terms per training row after each round.

    :survey: Sections IV-A, VI-A; Tables II, III, IV
    :cite: shen2015sdh
    :source: the authors' public MATLAB code (L2 loss, constants, kernel) and the survey
    :objective: \min_{B,W,P}\ \sum_i\|y_i-W^\top b_i\|^2+\lambda\|W\|^2
        +\nu\Big(\sum_i\|b_i-P^\top\phi(x_i)\|^2+\delta\|P\|^2\Big),\quad b_i\in\{-1,1\}^K,\
        \phi_j(x)=\exp\big(-\|x-a_j\|^2/2\sigma^2\big)
    :shapes: x (n, d), labels (n, C); codes int8 (n, bits)
    :defaults: lambda = 1, nu = 1e-5, 1000 anchors (all rows when there are fewer), ridge of P delta
        = 1e-2, 5 rounds of at most 10 sweeps (authors' code); sigma^2 = mean squared distance
        between rows and anchors
    :departures: sigma comes from the data (the code's 0.4 is for its own normalised features); each
        discrete step starts from the last codes, not from zero, so the objective cannot rise
    :fidelity: faithful
    """

    anchors: int = 1000
    lam: float = 1.0
    nu: float = 1e-5
    ridge: float = 1e-2
    rounds: int = 5
    sweeps: int = 10

    def fit(self, split: Split, **loop: Any) -> Self:
        """Alternate W, P and B from random codes."""
        x, Y = pooled(split.x, system="SDH"), split.labels.astype(np.float64)
        rng = np.random.default_rng(self.seed)
        chosen = rng.choice(len(x), min(self.anchors, len(x)), replace=False)
        self.anchors_ = x[np.sort(chosen)]
        self.sigma_ = float(np.sqrt(_squared_distances(x, self.anchors_).mean(dtype=np.float64)))
        if self.sigma_ == 0:
            raise ValueError("all training rows are equal: there is nothing to hash")
        phi = self._kernel(x).astype(np.float64)
        solver = cho_factor(phi.T @ phi + self.ridge * np.eye(phi.shape[1]))
        B = sign(rng.standard_normal((len(x), self.bits))).astype(np.float64)
        W, P = w_step(B, Y, self.lam), cho_solve(solver, phi.T @ B)
        self.history_ = [self._terms(B, Y, W, phi, P)]
        for _ in range(self.rounds):
            B = b_step(B, Y, W, phi @ P, self.nu, self.sweeps)
            W, P = w_step(B, Y, self.lam), cho_solve(solver, phi.T @ B)
            self.history_.append(self._terms(B, Y, W, phi, P))
        self.P_ = P.astype(np.float32)
        return self

    def _terms(
        self, B: Float64, Y: Float64, W: Float64, phi: Float64, P: Float64
    ) -> dict[str, float]:
        """Terms of the objective divided by n; P's ridge belongs to the step that solves for it."""
        n = len(B)
        return {
            "classification": float(np.square(Y - B @ W).sum() / n),
            "weights": float(self.lam * np.square(W).sum() / n),
            "hashing": float(
                self.nu * (np.square(B - phi @ P).sum() + self.ridge * np.square(P).sum()) / n
            ),
        }

    def _kernel(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """phi (n, anchors + 1): Gaussian kernels with the anchors, and a constant one."""
        phi = np.ones((len(x), len(self.anchors_) + 1), np.float32)
        phi[:, :-1] = np.exp(_squared_distances(x, self.anchors_) / np.float32(-2 * self.sigma_**2))
        return phi

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """P^T phi(x), float32 (n, bits)."""
        self._require_fit()
        x = pooled(x, self.anchors_.shape[1], "SDH")
        blocks = [self._kernel(x[a : a + _BLOCK]) @ self.P_ for a in range(0, len(x), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.bits), np.float32)

    def encode(self, x: NDArray[Any]) -> Codes:
        """sgn(P^T phi(x)), int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes


def _squared_distances(x: NDArray[Any], anchors: NDArray[Any]) -> NDArray[np.float32]:
    squares = np.square(x).sum(1)[:, None] + np.square(anchors).sum(1)
    d: NDArray[np.float32] = np.maximum(squares - 2 * x @ anchors.T, 0)
    return d
