"""Eight pairs of image and sketch features in three classes, for losses counted by hand."""

from __future__ import annotations

import numpy as np
import torch

from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 5)).astype(np.float32)
T = RANDOM.standard_normal((8, 4)).astype(np.float32)
CLASS = [0, 0, 1, 1, 2, 2, 0, 1]
Y = np.eye(3, dtype=np.uint8)[CLASS]
WORDS = RANDOM.random((3, 6)).astype(np.float32)
BATCH = Batch(
    torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(8), other=torch.from_numpy(T)
)
