"""SPDAQ [223]: similarity preserving deep asymmetric quantization (survey Section VII-H)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.base import require_finite
from cbir_lite.methods.deep import Batch, TrainingData, shares_label
from cbir_lite.methods.quantizers import (
    Bottleneck,
    LookUpMethod,
    add_words,
    class_shares,
    draw_words,
    icm_codes,
    least_squares_words,
    spread_words,
)


class Embedding(Bottleneck):
    """A bottleneck u and a linear classifier that reads it."""

    def __init__(self, x: NDArray[Any], width: int, R: int, dropout: float, n_classes: int):
        super().__init__(x, width, R, dropout)
        self.classifier = nn.Linear(R, n_classes)


def ideal_vectors(U: Tensor, S: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """v (k, R) best for similarities S (n, k) to rows U (n, R), and the root of its metric (R, R).

    The mean over rows of (u'v - s)^2 plus ridge |v|^2 is, up to a constant,
    |(v - v_best) root|^2 for any other v.
    """
    A = U.T.double() @ U.double() / len(U) + ridge * torch.eye(U.shape[1], dtype=torch.float64)
    ideal = torch.linalg.solve(A, U.T.double() @ S.double() / len(U)).T
    return ideal.float(), torch.linalg.cholesky(A).float()


@dataclass(kw_only=True, eq=False)
class SPDAQ(LookUpMethod):
    r"""A network embeds queries only; the word numbers of the database are learned directly.

    Each epoch draws a subset of the database. Codes and codebooks of the whole database are set so
    that inner products with the embeddings of the subset give its similarities; then the network
    is trained on the subset, against all of the database and with a classifier beside it. The two
    sides are never pulled together except through their inner products.

    The objective knows a database image by its labels only, so images of one label set are solved
    for once and share a code, and sums over the database are sums over label sets.

    :survey: Sections VII-H, IX; Tables II, IV
    :cite: chen2019spdaq
    :source: a summary of the paper (asymmetric quantizer distance in place of the similarity,
        composite quantization, a subset against all of the database, the classification loss,
        maximum inner product, no separate quantization weight) and a later survey of deep hashing
    :objective: \min_{\Theta,W,C,b}\ \frac1{|\Omega|N}\sum_{i\in\Omega}\sum_{j=1}^N
        \big(u_i^\top\textstyle\sum_mC_mb_{jm}-s_{ij}\big)^2
        +\lambda\,\mathrm{mean}_{i\in\Omega}\,\mathrm{CE}(y_i,Wu_i),\quad s_{ij}\in\{-1,1\}
    :shapes: database x (N, d) and labels (N, C); u (n, R) in (-1, 1); codebooks (M, 2^(bits/M), R);
        database uint8 (N, M), queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 64 (cut to a multiple of M), 5000 rows in Omega, drawn
        every epoch, 2 updates of codes and codebooks before it; lambda = 1 and ridge = 1e-3 chosen
        on a held-out part of the training images
    :departures: the weights, the size of the embedding and the schedule are this package's, since
        the paper's text was not at hand; a small ridge keeps database vectors determined; the
        network is a hidden layer on frozen features instead of one trained end to end; Adam with
        cosine decay
    :fidelity: simplified
    """

    learns_database: ClassVar[bool] = True

    dim: int = 64
    lam: float = 1.0
    sample: int = 5000
    ridge: float = 1e-3
    iterations: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation or self.sample < 2:
            raise ValueError(
                f"validation={self.validation} must be 0 (every row of the database gets a code; "
                f"fit on Protocol.validation_split instead), sample={self.sample} at least 2"
            )

    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from ``split.database``; raises ``ValueError`` if the split has none."""
        if split.database is None:
            raise ValueError(
                "SPDAQ learns the codes of the database: pass a split with database= "
                "(Split.from_protocol(..., with_database=True))"
            )
        x = split.database.x
        super().fit(split.database, **loop)
        omega = self.memory_["omega"]
        self._quantize(self.outputs(x[omega.numpy()]), omega)
        self.codebooks_: NDArray[np.float32] = self.memory_["C"].numpy()
        self.codes_: NDArray[np.uint8] = (
            self.memory_["b"][self.memory_["kind"]].numpy().astype(np.uint8)
        )
        self.fingerprint_: NDArray[np.float64] = _fingerprint(x)
        self.memory_ = {}
        return self

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk, bottleneck of R outputs and classifier."""
        assert n_classes is not None
        return Embedding(x, self.width, self.R, self.dropout, n_classes)

    # -- rounds --------------------------------------------------------------------------------

    def start_fit(self, data: TrainingData) -> None:
        """The label sets of the database, the share of each and their mutual similarities."""
        assert data.y is not None
        kinds, kind, counts = data.y.unique(dim=0, return_inverse=True, return_counts=True)
        self.memory_ = {
            "kind": kind,
            "share": counts / len(data),
            "S": 2 * shares_label(kinds, kinds) - 1,
        }

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Draw Omega; codes and codebooks for its current embeddings."""
        omega = torch.randperm(len(data), generator=self._generator(epoch))[: self.sample]
        self._quantize(self.outputs(data.x[omega]), omega)
        self.memory_["omega"] = omega

    def _quantize(self, U: Tensor, omega: Tensor) -> None:
        kind = self.memory_["kind"]
        counts = torch.bincount(kind).double()
        ideal, root = ideal_vectors(U, self.memory_["S"][kind[omega]], self.ridge)
        if "C" not in self.memory_:
            words = draw_words(ideal, self.M, self.K, self._generator(self.epochs))
            self.memory_["C"] = spread_words(words)
        C = self.memory_["C"]
        b = icm_codes(ideal @ root, C @ root)
        for _ in range(self.iterations):
            # In any metric that rows share, least squares gives the same words.
            C = least_squares_words(ideal, b, C, counts=counts)
            b = icm_codes(ideal @ root, C @ root, b)
        self.memory_ |= {"C": C, "b": b}

    def _batches(self, data: TrainingData, epoch: int) -> Iterator[Batch]:
        omega = self.memory_["omega"]
        order = omega[torch.randperm(len(omega), generator=self._generator(self.epochs + epoch))]
        for index in order.split(self.batch_size):
            yield data.batch(index)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Asymmetric similarity to the whole database, and classification."""
        u, target = self.network_(batch.x), class_shares(batch.labels)
        v = add_words(self.memory_["b"], self.memory_["C"])
        classifier: Any = self.network_.classifier
        errors = u @ v.T - self.memory_["S"][self.memory_["kind"][batch.index]]
        return {
            "similarity": (self.memory_["share"] * errors.square()).sum(1).mean(),
            "classification": self.lam * F.cross_entropy(classifier(u), target),
        }

    # -- the two sides -------------------------------------------------------------------------

    def find_words(self, z: Tensor) -> Tensor:
        """Raises ``TypeError``: word numbers come from labels, not from outputs."""
        raise TypeError("SPDAQ learns the codes of its database; it cannot encode other rows")

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """The learned word numbers uint8 (N, M); ``x`` must be the database of ``fit``."""
        self._require_fit()
        self._check_input(x)
        require_finite(x, "SPDAQ")
        if len(x) != len(self.codes_) or not np.allclose(
            _fingerprint(x), self.fingerprint_, rtol=1e-5
        ):
            raise ValueError(
                f"SPDAQ learned the codes of a database of {len(self.codes_)} rows and got other "
                f"{len(x)} rows: give that database in its order, or fit again"
            )
        return self.codes_

    def tables(self, z: Tensor) -> Tensor:
        """Minus the inner products of queries and words."""
        return -(z @ torch.from_numpy(self.codebooks_).transpose(1, 2))


def _fingerprint(x: NDArray[Any]) -> NDArray[np.float64]:
    some = np.asarray(x[:: max(1, len(x) // 16)], np.float64)
    return np.asarray(some.sum(axis=tuple(range(1, x.ndim))))
