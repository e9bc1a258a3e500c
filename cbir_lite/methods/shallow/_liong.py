"""The tanh network of Liong et al. [110] and its descent, shared by DH and SDH of 2015."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Descriptors, Method, sign
from cbir_lite.methods.shallow._linear import pooled, principal_components

Float = NDArray[Any]
Layers = list[tuple[Float, Float]]
"""W (out, in) and c (out,) of each layer."""

_PUBLISHED = ([16, 32, 64], [60, 80, 100], [30, 50, 80])
"""Code lengths of the paper, and its widths of the two layers below the code."""


def widths(d: int, bits: int) -> tuple[int, int, int]:
    """Units of the three layers on d features: the paper's, interpolated, but hidden ones <= d."""
    lengths, *hidden = _PUBLISHED
    first, second = (max(bits, round(float(np.interp(bits, lengths, h)))) for h in hidden)
    return min(first, d), min(second, d), bits


def start(X: Float, sizes: tuple[int, ...], rng: np.random.Generator) -> Layers:
    """Each layer from the principal directions of its input, turned at random.

    W W^T = I where a layer has no more units than inputs. The turn makes the units of a layer
    alike; principal components themselves carry less and less.
    """
    layers: Layers = []
    H = X
    for units in sizes:
        turn = np.linalg.qr(rng.standard_normal((units, units)))[0]
        k = min(units, H.shape[1])
        mean, V, _ = principal_components(H, k)
        W = turn[:, :k] @ V.T
        layers.append((W.astype(np.float32), (-W @ mean).astype(np.float32)))
        H = forward(H, layers[-1:])[-1]
    return layers


def forward(X: Float, layers: Layers) -> list[Float]:
    """H^0 = X, ..., H^M: outputs (n, units) of every layer."""
    H = [X]
    for W, c in layers:
        H.append(np.tanh(H[-1] @ W.T + c))
    return H


def variance(H: Float) -> tuple[dict[str, float], Float]:
    """Half the mean square of outputs H (n, bits) around their means, and its gradient."""
    centred = H - H.mean(0, dtype=np.float64)
    return {"balance": float(np.square(centred).sum()) / (2 * len(H))}, centred / len(H)


def _identity_error(W: Float) -> Float:
    error: Float = W @ W.T - np.eye(len(W), dtype=W.dtype)
    return error


def pack(layers: Layers) -> Float:
    """All weights as one vector, float64."""
    return np.concatenate([np.append(W.ravel(), c) for W, c in layers]).astype(np.float64)


def unpack(theta: Float, shapes: list[tuple[int, ...]]) -> Layers:
    """The layers, float32, whose W have ``shapes``, from a vector of :func:`pack`."""
    layers: Layers = []
    for units, inputs in shapes:
        W, c, theta = np.split(theta, [units * inputs, units * (inputs + 1)])
        layers.append((W.reshape(units, inputs).astype(np.float32), c.astype(np.float32)))
    return layers


def descend(
    layers: Layers, steps: int, value_and_gradient: Callable[[Layers], tuple[float, Layers]]
) -> Layers:
    """Lower an objective of all weights together by some steps of L-BFGS."""
    shapes = [W.shape for W, _ in layers]

    def of_vector(theta: Float) -> tuple[float, Float]:
        value, gradient = value_and_gradient(unpack(theta, shapes))
        return value, pack(gradient)

    found = minimize(
        of_vector, pack(layers), jac=True, method="L-BFGS-B", options={"maxiter": steps}
    )
    return unpack(found.x, shapes)


@dataclass(kw_only=True, eq=False)
class LayeredHash(Method):
    """Layers on projected features (x - mean_) P_; what ``fit`` learns is kept layer by layer."""

    @staticmethod
    @abstractmethod
    def forward(X: Float, layers: Layers) -> list[Float]:
        """H^0 = X, ..., H^M: outputs (n, units) of every layer."""

    def keep(self, layers: Layers) -> None:
        """Hold W and c of each layer as learned attributes."""
        for m, (W, c) in enumerate(layers, 1):
            setattr(self, f"W{m}_", W)
            setattr(self, f"c{m}_", c)

    @property
    def layers(self) -> Layers:
        """W^m (out, in) and c^m (out,) of the three layers."""
        self._require_fit()
        return [(getattr(self, f"W{m}_"), getattr(self, f"c{m}_")) for m in (1, 2, 3)]

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Top outputs H^M, float32 (n, bits)."""
        layers = self.layers
        mean: Float = vars(self)["mean_"]
        projection: Float = vars(self)["P_"]
        x = pooled(x, len(mean), type(self).__name__)
        H: Descriptors = self.forward((x - mean) @ projection, layers)[-1]
        return H

    def encode(self, x: NDArray[Any]) -> Codes:
        """sgn(H^M), int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes


@dataclass(kw_only=True, eq=False)
class TanhHash(LayeredHash):
    """Signs B and the weights of J1 - lam1 J2 + lam2 J3 + lam3 J4 in turn, on all rows at once.

    J1 and J2 are means over rows (or pairs). ``history_`` holds the terms at the start and after
    each round, with the signs of that moment.
    """

    lam1: float = 0.3
    lam2: float = 1.0
    lam3: float = 1e-6
    rounds: int = 10
    steps: int = 10
    components: int = 256

    forward = staticmethod(forward)

    def prepare(self, split: Split) -> None:
        """Before the descent: what J2 needs of the split."""

    @abstractmethod
    def spread(self, H: Float) -> tuple[dict[str, float], Float]:
        """Named parts of J2 for top outputs H (n, bits), and the gradient of their sum."""

    def objective(self, B: Float, H: Float, layers: Layers) -> tuple[dict[str, float], Float]:
        """Terms of J, weights included, and the gradient (n, bits) of those that depend on H."""
        parts, slope = self.spread(H)
        apart = sum(float(np.square(_identity_error(W)).sum()) for W, _ in layers)
        size = sum(float(np.square(W).sum() + np.square(c).sum()) for W, c in layers)
        terms = {
            "quantization": float(np.square(B - H).sum(dtype=np.float64)) / (2 * len(H)),
            **{k: -self.lam1 * v for k, v in parts.items()},
            "independence": self.lam2 / 2 * apart,
            "size": self.lam3 / 2 * size,
        }
        return terms, (H - B) / len(H) - self.lam1 * slope

    def gradient(self, slope: Float, H: list[Float], layers: Layers) -> Layers:
        """Gradient of J in every W and c, given that in the top outputs H[-1]."""
        found: Layers = []
        for (W, c), below, above in zip(layers[::-1], H[-2::-1], H[:0:-1], strict=True):
            delta = slope * (1 - np.square(above))
            dW = delta.T @ below + 2 * self.lam2 * _identity_error(W) @ W + self.lam3 * W
            found.append((dW, delta.sum(0) + self.lam3 * c))
            slope = delta @ W
        return found[::-1]

    def fit(self, split: Split, **loop: Any) -> Self:
        """Principal components of the features, then rounds of signs and weights."""
        x = pooled(split.x, system=type(self).__name__)
        sizes = widths(min(x.shape[1], self.components), self.bits)
        self.mean_ = x.mean(0)
        std = x.std(0)
        std = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, np.float32(1))
        V, deviation = principal_components(x / std, min(x.shape[1], self.components))[1:]
        # The first layer's outputs have unit variance at the start: neither linear nor flat.
        scale = float(np.sqrt(np.square(deviation[: sizes[0]]).mean())) or 1.0
        self.P_ = (V / (std[:, None] * scale)).astype(np.float32)
        X = (x - self.mean_) @ self.P_
        self.prepare(split)
        layers = start(X, sizes, np.random.default_rng(self.seed))
        H = forward(X, layers)[-1]
        self.history_ = [self.objective(sign(H), H, layers)[0]]
        for _ in range(self.rounds):
            B = sign(H)

            def value_and_gradient(at: Layers, B: Float = B) -> tuple[float, Layers]:
                H = forward(X, at)
                terms, slope = self.objective(B, H[-1], at)
                return sum(terms.values()), self.gradient(slope.astype(X.dtype), H, at)

            layers = descend(layers, self.steps, value_and_gradient)
            H = forward(X, layers)[-1]
            self.history_.append(self.objective(sign(H), H, layers)[0])
        self.keep(layers)
        return self
