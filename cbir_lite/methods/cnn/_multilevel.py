"""How alike two sets of labels are, and distances of codes that should follow."""

from __future__ import annotations

import torch
from torch import Tensor

from cbir_lite.methods.triplet._triplets import squared_distances


def similarity_levels(y: Tensor) -> Tensor:
    """s (B, B) in [0, 1] of multi-hot y (B, C): shared labels over those of the richer image.

    1 for equal sets of labels, 0 where nothing is shared or an image has no labels.
    """
    count = y.sum(1)
    return y @ y.T / torch.maximum(count[:, None], count).clamp_min(1)


def multilevel_terms(u: Tensor, y: Tensor, tolerance: float = 0.0) -> dict[str, Tensor]:
    """How far the distances of outputs u (B, bits) are from those their labels y (B, C) ask for.

    d = ||u_i - u_j||^2 / (4 bits) is the share of bits in which two codes differ. Pairs of level
    s > 0 should lie at m(s) = (1 - s) / 2, give or take ``tolerance``, others at 1/2 or further:
    there the codes share no more than codes drawn by chance. Each of the two terms is averaged over
    all pairs i < j.
    """
    i, j = torch.triu_indices(len(u), len(u), offset=1)
    d = squared_distances(u)[i, j] / (4 * u.shape[1])
    s = similarity_levels(y)[i, j]
    beyond = ((d - 0.5 * (1 - s)).abs() - tolerance).clamp_min(0).square()
    short = (0.5 - d).clamp_min(0).square()
    similar = (s > 0).float()
    return {"similar": (similar * beyond).mean(), "dissimilar": ((1 - similar) * short).mean()}


def pull_to_signs(u: Tensor) -> Tensor:
    """Mean over images and bits of how far |u| is from 1."""
    return (u.abs() - 1).abs().mean()
