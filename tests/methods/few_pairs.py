"""A few pairs of image and text with labels, one of them with two, for losses counted by hand."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cbir_lite.methods.deep import Batch


def few_pairs(
    random: np.random.Generator, shape: tuple[int, ...] = (5,), n: int = 7
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], Batch]:
    """X float32 (n, *shape), T float32 (n, 4), Y uint8 (n, 3), and all of it as a batch."""
    X = random.standard_normal((n, *shape)).astype(np.float32)
    T = random.random((n, 4)).astype(np.float32)
    Y = np.eye(3, dtype=np.uint8)[np.arange(n) % 3]
    Y[3] = [1, 1, 0]
    y = torch.from_numpy(Y).float()
    return X, T, Y, Batch(torch.from_numpy(X), y, torch.arange(n), other=torch.from_numpy(T))
