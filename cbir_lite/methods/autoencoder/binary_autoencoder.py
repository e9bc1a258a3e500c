"""Binary autoencoder [127], trained with auxiliary coordinates (survey Section V-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.shallow._linear import LinearHash, pooled, principal_components
from cbir_lite.methods.shallow.itq import rotate

Float = NDArray[Any]

MU = (0.0,) * 4 + (5e-4,) * 4 + (1e-3,) * 3 + (2e-3, 2e-3, 5e-3, 5e-3, 0.01, 0.01, 0.05, 0.05, 0.2)
"""Schedule of the authors' demo, one value an iteration."""
_ENUMERATED_BITS = 12
_MAX_SWEEPS = 100
_BLOCK = 1024


def decoder(Z: Float, X: Float) -> tuple[Float, Float]:
    """f(z) = W z + c by least squares of X (n, p) on Z (n, bits): W (p, bits), c (p,)."""
    mean = Z.mean(0)
    W = np.linalg.lstsq(Z - mean, X - X.mean(0), rcond=None)[0].T
    return W, X.mean(0) - W @ mean


def energy(X: Float, Z: Float, H: Float, W: Float, c: Float, mu: float) -> Float:
    """|x_n - f(z_n)|^2 + mu |z_n - h(x_n)|^2 of each row, (n,)."""
    residual = X - c - Z @ W.T
    result: Float = np.square(residual).sum(1) + mu * np.square(Z - H).sum(1)
    return result


def relaxed(A: Float, b: Float, H: Float, mu: float, rounds: int = 100) -> Float:
    """Codes in [0, 1]^bits instead of {0, 1}^bits that minimise the energy, by ADMM, (n, bits).

    A = W^T W, b = (X - c) W. Stops when no entry moves by more than a thousandth.
    """
    spectrum = np.linalg.eigvalsh(A)
    r = max(float(np.sqrt(spectrum[-1] * max(spectrum[0], 0.0))), 1e-3 * float(spectrum[-1]), 1e-12)
    inverse = np.linalg.inv(A + r * np.eye(len(A), dtype=A.dtype))
    Z, Y = H, np.zeros_like(H)
    for _ in range(rounds):
        X = (b + r * (Z - Y)) @ inverse
        last, Z = Z, np.clip((mu * H + r * (X + Y)) / (mu + r), 0, 1)
        Y += X - Z
        if np.abs(Z - last).max() < 1e-3:
            break
    return Z


def coordinate_descent(A: Float, b: Float, H: Float, mu: float, Z: Float) -> Float:
    """Codes {0, 1} from a start Z in [0, 1]: each bit in turn takes its best value given the rest.

    The first sweep truncates a relaxed start greedily; sweeps go on until no bit changes.
    """
    Z = Z.copy()
    half = 0.5 * (np.diag(A) + mu)
    for _ in range(_MAX_SWEEPS):
        before = Z.copy()
        for k in range(Z.shape[1]):
            # Energy of bit k at 0 minus at 1, halved; where it is zero a binary bit stays.
            gain = b[:, k] - Z @ A[:, k] + Z[:, k] * A[k, k] + mu * H[:, k] - half[k]
            Z[:, k] = np.where(gain == 0, Z[:, k] >= 0.5, gain > 0)
        if np.array_equal(Z, before):
            break
    return Z


def enumerate_codes(A: Float, b: Float, H: Float, mu: float) -> Float:
    """The best of all 2^bits codes for each row, (n, bits)."""
    bits = len(A)
    codes = ((np.arange(2**bits)[:, None] >> np.arange(bits)) & 1).astype(A.dtype)
    own = np.einsum("ij,jk,ik->i", codes, A, codes) + mu * codes.sum(1)
    linear = b + mu * H
    best = [
        (own - 2 * linear[a : a + _BLOCK] @ codes.T).argmin(1) for a in range(0, len(b), _BLOCK)
    ]
    return codes[np.concatenate(best)]


def z_step(X: Float, Z: Float, H: Float, W: Float, c: Float, mu: float) -> Float:
    """Codes {0, 1} (n, bits) whose energy is nowhere above that of Z."""
    A, b = W.T @ W, (X - c) @ W
    if len(A) <= _ENUMERATED_BITS:
        found = enumerate_codes(A, b, H, mu)
    else:
        found = coordinate_descent(A, b, H, mu, relaxed(A, b, H, mu))
    better = energy(X, found, H, W, c, mu) < energy(X, Z, H, W, c, mu)
    return np.where(better[:, None], found, Z)


def svm_loss(scores: Float, y: Float, g: Float, s: Float, C: float) -> Float:
    """|w|^2 / 2 + C sum max(0, 1 - y h)^2 of each bit, (bits,); w = V g / s in the basis of X."""
    hinge = np.square(np.maximum(0, 1 - y * scores)).sum(0)
    result: Float = 0.5 * np.square(g / s[:, None]).sum(0) + C * hinge
    return result


def svm(
    U: Float, s: Float, y: Float, C: float, start: Float | None, rounds: int
) -> tuple[Float, Float, Float]:
    """Linear SVMs with squared hinge, all bits at once: g (r, bits), c (bits,), scores (n, bits).

    ``U`` (n, r) orthonormal and ``s`` (r,) with X = U diag(s) V^T centred; y (n, bits) in {-1, 1};
    scores = U g + c. A row beyond its margin pulls to where it is, any other to y: the squares to
    these targets touch the loss from above, so that solving for them never raises it.
    """
    shrink = (2 * C * s**2 / (2 * C * s**2 + 1))[:, None]
    scores = y if start is None else start
    for _ in range(rounds):
        target = np.where(y * scores > 1, scores, y)
        c = target.mean(0)
        g = shrink * (U.T @ target)
        scores = U @ g + c
    return g, c, scores


@dataclass(kw_only=True, eq=False)
class BinaryAutoencoder(LinearHash):
    r"""Codes from which the descriptor can be rebuilt: linear hash functions, linear decoder.

    The step function between them has no gradient, so each row gets its code z as an auxiliary
    coordinate. In turn: the decoder is fitted to the codes by least squares, one linear SVM a
    bit learns to predict them, and the codes are optimised row by row, with a price mu for leaving
    what the hash functions say that rises until both agree. ``history_`` holds, for each
    iteration, mu, the two terms per row before and after the codes' step, and the neighbour
    precision by which steps are kept.

    :survey: Sections V-B, VI-A
    :cite: carreira2015ba
    :source: the authors' public MATLAB code (steps, schedule, constants, check of precision)
    :objective: \min_{h,f,Z}\ \sum_n\|x_n-f(z_n)\|^2+\mu\|z_n-h(x_n)\|^2,\quad z_n\in\{0,1\}^K,\
        h(x)=\mathrm{step}(Ax+a),\ f(z)=Wz+c
    :shapes: x (n, d) with bits <= d; codes int8 (n, bits)
    :defaults: mu from 0 to 0.2 in 20 iterations for features scaled to a range of 1, C = 100,
        200 rows to check the precision at max(10, n/500) neighbours (authors' demo and code);
        256 components, about as many dimensions as the paper's features have
    :departures: the hash functions see the first 256 principal components (the decoder rebuilds all
        dimensions); the SVMs are fitted by repeated least squares to moving targets,
        warm-started, for a fixed number of rounds; all codes of up to 12 bits are enumerated
        (code: up to 15); a row keeps its code where the codes' step found none better
    :fidelity: simplified
    """

    supervision = "unsupervised"

    components: int = 256
    C: float = 100.0
    svm_rounds: int = 30

    def fit(self, split: Split, **loop: Any) -> Self:
        """Method of auxiliary coordinates from ITQ codes; raises ``ValueError`` when bits > d."""
        x = pooled(split.x, system="BinaryAutoencoder")
        mean, V, deviation = principal_components(x, max(self.bits, x.shape[1]))
        scale = float(np.ptp(x, axis=0).max())
        if scale == 0:
            raise ValueError("all training rows are equal: there is nothing to hash")
        X = ((x - mean) @ V / scale).astype(np.float32)
        rank = min(self.components, int((deviation > 0).sum()))
        s = (deviation[:rank] / scale * np.sqrt(len(x))).astype(np.float32)
        U = X[:, :rank] / s
        g, c = self._alternate(X, U, s)
        self._keep(mean, V[:, :rank] @ (g / s[:, None]) / scale, c)
        return self

    def _alternate(self, X: Float, U: Float, s: Float) -> tuple[Float, Float]:
        rng = np.random.default_rng(self.seed)
        near = _Neighbours(X, rng)
        Z = _itq(X[:, : self.bits], rng)
        self.history_: list[dict[str, float]] = []
        best, kept, scores, i = -1.0, None, None, 0
        while i < len(MU):
            W, c = decoder(Z, X)
            g, offset, scores = svm(U, s, 2 * Z - 1, self.C, scores, self.svm_rounds)
            H = (scores >= 0).astype(np.float32)
            precision = near.precision(H)
            if precision < best:
                # Undo, and leave the rest of this mu out.
                assert kept is not None
                W, c, g, offset, scores, H, Z = kept
                i += MU[i:].count(MU[i])
                if i >= len(MU):
                    break
            best = max(best, precision)
            kept = W, c, g, offset, scores, H, Z
            found = z_step(X, Z, H, W, c, MU[i])
            self.history_.append(
                {
                    "mu": MU[i],
                    "precision": best,
                    "before": float(energy(X, Z, H, W, c, MU[i]).mean()),
                    "after": float(energy(X, found, H, W, c, MU[i]).mean()),
                    "disagreement": float((found != H).mean()),
                }
            )
            Z = found
            if np.array_equal(Z, H):
                break
            i += 1
        return g, offset


def _itq(V: Float, rng: np.random.Generator, iterations: int = 50) -> Float:
    """Codes {0, 1} of ITQ from principal components V (n, bits)."""
    bits = V.shape[1]
    R: Float = np.linalg.svd(rng.standard_normal((bits, bits)))[0]
    for _ in range(iterations):
        R = rotate(V, R)
    return (V @ R >= 0).astype(np.float32)


class _Neighbours:
    """How many of the k nearest rows are found by the codes, for some rows of the training set."""

    def __init__(self, X: Float, rng: np.random.Generator, rows: int = 200):
        self.k = min(max(10, len(X) // 500), len(X))
        self.rows = rng.choice(len(X), min(rows, len(X)), replace=False)
        d = np.square(X).sum(1) - 2 * X[self.rows] @ X.T
        nearest = np.argpartition(d, self.k - 1, axis=1)[:, : self.k]
        self.relevant = np.zeros(d.shape, bool)
        np.put_along_axis(self.relevant, nearest, True, axis=1)

    def precision(self, H: Float) -> float:
        """Precision of the first k by Hamming distance, in expectation over the order of ties."""
        bits = 2 * H - 1
        d = -bits[self.rows] @ bits.T
        kth = np.partition(d, self.k - 1, axis=1)[:, self.k - 1 : self.k]
        sure, tied = d < kth, d == kth
        share = (self.k - sure.sum(1)) / tied.sum(1)
        found = (sure & self.relevant).sum(1) + share * (tied & self.relevant).sum(1)
        return float(found.mean() / self.k)
