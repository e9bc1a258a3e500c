"""DQN [68]: deep quantization network (survey Sections III, V-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import (
    Bottleneck,
    CodebookMethod,
    concatenate_words,
    draw_words,
    mean_words,
    nearest_words,
    squared_distances,
    subvectors,
)


@dataclass(kw_only=True, eq=False)
class DQN(CodebookMethod):
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

    lam: float = 1e-4
    aqd: str = "inner"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aqd not in ("inner", "euclidean"):
            raise ValueError(f"aqd={self.aqd!r}: use 'inner' or 'euclidean'")

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
            c = concatenate_words(self.codes(batch, z), self.memory_["C"])
            terms["quantization"] = self.lam * (z - c).square().sum(1).mean()
        return terms

    def first_words(self, z: Tensor) -> Tensor:
        """Parts of rows drawn at random."""
        return draw_words(z, self.M, self.K, self._generator(self.epochs))

    def find_codes(self, z: Tensor, C: Tensor, b: Tensor | None = None) -> Tensor:
        """Nearest words."""
        return nearest_words(z, C)

    def update_words(self, z: Tensor, b: Tensor, C: Tensor) -> Tensor:
        """Means of members."""
        return mean_words(z, b, C)

    def tables(self, z: Tensor) -> Tensor:
        """Minus inner products, or squared distances, of parts of queries and words."""
        C = torch.from_numpy(self.codebooks_)
        if self.aqd == "euclidean":
            return squared_distances(z, C)
        return -subvectors(z, len(C)) @ C.transpose(1, 2)
