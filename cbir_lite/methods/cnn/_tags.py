"""Tags as weak labels: vectors of words from how they occur together, and of items from words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mutual_information(y: Tensor) -> Tensor:
    """Positive pointwise mutual information (V, V), float64, of words within items y (n, V).

    A word also occurs with itself.
    """
    together = (y.T @ y).double()
    of_word = together.sum(1)
    expected = of_word[:, None] * of_word / of_word.sum().clamp_min(1)
    ratio: Tensor = together / expected.clamp_min(1e-12)
    return ratio.clamp_min(1e-12).log().clamp_min(0)


def word_vectors(y: Tensor, dimensions: int) -> Tensor:
    """Vectors (V, k), k <= ``dimensions``, of the words of items, from multi-hot y (n, V).

    :func:`mutual_information`, factorised: what skip-gram with negative sampling factorises
    implicitly (Levy & Goldberg 2014). Words that never meet another one get directions of their
    own.
    """
    information = mutual_information(y)
    values, directions = torch.linalg.eigh(information)
    order = values.abs().argsort(descending=True)[: min(dimensions, len(values))]
    vectors: Tensor = (directions[:, order] * values[order].abs().sqrt()).float()
    return vectors


def rarity(y: Tensor) -> Tensor:
    """Inverse document frequency log(n / n_w) + 1 (V,) of every word in y (n, V)."""
    return (len(y) / y.sum(0).clamp_min(1)).log() + 1


def item_vectors(y: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
    """Unit vectors (n, k): the weighted mean of the words' vectors; zero for items without words.

    y (n, V) multi-hot, ``vectors`` (V, k), ``weights`` (V,).
    """
    return F.normalize((y * weights) @ vectors, dim=1)


def nearest_rows(x: Tensor, k: int, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Squared distances and numbers (n, k) of the rows nearest to each row of x, without itself.

    k is cut to n - 1; nearest first.
    """
    k, squares = min(k, len(x) - 1), x.square().sum(1)
    parts = []
    for a in range(0, len(x), block):
        d = squares[a : a + block, None] + squares - 2 * x[a : a + block] @ x.T
        own = torch.arange(len(d))
        d[own, own + a] = float("inf")
        parts.append(d.clamp_min(0).topk(k, largest=False))
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
