"""From selective features to compact binary codes [195] (survey Sections VI-A, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.methods.base import Codes, Descriptors, sign
from cbir_lite.methods.cnn._masked import MaskedEmbedding
from cbir_lite.methods.shallow.itq import quantization, rotate


@dataclass(kw_only=True, eq=False)
class SelectiveBinary(MaskedEmbedding):
    r"""Masked, embedded and pooled local features, made binary by an unsupervised hash step.

    The real-valued descriptor is that of the selective masks: places with the maximum of some
    channel, embedded by their directions to all words, whitened and summed democratically. Its
    principal components are then rotated so that their signs lose as little as possible, and the
    signs are the code. Codebook and first rotation start from ``self.seed``.

    :survey: Sections VI-A, VI-C
    :cite: do2019selective
    :source: the survey's row and the paper's abstract (masks, embedding and aggregation, then a
        hashing module); its text could not be read
    :objective: b=\mathrm{sgn}\big(R^\top V^\top(f-\mu)\big),\quad
        \min_{B,R}\|B-V_fR\|_F^2,\ R^\top R=I
    :shapes: maps x (n, h, w, d); codes int8 (n, bits)
    :defaults: mask = max, words = 8, local = 64 as in selective_masks_hoang; iterations = 50;
        whiten = 0: the rotation spreads the variance
    :departures: embedded places are divided by the root of their deviations, half of a whitening;
        the hash step is iterative quantization, because the paper's own could not be read; no mask
        from SIFT keypoints; maps are those of this package's backbones
    :fidelity: simplified
    """

    descriptor = "binary"

    whiten: float = 0.0
    iterations: int = 50

    def learn(self, x: NDArray[Any]) -> None:
        """Axes as for the real-valued descriptor, then the rotation."""
        super().learn(x)
        start = np.random.default_rng(self.seed).standard_normal((self.bits, self.bits))
        R = np.linalg.svd(start)[0]
        self.rotation_ = R.astype(np.float32)
        V = np.concatenate([self._block(x[a : a + 256], a) for a in range(0, len(x), 256)])
        V = (V @ R.T).astype(np.float64)
        self.history_ = [{"quantization": quantization(V, R)}]
        for _ in range(self.iterations):
            R = rotate(V, R)
            self.history_.append({"quantization": quantization(V, R)})
        self.rotation_ = R.astype(np.float32)

    def describe(self, maps: Tensor) -> Tensor:
        """Rotated principal components (n, bits)."""
        return super().describe(maps) @ torch.from_numpy(self.rotation_)

    def encode(self, x: NDArray[Any]) -> Codes:
        """Signs of the rotated components, int8 (n, bits)."""
        z: Descriptors = self.embed(x)
        codes: Codes = sign(z)
        return codes
