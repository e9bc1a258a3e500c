"""Cross-modal systems: one network for images, one for the second modality, one code space.

Survey: Sections VII-A (text) and VII-B (sketch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.base import require_finite, sign
from cbir_lite.methods.deep import MAPS_AT_ONCE, DeepMethod, as_read
from cbir_lite.methods.networks import HashNetwork


class TwoTowers(nn.Module):
    """``image`` and ``other``, two networks whose outputs live in one space."""

    def __init__(self, image: nn.Module, other: nn.Module):
        super().__init__()
        self.image = image
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the image side."""
        z: Tensor = self.image(x)
        return z


@dataclass(kw_only=True, eq=False)
class TwoTowerMethod(DeepMethod):
    """The loop of :class:`~cbir_lite.methods.deep.DeepMethod` for pairs of image and other.

    ``network_.image`` and ``network_.other`` give outputs (B, bits); a system overrides ``loss``
    and reads ``batch.x`` and ``batch.other``. ``modality`` is ``text`` or ``sketch``.
    """

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two hash networks of the same size."""
        image = HashNetwork(x, self.width, self.bits, self.dropout)
        return TwoTowers(image, self.other_tower(self._others()))

    def other_tower(self, other: NDArray[Any]) -> nn.Module:
        """The network of the second modality for training rows ``other`` (n, ...)."""
        return HashNetwork(other, self.width, self.bits, self.dropout)

    def _others(self) -> NDArray[Any]:
        split = getattr(self, "_split", None)
        if split is not None and split.other is not None:
            self.other_shape_ = list(split.other.shape[1:])
            return as_read(split.other)
        # Rebuilt from a file: the layers only; the statistics come with the state.
        return np.zeros((2, *self.other_shape_), np.float32)

    def _semantic_width(self, stand_in: int) -> int:
        """Numbers in the semantic vector of a class: those of the split, else ``stand_in``."""
        split = getattr(self, "_split", None)
        if split is not None:
            words = split.semantics
            self.semantic_width_ = stand_in if words is None else int(words.shape[1])
        # Saved before splits could carry semantics: a stand-in.
        return getattr(self, "semantic_width_", stand_in)

    def other_outputs(self, other: NDArray[Any], batch_size: int = 2048) -> Tensor:
        """z (n, bits) of the second modality (n, ...) in blocks, in evaluation mode, without
        gradients.

        Raises ``ValueError`` for another shape and for values that are not finite.
        """
        self._require_fit()
        if tuple(other.shape[1:]) != tuple(self.other_shape_):
            raise ValueError(
                f"{type(self).__name__} was fitted on {self.modality} (n, "
                f"{', '.join(map(str, self.other_shape_))}) and got {other.shape}"
            )
        if other.ndim == 4:
            batch_size = min(batch_size, MAPS_AT_ONCE)
        was_training = self.network_.training
        self.network_.eval()
        tower = self.network_.get_submodule("other")
        parts = []
        with torch.inference_mode():
            for a in range(0, len(other), batch_size):
                block = np.array(other[a : a + batch_size], np.float32)
                require_finite(block, f"{type(self).__name__}, {self.modality}", a)
                parts.append(tower(torch.from_numpy(block)))
        self.network_.train(was_training)
        return torch.cat(parts).clone()

    def embed_other(self, other: NDArray[Any]) -> NDArray[np.float32]:
        """Relaxed codes z float32 (n, bits) of the second modality."""
        z: NDArray[np.float32] = self.other_outputs(other).numpy()
        return z

    def encode_other(self, other: NDArray[Any]) -> NDArray[Any]:
        """Codes int8 (n, bits) of the second modality, or descriptors of a real-valued system."""
        if self.descriptor == "real":
            return self.embed_other(other)
        codes: NDArray[np.int8] = sign(self.other_outputs(other)).numpy()
        return codes

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """One minus the cosine, for real-valued systems."""
        if self.descriptor != "real":
            return super().distance(queries, database)
        a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
                for v in (queries, database))  # fmt: skip
        return (1 - a @ b.T).astype(np.float32)
