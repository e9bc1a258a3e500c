"""Masks that keep few local features, and their embedding by triangulation (Hoang et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import BLOCK, LocalAggregation

MASKS = {"max": A.max_mask, "sum": A.sum_mask}
_ROWS = 512
"""Training images whose embedded places give the axes of the embedding."""


@dataclass(kw_only=True, eq=False)
class MaskedEmbedding(LocalAggregation):
    """Mask, triangulation embedding, democratic sum, signed root."""

    words: int = 8
    mask: str = "max"
    embedding_whiten: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask not in MASKS:
            raise ValueError(f"mask={self.mask!r}: use one of {', '.join(MASKS)}")

    def prepare(self, x: NDArray[Any]) -> None:
        """Local axes and words, then the centre and whitening of the embedded places."""
        super().prepare(x)
        some = self.some(x)
        some = some[torch.linspace(0, len(some) - 1, min(_ROWS, len(some))).long()]
        embedded, kept = self.embedded(some)
        rows = embedded[kept]
        axes = A.principal_whitening(rows, min(rows.shape), self.embedding_whiten)
        self.keep("embedding", axes)

    def embedded(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Directions to all words (n, P, words local), and which places are kept (n, P)."""
        kept = MASKS[self.mask](maps).flatten(1)
        return A.triangulation(self.reduced(maps), self.book.words), kept

    def aggregate(self, maps: Tensor) -> Tensor:
        """Democratic sums of the whitened embeddings of the kept places."""
        out = []
        axes = self.axes("embedding")
        for a in range(0, len(maps), BLOCK // 4):
            embedded, kept = self.embedded(maps[a : a + BLOCK // 4])
            vectors = axes(embedded)
            weight = A.democratic(vectors, kept)
            total = torch.einsum("np,npd->nd", weight, vectors)
            out.append(total.sign() * total.abs().sqrt())
        return torch.cat(out)
