"""Pseudo labels: what can be read from where unlabelled images lie among each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import DeepMethod

_BLOCK_ELEMENTS = 1 << 25


def directions(x: Tensor, mean: Tensor | None = None) -> Tensor:
    """Rows of x (n, ...) minus ``mean`` (default: their own), flat and of unit length, (n, d).

    Activations are positive, so uncentred ones all point the same way.
    """
    flat = x.float().flatten(1)
    return F.normalize(flat - (flat.mean(0) if mean is None else mean))


def nearest_rows(x: Tensor, k: int) -> Tensor:
    """The k nearest other rows of each row of x (n, d), nearest first, int64 (n, k)."""
    squares = x.square().sum(1)
    parts = []
    for rows in torch.arange(len(x)).split(max(1, _BLOCK_ELEMENTS // len(x))):
        d = (x[rows] @ x.T).mul_(-2).add_(squares)
        d[torch.arange(len(rows)), rows] = torch.inf
        parts.append(d.topk(k, largest=False).indices)
    return torch.cat(parts)


def nearest_centres(x: Tensor, C: Tensor) -> Tensor:
    """The nearest of the centres C (k, d) to each row of x (n, d), int64 (n,)."""
    return (C.square().sum(1) - 2 * x @ C.T).argmin(1)


def k_means(x: Tensor, k: int, generator: torch.Generator, rounds: int = 50) -> Tensor:
    """Centres (k, d) of the rows of x (n, d) by Lloyd's iterations from k of the rows.

    A centre that loses all its rows moves to the row that is farthest from its own centre.
    """
    C = x[torch.randperm(len(x), generator=generator)[:k]].clone()
    if len(C) < k:
        raise ValueError(f"{k} clusters of {len(x)} rows: use fewer clusters or more rows")
    member = torch.full((len(x),), -1)
    for _ in range(rounds):
        before, member = member, nearest_centres(x, C)
        if torch.equal(before, member):
            break
        counts = torch.bincount(member, minlength=k)
        C = torch.zeros_like(C).index_add_(0, member, x) / counts.clamp_min(1)[:, None]
        if (counts == 0).any():
            far = (x - C[member]).square().sum(1).argsort(descending=True)
            C[counts == 0] = x[far[: int((counts == 0).sum())]]
    return C


@dataclass(kw_only=True, eq=False)
class PseudoSupervised(DeepMethod):
    """A system that derives its supervision from the training rows as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError(
                f"validation must be 0: {type(self).__name__} derives its supervision from all of "
                "its training rows and has none for others; to choose hyper-parameters fit on "
                "Protocol.validation_split"
            )
