"""UH-BDNN [186]: unsupervised hashing with a binary deep neural network (survey Section VI-A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Descriptors, Method, sign
from cbir_lite.methods.shallow._linear import pooled, principal_components
from cbir_lite.methods.shallow.itq import ITQ
from cbir_lite.methods.shallow.sdh_shen import b_step


def hidden_layer(theta: list[Tensor], X: Tensor) -> Tensor:
    """H (m, bits) of inputs X (m, p): two sigmoid layers and a linear one."""
    a = torch.sigmoid(X @ theta[0] + theta[1])
    a = torch.sigmoid(a @ theta[2] + theta[3])
    return a @ theta[4] + theta[5]


def decoding_error(X: Tensor, B: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """|X - (B W + c)|^2 of inputs X (m, p) and codes B (m, bits), given W (bits, p) and c (p,).

    With X and B fixed it is a quadratic form of W and c: no call needs another pass over the rows.
    """
    # In float64, for the result is a small difference of large numbers.
    A, X = torch.cat([B, B.new_ones(len(B), 1)], 1).double(), X.double()
    size, cross, gram = X.square().sum(), A.T @ X, A.T @ A

    def error(W: Tensor, c: Tensor) -> Tensor:
        V = torch.cat([W, c[None]]).double()
        return (size + ((gram @ V - 2 * cross) * V).sum()).float()

    return error


def first_weights(X: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Weights and biases to start from: leading eigenvectors of each layer's a^T a, and zeros.

    The decoder starts by copying the bits into the first inputs.
    """
    theta, a = [], X
    for size in sizes:
        V = torch.linalg.eigh(a.double().T @ a.double())[1].flip(1)[:, :size].to(X.dtype)
        # The sign of an eigenvector is arbitrary; fixed, results do not depend on the machine.
        V = V * torch.sign(V.gather(0, V.abs().argmax(0)[None]))
        theta += [V.contiguous(), torch.zeros(size)]
        a = torch.sigmoid(a @ V)
    return [*theta, torch.eye(sizes[-1], X.shape[1]), torch.zeros(X.shape[1])]


@dataclass(kw_only=True, eq=False)
class UHBDNN(Method):
    r"""A network whose last hidden layer is to be binary, independent and balanced, and to suffice.

    A linear decoder rebuilds the input from auxiliary codes B that are exactly binary; the hidden
    layer H is to agree with them. Two steps alternate from ITQ codes: all weights by L-BFGS with
    the codes fixed, and the codes bit by bit in closed form with the weights fixed. Neither raises
    the objective. Rows of the matrices here are images. ``history_`` holds the terms after each
    step of the weights, and the objective ``before`` it and ``after`` it.

    :survey: Section VI-A; Tables II, III
    :cite: do2016uhbdnn
    :source: the first authors' public MATLAB code (objective, weights, layer sizes, start, steps)
    :objective: \min_{W,c,B}\ \tfrac1{2m}\|X-(BW_4+\mathbf1c_4^\top)\|^2
        +\tfrac{\lambda_1}2\sum_l\|W_l\|^2+\tfrac{\lambda_2}{2m}\|H-B\|^2
        +\tfrac{\lambda_3}2\|\tfrac1mH^\top H-I\|^2+\tfrac{\lambda_4}{2m}\|H^\top\mathbf1\|^2,
        \quad B\in\{-1,1\}^{m\times K}
    :shapes: x (n, d) with bits <= d; hidden layers as wide as the paper's but at most as wide as
        their input; H (n, bits); codes int8 (n, bits)
    :defaults: lambda 1 to 4 = 1e-5, 5e-2, 1e-2, 5e-7, 10 sweeps over the bits, features scaled to a
        range of one (public code: each from its own minimum, by the widest range); hidden sizes as
        published for 8, 16, 24 and 32 bits and extended by the same steps beyond; 256 directions, 5
        rounds of at most 75 iterations
    :departures: the features are turned to their principal directions and all but 256 dropped, so
        the decoder rebuilds the kept directions only; fewer rounds and iterations (public code: at
        most 20 rounds of 400, ended when the mAP of Euclidean neighbours on held-out rows stops
        rising); the codes' step starts from the last codes, not from zero, so that it cannot raise
        the objective
    :fidelity: simplified
    """

    supervision = "unsupervised"

    lambda1: float = 1e-5
    lambda2: float = 5e-2
    lambda3: float = 1e-2
    lambda4: float = 5e-7
    components: int = 256
    rounds: int = 5
    iterations: int = 75
    sweeps: int = 10

    @property
    def hidden(self) -> tuple[int, int]:
        """Units of the two sigmoid layers, which grow with the code length."""
        return max(90, 40 + 5 * self.bits // 2), 10 + 5 * self.bits // 4

    def fit(self, split: Split, **loop: Any) -> Self:
        """The network given the codes of ITQ, then codes and network in turn.

        Raises ``ValueError`` when bits exceeds d.
        """
        x = pooled(split.x, system="UHBDNN")
        self.low_, self.scale_ = float(x.min()), float(np.ptp(x))
        if self.scale_ == 0:
            raise ValueError("all training rows are equal: there is nothing to hash")
        p = max(self.bits, min(self.components, x.shape[1]))
        self.V_ = principal_components(x, p)[1].astype(np.float32)
        X = torch.from_numpy(self._inputs(x))
        B = ITQ(bits=self.bits, seed=self.seed).fit(split).encode(x).astype(np.float64)
        first, second = self.hidden
        sizes = (min(first, p), min(second, first, p), self.bits)
        theta = [t.requires_grad_() for t in first_weights(X, sizes)]
        self.history_: list[dict[str, float]] = []
        self.network_step(theta, X, torch.from_numpy(B).float())
        for _ in range(self.rounds):
            B = self.codes_step(theta, X, B)
            self.network_step(theta, X, torch.from_numpy(B).float())
        self.theta_ = [t.detach() for t in theta[:6]]
        return self

    def terms(
        self,
        theta: list[Tensor],
        X: Tensor,
        B: Tensor,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The objective's terms for inputs X (m, p) and codes B (m, bits), weights included.

        ``error`` is :func:`decoding_error` of X and B, if it is known already.
        """
        m, H = len(X), hidden_layer(theta, X)
        error = error or decoding_error(X, B)
        size = torch.stack([w.square().sum() for w in theta[::2]]).sum()
        return {
            "reconstruction": error(*theta[6:]) / (2 * m),
            "weights": self.lambda1 / 2 * size,
            "binary": self.lambda2 / (2 * m) * (H - B).square().sum(),
            "independence": self.lambda3 / 2 * (H.T @ H / m - torch.eye(self.bits)).square().sum(),
            "balance": self.lambda4 / (2 * m) * H.sum(0).square().sum(),
        }

    def network_step(self, theta: list[Tensor], X: Tensor, B: Tensor) -> None:
        """L-BFGS over all weights and biases with the codes B (m, bits) fixed, in place."""
        optimiser = torch.optim.LBFGS(
            theta, max_iter=self.iterations, history_size=20, line_search_fn="strong_wolfe"
        )

        error = decoding_error(X, B)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = torch.stack(list(self.terms(theta, X, B, error).values())).sum()
            loss.backward()
            return loss

        before = closure().item()
        optimiser.step(closure)
        with torch.no_grad():
            terms = {k: v.item() for k, v in self.terms(theta, X, B, error).items()}
        self.history_.append({**terms, "before": before, "after": sum(terms.values())})

    def codes_step(self, theta: list[Tensor], X: Tensor, B: NDArray[Any]) -> NDArray[np.float64]:
        """Codes (m, bits) from B by discrete cyclic coordinate descent, the weights fixed."""
        with torch.no_grad():
            W, c, H = (t.double().numpy() for t in (*theta[6:], hidden_layer(theta, X)))
        return b_step(B, X.double().numpy() - c, W, H, self.lambda2, self.sweeps)

    def _inputs(self, x: NDArray[Any]) -> NDArray[np.float32]:
        inputs: NDArray[np.float32] = (
            (x - np.float32(self.low_)) @ self.V_ / np.float32(self.scale_)
        )
        return inputs

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """H, float32 (n, bits)."""
        self._require_fit()
        X = torch.from_numpy(self._inputs(pooled(x, len(self.V_), "UHBDNN")))
        H: Descriptors = hidden_layer(self.theta_, X).numpy()
        return H

    def encode(self, x: NDArray[Any]) -> Codes:
        """sgn(H), int8 (n, bits)."""
        codes: Codes = sign(self.embed(x))
        return codes
