"""What sketch systems have in common: class semantics, discrete codes, least-squares players."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData


def per_label(y: Tensor) -> Tensor:
    """Multi-hot rows (n, C) divided by their number of labels; rows without labels stay zero."""
    return y / y.sum(1, keepdim=True).clamp_min(1)


def class_semantics(data: TrainingData, *rows: Tensor) -> Tensor:
    """The semantic vector of each class, of unit length (C, k): what the split says of it in words.

    Where a split has no words, what the class looks like stands in: the means of its ``rows``
    (n, d) side by side, so classes that look alike get vectors that are near. A class without
    words, or without rows, gets the zero vector.
    """
    if data.semantics is not None:
        return F.normalize(data.semantics, dim=1)
    assert data.y is not None
    return F.normalize(torch.cat([class_means(x, data.y) for x in rows], 1), dim=1)


def class_means(x: Tensor, y: Tensor) -> Tensor:
    """The mean of the standardised rows x (n, d) of each class in y (n, C), of unit length."""
    scaled = (x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)
    return F.normalize(per_label(y.T) @ scaled, dim=1)


def pair(method: DeepMethod, batch: Batch) -> tuple[Tensor, Tensor]:
    """Outputs of the image tower and of the sketch tower for a batch, each (B, bits)."""
    assert batch.other is not None
    image, other = (method.network_.get_submodule(k) for k in ("image", "other"))
    return image(batch.x), other(batch.other)


def all_outputs(method: DeepMethod, data: TrainingData) -> tuple[Tensor, Tensor]:
    """Outputs of both towers for all training rows, in evaluation mode, without gradients."""
    assert data.other is not None
    image, other = (method.network_.get_submodule(k) for k in ("image", "other"))
    return method._in_blocks(image, data.x), method._in_blocks(other, data.other)


def random_signs(seed: int, *shape: int) -> Tensor:
    """Signs float (shape) drawn from a generator of their own."""
    return sign(torch.randn(shape, generator=torch.Generator().manual_seed(seed))).float()


def coordinate_descent(B: Tensor, Q: Tensor, G: Tensor) -> Tensor:
    """Signs B (n, m) after one pass over the bits that lowers tr(B G B^T) - 2 tr(B^T Q).

    G (m, m) is symmetric and positive semidefinite; each bit of all rows has its minimum in closed
    form while the others are fixed.
    """
    B = B.clone()
    for k in range(B.shape[1]):
        rest = B @ G[:, k] - B[:, k] * G[k, k]
        B[:, k] = sign(Q[:, k] - rest).float()
    return B


def contrastive(squares: Tensor, s: Tensor, margin: float) -> Tensor:
    """Contrastive loss of squared distances (n, m) with relevance s (n, m).

    Similar pairs pay the square, others a squared hinge on the distance; both kinds of pairs have
    the same weight, however many they are.
    """
    apart = (margin - squares.clamp_min(1e-8).sqrt()).clamp_min(0).square()
    similar = (s * squares).sum() / s.sum().clamp_min(1)
    return similar + ((1 - s) * apart).sum() / (1 - s).sum().clamp_min(1)


class Unit(nn.Module):
    """Rows (n, d) divided by their length."""

    def forward(self, z: Tensor) -> Tensor:
        """Rows of length one."""
        return F.normalize(z, dim=1)


class Critic(nn.Sequential):
    """Vectors (n, d) to one score (n,): near 1 for real ones, near 0 for made ones."""

    def __init__(self, d: int, width: int = 128):
        super().__init__(
            nn.Linear(d, width), nn.LeakyReLU(0.2), nn.Linear(width, 1), nn.Flatten(start_dim=0)
        )


def deceived(critic: nn.Module, made: Tensor) -> Tensor:
    """Least-squares aim of a generator: made vectors are scored 1."""
    return (critic(made) - 1).square().mean()


def told_apart(critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Least-squares aim of a critic: real vectors are scored 1, made ones 0."""
    return 0.5 * ((critic(real) - 1).square().mean() + critic(made.detach()).square().mean())


def parameters_of(method: DeepMethod, *names: str) -> list[Any]:
    """Parameters of the named parts of the network, each once."""
    found = {id(p): p for n in names for p in method.network_.get_submodule(n).parameters()}
    return list(found.values())


def pick(weights: Tensor) -> Tensor:
    """For each row one column, drawn in proportion to weights (n, m); -1 if all are zero."""
    drawn = torch.full((len(weights),), -1)
    possible = weights.sum(1) > 0
    if possible.any():
        drawn[possible] = torch.multinomial(weights[possible], 1).squeeze(1)
    return drawn


def euclidean(queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
    """Euclidean distances float32 (n_queries, n_database)."""
    squares = np.square(queries).sum(1)[:, None] + np.square(database).sum(1)
    return np.sqrt(np.maximum(squares - 2 * queries @ database.T, 0)).astype(np.float32)
