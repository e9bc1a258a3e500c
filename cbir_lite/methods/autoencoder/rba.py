"""RBA [152]: relaxed binary autoencoder, trained jointly with aggregation (survey V-B, VI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Descriptors, Method, as_float32, require_finite, sign
from cbir_lite.methods.shallow._linear import principal_components
from cbir_lite.methods.shallow.itq import rotate
from cbir_lite.methods.shallow.sdh_shen import b_step

Float = NDArray[Any]

# In float32 these maps stay below what the allocator gives back and has to ask for again.
_BLOCK = 128
_ITQ_ROUNDS = 50


def local_descriptors(x: NDArray[Any]) -> NDArray[np.float32]:
    """Maps (n, h, w, d) to local descriptors (n, h w, d) of length one; zero ones stay zero."""
    V = as_float32(x).reshape(len(x), -1, x.shape[-1])
    norms = np.sqrt(np.einsum("npd,npd->np", V, V))[..., None]
    V /= np.where(norms > 0, norms, 1)
    return V


def max_pooling(V: Float, mu: float) -> Float:
    """phi (n, d) with v^T phi as near 1 as can be for all local descriptors v of V (n, p, d).

    Minimises |V phi - 1|^2 + mu |phi|^2: generalized max pooling.
    """
    G = V @ V.transpose(0, 2, 1) + mu * np.eye(V.shape[1], dtype=V.dtype)
    a = np.linalg.solve(G, np.ones((*V.shape[:2], 1), V.dtype))
    phi: Float = (a.transpose(0, 2, 1) @ V)[:, 0]
    return phi


def phi_step(
    V: Float,
    B: Float,
    W1: Float,
    c1: Float,
    W2: Float,
    c2: Float,
    lam: float,
    gamma: float,
    mu: float,
) -> Float:
    """phi (n, d) that minimises the objective for fixed codes B (n, bits) and weights.

    The system of each image is (1 + gamma mu) I + lam W1^T W1 + gamma V^T V; it is solved in the
    space of the p local descriptors, with W1 (bits, d) and W2 (d, bits).
    """
    s = 1 + gamma * mu
    M = np.linalg.inv(s / lam * np.eye(len(W1)) + W1 @ W1.T).astype(V.dtype)

    def solve(r: Float) -> Float:
        """r times the inverse of the part all images share."""
        solved: Float = (r - (r @ W1.T) @ M @ W1) / s
        return solved

    y = solve(B @ W2.T + c2 + lam * (B - c1) @ W1 + gamma * V.sum(1))
    T = V @ W1.T
    small = (V @ V.transpose(0, 2, 1) - T @ M @ T.transpose(0, 2, 1)) / s
    small = small + np.eye(V.shape[1], dtype=V.dtype) / gamma
    u = np.linalg.solve(small, V @ y[..., None])
    phi: Float = y - solve((u.transpose(0, 2, 1) @ V)[:, 0])
    return phi


def ridge(X: Float, Y: Float, beta: float) -> tuple[Float, Float]:
    """W (q, d), c (q,) that minimise |Y - X W^T - c|^2 + beta |W|^2 for X (n, d), Y (n, q)."""
    x, y = X.mean(0), Y.mean(0)
    X, Y = X - x, Y - y
    W = np.linalg.solve(X.T @ X + beta * np.eye(X.shape[1]), X.T @ Y).T
    return W, y - W @ x


@dataclass(kw_only=True, eq=False)
class RBA(Method):
    r"""How local descriptors are aggregated and how the result is hashed are learned together.

    An image is a set of local descriptors. Generalized max pooling looks for one vector that is
    equally similar to all of them, so frequent ones do not drown the rare ones. A binary
    autoencoder hashes that vector and rebuilds it from the code. Joining the two, the
    aggregated vectors of the training images may move to where codes rebuild them better. Codes,
    encoder, decoder and aggregated vectors are optimised in turn, each step to its optimum or
    bit by bit, with the codes binary throughout. ``history_`` holds the terms of the objective per
    row after each round.

    :survey: Sections V-B, VI-A, VI-C
    :cite: do2019sah
    :source: the paper's abstract (joint objective, relaxed autoencoder) and the survey's row; the
        steps follow from the objective
    :objective: \min\ \tfrac12\|\Phi-W_2B-c_2\|^2+\tfrac\lambda2\|B-W_1\Phi-c_1\|^2
        +\tfrac\beta2\big(\|W_1\|^2+\|W_2\|^2\big)
        +\tfrac\gamma2\sum_i\big(\|V_i^\top\varphi_i-1\|^2+\mu\|\varphi_i\|^2\big),\quad
        B\in\{-1,1\}^{K\times n};\qquad b(x)=\mathrm{sgn}(W_1\varphi(x)+c_1)
    :shapes: maps x (n, h, w, d) as local descriptors V (n, h w, d); phi (n, d), W1 (bits, d),
        W2 (d, bits) with bits <= d; codes int8 (n, bits)
    :defaults: lambda = 0.1 / bits x variance of phi, beta = 1e-3 n, gamma = 10, mu = 1, 5 rounds
        from ITQ codes; chosen here
    :departures: local descriptors are positions of frozen maps at unit length, not embedded SIFT or
        convolutional features of VGG; constants are not the paper's. As in the paper a new
        image is aggregated by generalized max pooling alone
    :fidelity: simplified
    """

    supervision = "unsupervised"
    reads = "maps"

    lam: float = 0.1
    beta: float = 1e-3
    gamma: float = 10.0
    mu: float = 1.0
    rounds: int = 5
    sweeps: int = 10

    def fit(self, split: Split, **loop: Any) -> Self:
        """Alternate from ITQ codes; raises ``ValueError`` when bits > d."""
        x = self._checked(split.x)
        self.dimensions_ = int(x.shape[-1])
        X = self._pool(x).astype(np.float64)
        variance = float(X.var(0).sum())
        if variance == 0:
            raise ValueError("all training rows are equal: there is nothing to hash")
        lam, beta = self.lam * variance / self.bits, self.beta * len(x)
        B = self._start(X)
        W2, c2 = ridge(B, X, beta)
        W1, c1 = ridge(X, B, beta / lam)
        self.history_ = [self._terms(x, X, B, W1, c1, W2, c2, lam, beta)]
        for _ in range(self.rounds):
            B = b_step(B, X - c2, W2.T, X @ W1.T + c1, lam, self.sweeps)
            W2, c2 = ridge(B, X, beta)
            W1, c1 = ridge(X, B, beta / lam)
            X = self._move(x, B, W1, c1, W2, c2, lam)
            self.history_.append(self._terms(x, X, B, W1, c1, W2, c2, lam, beta))
        self.W_, self.c_ = W1.T.astype(np.float32), c1.astype(np.float32)
        return self

    def _checked(self, x: NDArray[Any], dimensions: int | None = None) -> NDArray[Any]:
        if x.ndim != 4:
            raise ValueError(
                f"RBA reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
            )
        if dimensions is not None and x.shape[-1] != dimensions:
            raise ValueError(
                f"RBA was fitted on maps of {dimensions} channels and got {x.shape[-1]}"
            )
        return x

    def _pool(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Generalized max pooling of maps (n, h, w, d), (n, d)."""
        phi = np.empty((len(x), x.shape[-1]), np.float32)
        for a in range(0, len(x), _BLOCK):
            require_finite(x[a : a + _BLOCK], "RBA", a)
            phi[a : a + _BLOCK] = max_pooling(local_descriptors(x[a : a + _BLOCK]), self.mu)
        return phi

    def _move(self, x: NDArray[Any], B: Float, *weights: Any) -> Float:
        """The step of the aggregated vectors, (n, d)."""
        *arrays, lam = weights
        single = [w.astype(np.float32) for w in arrays]
        X = np.empty((len(x), x.shape[-1]))
        for a in range(0, len(x), _BLOCK):
            V, b = local_descriptors(x[a : a + _BLOCK]), B[a : a + _BLOCK].astype(np.float32)
            step = phi_step(V, b, *single, lam, self.gamma, self.mu)  # type: ignore[call-arg]
            X[a : a + _BLOCK] = step
        return X

    def _start(self, X: Float) -> Float:
        """Codes of ITQ (n, bits)."""
        mean, V, _ = principal_components(X, self.bits)
        P = (X - mean) @ V
        start = np.random.default_rng(self.seed).standard_normal((self.bits, self.bits))
        R = np.linalg.svd(start)[0]
        for _ in range(_ITQ_ROUNDS):
            R = rotate(P, R)
        codes: Float = sign(P @ R).astype(np.float64)
        return codes

    def _terms(
        self,
        x: NDArray[Any],
        X: Float,
        B: Float,
        W1: Float,
        c1: Float,
        W2: Float,
        c2: Float,
        lam: float,
        beta: float,
    ) -> dict[str, float]:
        """Terms of the objective divided by n."""
        n = len(x)
        spread = 0.0
        for a in range(0, n, _BLOCK):
            V, phi = local_descriptors(x[a : a + _BLOCK]), X[a : a + _BLOCK]
            spread += float(np.square(np.einsum("npd,nd->np", V, phi) - 1).sum())
        return {
            "reconstruction": float(np.square(X - B @ W2.T - c2).sum() / (2 * n)),
            "hashing": float(lam * np.square(B - X @ W1.T - c1).sum() / (2 * n)),
            "weights": float(beta * (np.square(W1).sum() + np.square(W2).sum()) / (2 * n)),
            "aggregation": float(self.gamma * (spread + self.mu * np.square(X).sum()) / (2 * n)),
        }

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """W_1 phi(x) + c_1 float32 (n, bits) of maps (n, h, w, d)."""
        self._require_fit()
        z: Descriptors = self._pool(self._checked(x, self.dimensions_)) @ self.W_ + self.c_
        return z

    def encode(self, x: NDArray[Any]) -> Codes:
        """Signs, int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes
