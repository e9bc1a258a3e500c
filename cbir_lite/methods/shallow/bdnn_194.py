"""BDNN [194]: binary deep neural network, with and without labels (survey Section VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cbir_lite.datasets import Split
from cbir_lite.methods.base import sign
from cbir_lite.methods.shallow._linear import pooled, principal_components
from cbir_lite.methods.shallow._liong import LayeredHash, Layers, descend
from cbir_lite.methods.shallow.itq import rotate
from cbir_lite.methods.shallow.sdh_liong import Pairs
from cbir_lite.methods.shallow.sdh_shen import b_step

Float = NDArray[Any]

WEIGHTS = {"unsupervised": (1e-5, 5e-2, 1e-2, 5e-7), "supervised": (1e-3, 5.0, 1.0, 1e-4)}
"""lambda_1 to lambda_4."""
_PUBLISHED = ([8, 16, 24, 32, 64], [90, 90, 100, 120, 180], [20, 30, 40, 50, 90])
"""Code lengths and hidden widths of the authors' code up to 32 bits, continued for 64."""
_ITQ_ROUNDS, _SWEEPS, _GAIN = 50, 10, 0.3


def widths(d: int, bits: int) -> tuple[int, int, int]:
    """Units of the three layers on d features, interpolated; hidden ones at most d."""
    lengths, *hidden = _PUBLISHED
    first, second = (max(bits, round(float(np.interp(bits, lengths, h)))) for h in hidden)
    return min(first, d), min(second, d), bits


def forward(X: Float, layers: Layers) -> list[Float]:
    """H^0 = X, two sigmoid layers, and the linear code layer: outputs (n, units)."""
    H = [X]
    for W, c in layers[:-1]:
        H.append(expit(H[-1] @ W.T + c))
    W, c = layers[-1]
    return [*H, H[-1] @ W.T + c]


def start(X: Float, sizes: tuple[int, ...]) -> Layers:
    """Each layer's weights are principal directions of its inputs, as far as there are any."""
    layers: Layers = []
    H = X
    for units in sizes:
        mean, V, deviation = principal_components(H, min(units, H.shape[1]))
        scale = _GAIN / (float(np.sqrt(np.square(deviation).mean())) or 1.0)
        W = np.zeros((units, H.shape[1]), np.float32)
        W[: V.shape[1]] = V.T * scale
        layers.append((W, (-W @ mean).astype(np.float32)))
        H = expit(forward(H, layers[-1:])[-1])
    return layers


def decoder(B: Float, X: Float, lam: float) -> tuple[Float, Float]:
    """W (bits, d), c (d,) that minimise |X - B W - c|^2 / 2n + lam |W|^2 / 2."""
    mean = B.mean(0)
    A = (B - mean).T @ (B - mean) / len(B) + lam * np.eye(B.shape[1])
    W = np.linalg.solve(A, (B - mean).T @ (X - X.mean(0)) / len(B))
    return W, X.mean(0) - mean @ W


@dataclass(kw_only=True, eq=False)
class BDNN(LayeredHash):
    r"""A hidden layer is the code: codes are variables, and the network learns to give them.

    Two sigmoid layers and a linear one give H, which shall agree with binary codes B, have bits
    that are uncorrelated, and use both values evenly. Without labels the codes must allow to
    rebuild the features linearly, and are found bit by bit given the network. With labels
    the inner products of H must tell whether two images share a label, and B is the sign of H.
    Codes and network take turns, the network by L-BFGS. ``history_`` holds the terms after
    each turn of the network; the first is a fit of H to codes of ITQ.

    :survey: Section VI-A
    :cite: do2020sdbnn
    :source: the authors' public MATLAB code of the unsupervised form (objective, steps, weights,
        widths) and the abstracts; the supervised form as known from the papers
    :objective: \min\ \ell+\frac{\lambda_1}{2}\sum_m\|W_m\|^2+\frac{\lambda_2}{2n}\|H-B\|^2
        +\frac{\lambda_3}{2}\big\|\tfrac1nHH^\top-I\big\|^2+\frac{\lambda_4}{2n}\|H\mathbf{1}\|^2,
        \quad\ell=\frac{1}{2n}\|X-W_{n-1}B-c\|^2\text{ without labels},\
        \ell=\frac{1}{2n}\big\|\tfrac1KH^\top H-S\big\|^2\text{ with},\ s_{ij}=\pm1
    :shapes: x (n, d), labels (n, C) or none; H (bits, n); codes int8 (n, bits)
    :defaults: lambda = 1e-5, 5e-2, 1e-2, 5e-7 (authors' code), supervised 1e-3, 5, 1, 1e-4
        (as recalled from the papers, whose text could not be searched); layer
        widths 120-50 below 32 bits and so on (authors' code), for 64 bits 180-90;
        5 turns of 40 steps
    :departures: features are reduced to 256 principal components of a range of 1; the layers
        start from centred, scaled principal directions; the decoder has its exact solution for
        each B; both forms first fit the codes of ITQ, since the supervised loss is flat at
        H = 0; the number of turns is fixed where the code stops by retrieval on validation
        images; the journal's end-to-end form on a convolutional network is left out
    :fidelity: simplified
    """

    supervision: ClassVar[str] = "unsupervised"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"supervised": {"variant": "supervised"}}

    variant: str = "unsupervised"
    rounds: int = 5
    steps: int = 40
    components: int = 256

    forward = staticmethod(forward)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in WEIGHTS:
            raise ValueError(f"variant={self.variant!r}: use 'unsupervised' or 'supervised'")

    @property
    def sees(self) -> str:
        """The variant is the supervision."""
        return self.variant

    def fit(self, split: Split, **loop: Any) -> Self:
        """Codes of ITQ, then turns of network and codes."""
        x = pooled(split.x, system="BDNN")
        pairs = Pairs(split.labels) if self.variant == "supervised" else None
        self.mean_, V, _ = principal_components(x, min(x.shape[1], self.components))
        self.P_ = (V / (float(np.ptp(x, axis=0).max()) or 1.0)).astype(np.float32)
        self.mean_ = self.mean_.astype(np.float32)
        X = (x - self.mean_) @ self.P_
        layers = start(X, widths(X.shape[1], self.bits))
        B = self._itq(X)
        self.history_: list[dict[str, float]] = []
        for turn in range(self.rounds + 1):
            shown = pairs if turn else None

            def value_and_gradient(
                at: Layers, B: Float = B, shown: Pairs | None = shown
            ) -> tuple[float, Layers]:
                H = forward(X, at)
                terms, slope = self.objective(B, H[-1], at, shown)
                return sum(terms.values()), self.gradient(slope.astype(X.dtype), H, at)

            layers = descend(layers, self.steps, value_and_gradient)
            H = forward(X, layers)[-1]
            self.history_.append(self.objective(B, H, layers, pairs)[0])
            if pairs is None:
                lam1, nu = WEIGHTS[self.variant][:2]
                W, c = decoder(B, X, lam1)
                B = b_step(B, X - c, W, H.astype(np.float64), nu, _SWEEPS)
            else:
                B = sign(H).astype(np.float64)
        self.keep(layers)
        return self

    def _itq(self, X: Float) -> Float:
        mean, V, _ = principal_components(X, min(self.bits, X.shape[1]))
        # With more bits than components, the rest of the bits are turns of the same ones.
        rng = np.random.default_rng(self.seed)
        Z = np.zeros((len(X), self.bits))
        Z[:, : V.shape[1]] = (X - mean) @ V
        R = np.linalg.qr(rng.standard_normal((self.bits, self.bits)))[0]
        for _ in range(_ITQ_ROUNDS):
            R = rotate(Z, R)
        return sign(Z @ R).astype(np.float64)

    def objective(
        self, B: Float, H: Float, layers: Layers, pairs: Pairs | None
    ) -> tuple[dict[str, float], Float]:
        """Terms that depend on the network, and their gradient in H (n, bits)."""
        l1, l2, l3, l4 = WEIGHTS[self.variant]
        H = H.astype(np.float64)
        n, bits = H.shape
        gram, total = H.T @ H, H.sum(0)
        deviation = gram / n - np.eye(bits)
        terms = {
            "size": l1 / 2 * sum(float(np.square(W).sum()) for W, _ in layers),
            "quantization": l2 / (2 * n) * float(np.square(H - B).sum()),
            "independence": l3 / 2 * float(np.square(deviation).sum()),
            "balance": l4 / (2 * n) * float(np.square(total).sum()),
        }
        slope = l2 / n * (H - B) + 2 * l3 / n * H @ deviation + l4 / n * total
        if pairs is not None:
            # s = 2 [share a label] - 1, and |H H^T|^2 = |H^T H|^2: no n x n matrix is needed.
            SH = 2 * (pairs.partners[:, None] * H - pairs.laplacians(H)[0]) - total
            fit = float(np.square(gram).sum()) / bits**2 - 2 * float((H * SH).sum()) / bits
            terms["similarity"] = (fit + n * n) / (2 * n)
            slope = slope + 2 / n * (H @ gram / bits**2 - SH / bits)
        return terms, slope

    def gradient(self, slope: Float, H: list[Float], layers: Layers) -> Layers:
        """Gradient in every W and c, given that in the code layer's outputs H[-1]."""
        l1 = WEIGHTS[self.variant][0]
        found: Layers = []
        for m in range(len(layers) - 1, -1, -1):
            W = layers[m][0]
            found.append((slope.T @ H[m] + l1 * W, slope.sum(0)))
            slope = (slope @ W) * H[m] * (1 - H[m])
        return found[::-1]
