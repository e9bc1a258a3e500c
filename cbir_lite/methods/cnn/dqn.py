"""DQN [68]: deep quantization network (survey Sections III, V-A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Method
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork

_BLOCK_ELEMENTS = 1 << 24


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


def reconstruct(b: Tensor, C: Tensor) -> Tensor:
    """C b (n, R) of codes b (n, M)."""
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


class Bottleneck(HashNetwork):
    """A trunk and R outputs squashed by tanh, so that all z are of about the same length."""

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch, in (-1, 1)."""
        return torch.tanh(super().forward(x))


@dataclass(kw_only=True, eq=False)
class DQN(DeepMethod):
    r"""Bottleneck features that keep pair labels as cosines, and that quantize well.

    The bottleneck z is cut into M parts, each quantized by its own codebook of at most 256 words.
    Three steps alternate: the network by gradient descent given codes and codebooks; the codebooks
    as means of their members; the codes as nearest words. A database image is stored as M word
    numbers, bits in all; a query stays real-valued, and its distance to the database is read from
    M look-up tables.

    :survey: Sections III.4, V-A; Tables II, IV
    :cite: cao2016dqn
    :source: the paper's objective and asymmetric distance, and the authors' public code (size and
        tanh of the bottleneck, lambda, no quantization in the first epochs, k-means start, inner
        products of queries and reconstructions)
    :objective: \min_{\Theta,C,b}\ \mathrm{mean}_{i<j}\big(s_{ij}-\cos(z_i,z_j)\big)^2
        +\lambda\,\mathrm{mean}_i\|z_i-Cb_i\|_2^2,\quad s_{ij}\in\{-1,1\},
        \ C=\mathrm{diag}(C_1,\dots,C_M);
        \quad\mathrm{AQD}(q,x_i)=-\textstyle\sum_m z_{qm}^\top C_mb_{im}
        \text{ or }\sum_m\|z_{qm}-C_mb_{im}\|_2^2
    :shapes: x (n, d), labels (n, C); z (n, R); codebooks (M, 2^(bits/M), R / M); database
        uint8 (n, M), queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 300 (cut to a multiple of M), lambda = 1e-4, ranked by
        inner product (public code); aqd = "euclidean" is the distance that the paper prints, which
        ranks worse on a held-out part of the training images
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; Adam
        with cosine decay instead of SGD; codes and codebooks are updated every epoch, from the
        codebooks of the epoch before instead of from new k-means starts
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "quantization"

    dim: int = 300
    lam: float = 1e-4
    iterations: int = 5
    aqd: str = "inner"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aqd not in ("inner", "euclidean"):
            raise ValueError(f"aqd={self.aqd!r}: use 'inner' or 'euclidean'")
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
    def R(self) -> int:
        """Dimensions of the bottleneck, the same number for every codebook."""
        return self.M * (self.dim // self.M)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk and bottleneck of R outputs."""
        return Bottleneck(x, self.width, self.R, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pairwise cosine loss over pairs i < j, and product quantization loss."""
        z = self.network_(batch.x)
        i, j = torch.triu_indices(len(z), len(z), offset=1)
        s = 2 * batch.similarity[i, j] - 1
        unit = F.normalize(z, dim=1)
        terms = {"cosine": (s - (unit @ unit.T)[i, j]).square().mean()}
        if "C" in self.memory_:
            C = self.memory_["C"]
            # Held-out rows have no stored codes.
            training = self.network_.training
            b = self.memory_["b"][batch.index] if training else nearest_words(z.detach(), C)
            terms["quantization"] = self.lam * (z - reconstruct(b, C)).square().sum(1).mean()
        return terms

    # -- codes and codebooks -------------------------------------------------------------------

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """From the second epoch on, codes and codebooks of the current outputs."""
        if epoch:
            self._quantize(data.x)

    def _quantize(self, x: Tensor | NDArray[Any]) -> None:
        z = self.outputs(x)
        C = self.memory_["C"] if "C" in self.memory_ else self._first_words(z)
        for _ in range(self.iterations):
            C = mean_words(z, nearest_words(z, C), C)
        self.memory_ |= {"C": C, "b": nearest_words(z, C)}

    def _first_words(self, z: Tensor) -> Tensor:
        """Parts of rows drawn at random, repeated only if there are fewer rows than words."""
        K, generator = 2 ** (self.bits // self.M), self._generator(self.epochs)
        rows = torch.cat(
            [torch.randperm(len(z), generator=generator) for _ in range(math.ceil(K / len(z)))]
        )[:K]
        return subvectors(z[rows], self.M).clone()

    def fit(self, split: Split, **loop: Any) -> Self:
        """Train on ``split``; the last codebooks are those of the final outputs."""
        super().fit(split, **loop)
        self._quantize(split.x)
        self.codebooks_: NDArray[np.float32] = self.memory_["C"].numpy()
        self.memory_ = {}
        return self

    # -- the two sides -------------------------------------------------------------------------

    def encode(self, x: NDArray[Any]) -> Codes:
        """Raises ``TypeError``: the two sides hold different things."""
        return Method.encode(self, x)

    def encode_query(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Bottleneck features z float32 (n, R)."""
        return self.embed(x)

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """Word numbers uint8 (n, M), of which each takes bits / M bits."""
        z = self.outputs(x)
        return nearest_words(z, torch.from_numpy(self.codebooks_)).numpy().astype(np.uint8)

    def _tables(self, z: Tensor, C: Tensor) -> Tensor:
        if self.aqd == "euclidean":
            return squared_distances(z, C)
        return -subvectors(z, len(C)) @ C.transpose(1, 2)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Asymmetric quantizer distances float32 (n_queries, n_database) by look-up tables.

        ``queries`` float (n_queries, R), ``database`` word numbers (n_database, M).
        """
        self._require_fit()
        M = len(self.codebooks_)
        if queries.shape[1:] != (self.R,) or database.shape[1:] != (M,):
            raise ValueError(
                f"queries must be (n, {self.R}) from encode_query and database (n, {M}) from "
                f"encode_database, got {queries.shape} and {database.shape}"
            )
        z = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
        tables = self._tables(z, torch.from_numpy(self.codebooks_)).numpy()
        out = np.zeros((len(queries), len(database)), np.float32)
        step = max(1, _BLOCK_ELEMENTS // max(1, len(database)))
        words = np.ascontiguousarray(database.T).astype(np.intp)
        for a in range(0, len(queries), step):
            for m in range(M):
                out[a : a + step] += np.take(tables[m, a : a + step], words[m], axis=1)
        return out
