"""Codebooks: product and composite quantization, and distances by look-up tables (Section VII-F).

A code is M word numbers. In product quantization each codebook describes its own part of a vector,
in composite (additive) quantization every word is as long as the vector and the M words are added.
Both alternate two steps, words given codes and codes given words, of which neither raises the
squared error.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Method
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork

_BLOCK_ELEMENTS = 1 << 24

# -- product quantization --------------------------------------------------------------------------


def subvectors(z: Tensor, M: int) -> Tensor:
    """z (n, M * d) as one block of rows for each codebook, (M, n, d)."""
    return z.reshape(len(z), M, -1).transpose(0, 1)


def squared_distances(z: Tensor, C: Tensor) -> Tensor:
    """(M, n, K): from the parts of z (n, R) to the words of C (M, K, R / M)."""
    parts = subvectors(z, len(C))
    squares = parts.square().sum(2)[:, :, None] + C.square().sum(2)[:, None, :]
    return (squares - 2 * parts @ C.transpose(1, 2)).clamp_min(0)


def nearest_words(z: Tensor, C: Tensor) -> Tensor:
    """b int64 (n, M): the nearest word of each codebook, the optimum of the codes given C."""
    step = max(1, _BLOCK_ELEMENTS // (C.shape[0] * C.shape[1]))
    return torch.cat([squared_distances(part, C).argmin(2).T for part in z.split(step)])


def concatenate_words(b: Tensor, C: Tensor) -> Tensor:
    """C b (n, R) of codes b (n, M): the words of C (M, K, R / M) side by side."""
    return torch.cat([C[m][b[:, m]] for m in range(len(C))], 1)


def mean_words(z: Tensor, b: Tensor, C: Tensor) -> Tensor:
    """The optimum of the codebooks given codes b (n, M); words nobody uses stay."""
    updated = C.clone()
    for m, part in enumerate(subvectors(z, len(C))):
        counts = torch.bincount(b[:, m], minlength=C.shape[1])
        sums = torch.zeros_like(C[m]).index_add_(0, b[:, m], part)
        used = counts > 0
        updated[m, used] = sums[used] / counts[used, None]
    return updated


def draw_words(z: Tensor, M: int, K: int, generator: torch.Generator) -> Tensor:
    """C (M, K, R / M): parts of rows of z drawn at random, repeated only if there are fewer."""
    rows = torch.cat(
        [torch.randperm(len(z), generator=generator) for _ in range(math.ceil(K / len(z)))]
    )[:K]
    return subvectors(z[rows], M).clone()


# -- composite quantization ------------------------------------------------------------------------


def add_words(b: Tensor, C: Tensor) -> Tensor:
    """C b (n, R) of codes b (n, M): the sum of one word of each codebook of C (M, K, R)."""
    return torch.stack([C[m][b[:, m]] for m in range(len(C))]).sum(0)


def spread_words(C: Tensor) -> Tensor:
    """Words (M, K, d) of a product quantizer as composite ones (M, K, M * d), zero elsewhere."""
    M, K, d = C.shape
    spread = C.new_zeros(M, K, M, d)
    for m in range(M):
        spread[m, :, m] = C[m]
    return spread.reshape(M, K, M * d)


def icm_codes(z: Tensor, C: Tensor, b: Tensor | None = None, sweeps: int = 3) -> Tensor:
    """b int64 (n, M) by iterated conditional modes: each word is the best given the others.

    Args:
        z: vectors (n, R).
        C: codebooks (M, K, R).
        b: codes to start from; without them each codebook in turn describes what is left over.
        sweeps: rounds over the codebooks, ended early when a round changes nothing.
    """
    M, K, R = C.shape
    words = C.reshape(M * K, R)
    gram = 2 * (words @ words.T).view(M, K, M, K)
    squares = words.square().sum(1)
    step = max(1, _BLOCK_ELEMENTS // (M * K))
    parts = []
    for a in range(0, len(z), step):
        alone = (squares - 2 * z[a : a + step] @ words.T).view(-1, M, K)
        codes = alone.new_zeros(len(alone), M, dtype=torch.long)
        if b is None:
            for m in range(M):
                codes[:, m] = _best_words(alone, gram, codes, m, range(m))
        else:
            codes.copy_(b[a : a + step])
        for _ in range(sweeps):
            before = codes.clone()
            for m in range(M):
                others = [other for other in range(M) if other != m]
                codes[:, m] = _best_words(alone, gram, codes, m, others)
            if torch.equal(codes, before):
                break
        parts.append(codes)
    return torch.cat(parts)


def _best_words(alone: Tensor, gram: Tensor, codes: Tensor, m: int, others: Any) -> Tensor:
    cost = alone[:, m].clone()
    for other in others:
        cost += gram[other, :, m][codes[:, other]]
    return cost.argmin(1)


def least_squares_words(
    z: Tensor, b: Tensor, C: Tensor, ridge: float = 1e-3, counts: Tensor | None = None
) -> Tensor:
    """Codebooks (M, K, R) of the least squared error given codes b (n, M).

    ``counts`` (n,) says how many rows are like each of z (n, R) and have its code; default: one.

    The words of several codebooks are not determined one by one, so ``ridge`` keeps them near
    those of ``C``; the squared error never exceeds that of ``C``, and words nobody uses stay.
    """
    M, K, R = C.shape
    residual = (z - add_words(b, C)).double()
    if counts is not None:
        residual = residual * counts[:, None]
    target = torch.cat(
        [residual.new_zeros(K, R).index_add_(0, b[:, m], residual) for m in range(M)]
    )
    gram = ridge * torch.eye(M * K, dtype=torch.float64).view(M, K, M, K)
    for m in range(M):
        for other in range(M):
            together = torch.bincount(b[:, m] * K + b[:, other], counts, K * K)
            gram[m, :, other] += together.view(K, K)
    factor = torch.linalg.cholesky(gram.view(M * K, M * K))
    return C + torch.cholesky_solve(target, factor).to(C.dtype).view(M, K, R)


def class_shares(y: Tensor) -> Tensor:
    """Multi-hot labels (n, C) as rows that sum to one (a row without labels stays zero)."""
    return y / y.sum(1, keepdim=True).clamp_min(1)


# -- systems ---------------------------------------------------------------------------------------


class Bottleneck(HashNetwork):
    """A trunk and R outputs squashed by tanh, so that all z are of about the same length."""

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch, in (-1, 1)."""
        return torch.tanh(super().forward(x))


def look_up(tables: NDArray[np.float32], b: NDArray[Any]) -> NDArray[np.float32]:
    """Distances (n_queries, n): sums over m of tables (M, n_queries, K) at codes b (n, M)."""
    M, n_queries, _ = tables.shape
    out = np.zeros((n_queries, len(b)), np.float32)
    step = max(1, _BLOCK_ELEMENTS // max(1, len(b)))
    words = np.ascontiguousarray(b.T).astype(np.intp)
    for a in range(0, n_queries, step):
        for m in range(M):
            out[a : a + step] += np.take(tables[m, a : a + step], words[m], axis=1)
    return out


@dataclass(kw_only=True, eq=False)
class LookUpMethod(DeepMethod):
    """A system whose database is stored as word numbers, its queries as vectors (n, R).

    Subclasses say how outputs become word numbers (:meth:`find_words`) and which table of each
    codebook a query is compared by (:meth:`tables`).
    """

    descriptor: ClassVar[str] = "quantization"

    dim: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits % self.M:
            down, up = self.bits, self.bits
            while down % math.ceil(down / 8):
                down -= 1
            while up % math.ceil(up / 8):
                up += 1
            raise ValueError(
                f"bits={self.bits} do not spread evenly over {self.M} codebooks; use bits={down} "
                f"or bits={up}"
            )
        if self.dim < self.M:
            raise ValueError(f"dim={self.dim} is too small for {self.M} codebooks")

    @property
    def M(self) -> int:
        """Number of codebooks, of at most eight bits each."""
        return math.ceil(self.bits / 8)

    @property
    def K(self) -> int:
        """Number of words of a codebook."""
        return int(2 ** (self.bits // self.M))

    @property
    def R(self) -> int:
        """Dimensions of a query, the same number for every codebook."""
        return self.M * (self.dim // self.M)

    @abstractmethod
    def find_words(self, z: Tensor) -> Tensor:
        """Word numbers int64 (n, M) of network outputs z."""

    @abstractmethod
    def tables(self, z: Tensor) -> Tensor:
        """Contributions (M, n_queries, K) of each word to the distance from queries z (n, R)."""

    def encode(self, x: NDArray[Any]) -> Codes:
        """Raises ``TypeError``: the two sides hold different things."""
        return Method.encode(self, x)

    def encode_query(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Real-valued outputs z float32 (n, R)."""
        return self.embed(x)

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """Word numbers uint8 (n, M), of which each takes bits / M bits."""
        return self.find_words(self.outputs(x)).numpy().astype(np.uint8)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Asymmetric quantizer distances float32 (n_queries, n_database) by look-up tables.

        ``queries`` float (n_queries, R), ``database`` word numbers (n_database, M).
        """
        self._require_fit()
        if queries.shape[1:] != (self.R,) or database.shape[1:] != (self.M,):
            raise ValueError(
                f"queries must be (n, {self.R}) from encode_query and database (n, {self.M}) from "
                f"encode_database, got {queries.shape} and {database.shape}"
            )
        z = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
        return look_up(self.tables(z).numpy(), database)


@dataclass(kw_only=True, eq=False)
class CodebookMethod(LookUpMethod):
    """A system that alternates a network with codebooks ``C`` and codes ``b`` in ``memory_``.

    From the second epoch on, both are learned from the current outputs at the start of an epoch,
    beginning with the codebooks of the epoch before; the last codebooks are those of the final
    outputs.
    """

    iterations: int = 5

    @abstractmethod
    def first_words(self, z: Tensor) -> Tensor:
        """Codebooks to begin with."""

    @abstractmethod
    def find_codes(self, z: Tensor, C: Tensor, b: Tensor | None = None) -> Tensor:
        """Codes int64 (n, M) given the codebooks, no worse than ``b``."""

    @abstractmethod
    def update_words(self, z: Tensor, b: Tensor, C: Tensor) -> Tensor:
        """Codebooks given codes b, no worse than C."""

    def targets(self, z: Tensor, y: Tensor | None) -> Tensor:
        """What is quantized of outputs z with labels y: z itself."""
        return z

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """From the second epoch on, codes and codebooks of the current outputs."""
        if epoch:
            self.quantize(data.x, data.y)

    def quantize(self, x: Tensor | NDArray[Any], y: Tensor | None) -> None:
        """Set codebooks and codes of inputs x."""
        z = self.targets(self.outputs(x), y)
        C = self.memory_["C"] if "C" in self.memory_ else self.first_words(z)
        b = self.find_codes(z, C)
        for _ in range(self.iterations):
            C = self.update_words(z, b, C)
            b = self.find_codes(z, C, b)
        self.memory_ |= {"C": C, "b": b}

    def codes(self, batch: Batch, z: Tensor) -> Tensor:
        """Codes of a batch with outputs z; held-out rows have no stored ones."""
        if self.network_.training:
            return self.memory_["b"][batch.index]
        return self.find_codes(z.detach(), self.memory_["C"])

    def fit(self, split: Split, **loop: Any) -> Self:
        """Train on ``split``; the last codebooks are those of the final outputs."""
        super().fit(split, **loop)
        y = None if self.n_classes_ is None else torch.from_numpy(split.labels.astype(np.float32))
        self.quantize(split.x, y)
        self.codebooks_: NDArray[np.float32] = self.memory_["C"].numpy()
        self.memory_ = {}
        return self

    def find_words(self, z: Tensor) -> Tensor:
        """Codes of outputs z given the last codebooks."""
        return self.find_codes(z, torch.from_numpy(self.codebooks_))


@dataclass(kw_only=True, eq=False)
class CompositeMethod(CodebookMethod):
    """Composite quantization: words of all R dimensions, added; ranked by inner product."""

    iterations: int = 1
    sweeps: int = 3

    def first_words(self, z: Tensor) -> Tensor:
        """The codebooks of a product quantizer after ten rounds of k-means."""
        C = draw_words(z, self.M, self.K, self._generator(self.epochs))
        for _ in range(10):
            C = mean_words(z, nearest_words(z, C), C)
        return spread_words(C)

    def find_codes(self, z: Tensor, C: Tensor, b: Tensor | None = None) -> Tensor:
        """Iterated conditional modes."""
        return icm_codes(z, C, b, self.sweeps)

    def update_words(self, z: Tensor, b: Tensor, C: Tensor) -> Tensor:
        """Least squares."""
        return least_squares_words(z, b, C)

    def tables(self, z: Tensor) -> Tensor:
        """Minus the inner products of queries and words."""
        return -(z @ torch.from_numpy(self.codebooks_).transpose(1, 2))
