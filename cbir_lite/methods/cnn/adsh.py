"""ADSH [104]: asymmetric deep supervised hashing (survey Sections IV-A, VII-H)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, require_finite, sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label

_BLOCK_ELEMENTS = 1 << 24


@dataclass(kw_only=True, eq=False)
class ADSH(DeepMethod):
    r"""A network hashes queries only; the codes V of the database are learned directly.

    Each round draws Omega from the database, trains the network on it for some epochs with V
    fixed, then sets V bit by bit to the signs that minimise the objective with U fixed.

    The sums over the whole database are exact but never formed pair by pair: with V fixed,
    sum_j (u'v_j - K s_ij)^2 = u'(V'V)u - 2K u' sum_j s_ij v_j + K^2 sum_j s_ij^2, and rows of one
    label set share their similarities.

    :survey: Sections IV-A, VII-H; Table II
    :cite: jiang2018adsh
    :source: the paper and the authors' public code in both languages (sizes, gamma, value of a
        dissimilar pair; the column-wise update is that of the Python version, the other one puts
        sgn(u) in the similarity term)
    :objective: \min_{\Theta,V}\ \sum_{i\in\Omega}\sum_j\big(u_i^\top v_j-Ks_{ij}\big)^2
        +\gamma\sum_{i\in\Omega}\|v_i-u_i\|_2^2,\quad u_i=\tanh(F(x_i;\Theta)),
        \ v_j\in\{\pm1\}^K,\ s_{ij}=1\text{ if similar, else }-|S_1|/|S_0|
    :shapes: database x (m, d) and labels (m, C); F(x) (n, K) with K = bits; V int8 (m, K)
    :defaults: gamma = 200, 2000 rows in Omega, 50 rounds of 3 epochs, batches of 64 (public code)
    :departures: the paper's CNN trained end to end is replaced by a hidden layer on frozen
        features; Adam with cosine decay instead of SGD; V starts from random signs, and its step
        takes outputs of the network as it is after the epochs, in the code those recorded while
        batches passed
    :fidelity: simplified
    """

    learns_database: ClassVar[bool] = True

    epochs: int = 150
    batch_size: int = 64
    gamma: float = 200.0
    sample: int = 2000
    inner_epochs: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError(
                "validation must be 0: ADSH learns a code for every row of the database; to choose "
                "hyper-parameters fit on Protocol.validation_split"
            )
        if self.sample < 2 or self.inner_epochs < 1:
            raise ValueError(
                f"sample={self.sample} must be at least 2, inner_epochs={self.inner_epochs} at "
                "least 1"
            )

    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from ``split.database``; raises ``ValueError`` if the split has none."""
        if split.database is None:
            raise ValueError(
                "ADSH learns the codes of the database: pass a split with database= "
                "(Split.from_protocol(..., with_database=True))"
            )
        database = split.database
        super().fit(database, **loop)
        self._update_codes(database.x)
        self.codes_: Codes = self.memory_["V"].to(torch.int8).numpy()
        self.probe_: NDArray[np.float64] = self._probe(database.x)
        self.memory_ = {}
        return self

    # -- rounds --------------------------------------------------------------------------------

    def start_fit(self, data: TrainingData) -> None:
        """Random codes V, and the label sets of the database with their members."""
        assert data.y is not None
        kinds, kind = data.y.unique(dim=0, return_inverse=True)
        V = sign(torch.randn(len(data), self.bits, generator=self._generator(-1))).float()
        self.memory_ = {"V": V, "kinds": kinds, "kind": kind}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """At the start of a round: update V for the last Omega, draw the next."""
        if epoch % self.inner_epochs:
            return
        if epoch:
            self._update_codes(data.x)
        order = torch.randperm(len(data), generator=self._generator(epoch))
        omega = order[: self.sample]
        V, n = self.memory_["V"], len(data)
        dissimilar = self._value_of_dissimilar(omega)
        P, squares = torch.zeros(n, self.bits), torch.zeros(n)
        P[omega], similar = self._similarity_times(V, omega, dissimilar)
        squares[omega] = similar + (n - similar) * dissimilar**2
        self.memory_ |= {
            "omega": omega,
            "dissimilar": dissimilar,
            "G": V.T @ V,
            "P": P,
            "squares": squares,
        }

    def _batches(self, data: TrainingData, epoch: int) -> Iterator[Batch]:
        omega = self.memory_["omega"]
        order = omega[torch.randperm(len(omega), generator=self._generator(self.epochs + epoch))]
        for index in order.split(self.batch_size):
            yield data.batch(index)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Asymmetric similarity and agreement with V, divided by batch x database size."""
        u = torch.tanh(self.network_(batch.x))
        K, V, G = self.bits, self.memory_["V"], self.memory_["G"]
        P, squares = self.memory_["P"][batch.index], self.memory_["squares"][batch.index]
        pairs = len(u) * len(V)
        similarity = ((u @ G) * u).sum() - 2 * K * (u * P).sum() + K**2 * squares.sum()
        return {
            "similarity": similarity / pairs,
            "agreement": self.gamma * (V[batch.index] - u).square().sum() / pairs,
        }

    def _update_codes(self, x: Tensor | NDArray[Any]) -> None:
        """Each bit of V in turn, in closed form given the others, U = tanh F(x_Omega) fixed."""
        V, omega, K = self.memory_["V"], self.memory_["omega"], self.bits
        U = torch.tanh(self.outputs(x[omega.numpy()]))
        Q = -2 * K * self._similarity_transposed_times(U)
        Q[omega] -= 2 * self.gamma * U
        # A bit of all rows lies in one piece, and weighs nothing in its own update.
        others, bits, Q = (U.T @ U).fill_diagonal_(0), V.T.contiguous(), Q.T.contiguous()
        for k in range(K):
            bits[k] = sign(-(2 * others[k] @ bits + Q[k])).float()
        V.copy_(bits.T)

    # -- similarity without the n x m matrix ---------------------------------------------------

    def _value_of_dissimilar(self, omega: Tensor) -> Tensor:
        """-|S1|/|S0| over Omega x database (0 when every pair is similar)."""
        one = torch.ones(len(self.memory_["V"]), 1)
        s1 = self._shared_sums(one, omega).double().sum()
        s0 = len(omega) * len(one) - s1
        return (-s1 / s0).float() if s0 > 0 else torch.tensor(0.0)

    def _shared_sums(self, values: Tensor, omega: Tensor) -> Tensor:
        """Sums (|Omega|, k) of the rows of ``values`` (m, k) that share a label with each row."""
        kinds, kind = self.memory_["kinds"], self.memory_["kind"]
        sums = torch.zeros(len(kinds), values.shape[1]).index_add_(0, kind, values)
        step = max(1, _BLOCK_ELEMENTS // len(kinds))
        return torch.cat([shares_label(kinds[i], kinds) @ sums for i in kind[omega].split(step)])

    def _similarity_times(
        self, V: Tensor, omega: Tensor, dissimilar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """S V (|Omega|, K) and the number of similar rows (|Omega|,)."""
        sums = self._shared_sums(torch.cat([V, torch.ones(len(V), 1)], 1), omega)
        return (1 - dissimilar) * sums[:, :-1] + dissimilar * V.sum(0), sums[:, -1]

    def _similarity_transposed_times(self, U: Tensor) -> Tensor:
        """S' U (m, K)."""
        kinds, kind, omega = (self.memory_[k] for k in ("kinds", "kind", "omega"))
        dissimilar = self.memory_["dissimilar"]
        y = kinds[kind[omega]]
        step = max(1, _BLOCK_ELEMENTS // len(omega))
        sums = torch.cat([shares_label(block, y) @ U for block in kinds.split(step)])
        return (1 - dissimilar) * sums[kind] + dissimilar * U.sum(0)

    # -- the two sides -------------------------------------------------------------------------

    @staticmethod
    def _probe(x: NDArray[Any]) -> NDArray[np.float64]:
        rows = np.linspace(0, len(x) - 1, 16).astype(np.int64)
        return np.asarray(x[rows], np.float64).reshape(len(rows), -1).sum(1)

    def encode_database(self, x: NDArray[Any]) -> Codes:
        """The learned codes V int8 (m, bits); ``x`` must be the database of ``fit``, in order."""
        self._require_fit()
        self._check_input(x)
        require_finite(x, type(self).__name__)
        if len(x) != len(self.codes_) or not np.allclose(self._probe(x), self.probe_, rtol=1e-5):
            raise ValueError(
                f"ADSH learned the codes of a database of {len(self.codes_)} rows and got "
                f"{len(x)} rows that are not that database in its order; encode() hashes new images"
            )
        return self.codes_
