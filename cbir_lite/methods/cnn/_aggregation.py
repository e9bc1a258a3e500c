"""Systems that aggregate the maps of a frozen network into one real-valued descriptor.

``fit`` learns codebooks and axes from the training maps, ``embed`` describes maps in blocks of rows
so that memory stays bounded, and descriptors of unit length are ranked by cosine.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.features import aggregation as A
from cbir_lite.methods.base import Descriptors, Method, as_float32, require_finite

BLOCK = 256
BUDGET = 2**25
"""Numbers that are held at once when axes and codebooks are learned (128 MB)."""


def evenly(n: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` of n row numbers, evenly spread."""
    return np.linspace(0, n - 1, min(n, max(1, count))).astype(np.int64)


@dataclass(kw_only=True, eq=False)
class MapReader(Method):
    """What reads maps (n, h, w, d), learns without labels and is ranked by cosine."""

    supervision = "unsupervised"
    descriptor = "real"
    reads = "maps"

    @abstractmethod
    def learn(self, x: NDArray[Any]) -> None:
        """Learn attributes that end in ``_`` from training maps (n, h, w, d)."""

    @abstractmethod
    def describe(self, maps: Tensor) -> Tensor:
        """Descriptors (n, bits) of a block of maps, of any length."""

    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from the training maps; raises ``ValueError`` for what are no maps, and for NaN."""
        self.channels_ = int(split.x.shape[-1])
        for a in range(0, len(split.x), BLOCK):
            self._check(split.x[a : a + BLOCK], a)
        self.learn(split.x)
        return self

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Descriptors of unit length, float32 (n, bits), of maps (n, h, w, d)."""
        self._require_fit()
        return self._blocks(x).numpy()

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """One minus the cosine, float32 (n_queries, n_database)."""
        d: NDArray[np.float32] = 1 - queries @ database.T
        return d

    def some(self, x: NDArray[Any]) -> Tensor:
        """Maps evenly spread over the training maps, as many as the budget allows."""
        rows = evenly(len(x), BUDGET // int(np.prod(x.shape[1:])))
        return torch.from_numpy(np.asarray(x[rows], np.float32))

    def _blocks(self, x: NDArray[Any]) -> Tensor:
        parts = [self._block(x[a : a + BLOCK], a) for a in range(0, len(x), BLOCK)]
        return torch.cat(parts)

    def _block(self, x: NDArray[Any], start: int) -> Tensor:
        return A.l2n(self.describe(torch.from_numpy(self._check(x, start))))

    def _check(self, x: NDArray[Any], start: int) -> NDArray[np.float32]:
        name = type(self).__name__
        if x.ndim != 4:
            raise ValueError(
                f"{name} reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
            )
        if x.shape[-1] != self.channels_:
            raise ValueError(
                f"{name} was fitted on maps of {self.channels_} channels and got {x.shape[-1]}"
            )
        require_finite(x, name, start)
        return as_float32(x)

    def keep(self, name: str, axes: A.Whitening) -> None:
        """Store axes as the attributes ``name_mean_`` and ``name_axes_``."""
        setattr(self, f"{name}_mean_", axes.mean.numpy())
        setattr(self, f"{name}_axes_", axes.projection.numpy())

    def axes(self, name: str) -> A.Whitening:
        """Axes stored by :meth:`keep`."""
        parts = (getattr(self, f"{name}_{part}_") for part in ("mean", "axes"))
        return A.Whitening(*(torch.from_numpy(p) for p in parts))


@dataclass(kw_only=True, eq=False)
class Aggregation(MapReader):
    """Aggregate, bring to unit length, project on whitened principal components.

    ``whiten`` is the power of the deviations by which the components are divided: 1 whitens, 0 only
    projects.
    """

    whiten: float = 0.5

    @abstractmethod
    def aggregate(self, maps: Tensor) -> Tensor:
        """One vector (n, D) for each of a block of maps."""

    def prepare(self, x: NDArray[Any]) -> None:
        """Learn what :meth:`aggregate` needs."""

    def learn(self, x: NDArray[Any]) -> None:
        """Codebooks, then the principal components of the training images' vectors."""
        self.prepare(x)
        D = self._vectors(x[:1]).shape[1]
        rows = evenly(len(x), max(BUDGET // D, self.bits + 1))
        self.keep("final", A.principal_whitening(self._vectors(x[rows]), self.bits, self.whiten))

    def describe(self, maps: Tensor) -> Tensor:
        """Projections (n, bits) of the aggregated vectors of unit length."""
        final = self.axes("final")
        return (A.l2n(self.aggregate(maps)) - final.mean) @ final.projection

    def _vectors(self, x: NDArray[Any]) -> Tensor:
        maps = (torch.from_numpy(self._check(x[a : a + BLOCK], a)) for a in range(0, len(x), BLOCK))
        return torch.cat([A.l2n(self.aggregate(m)) for m in maps])


@dataclass(kw_only=True, eq=False)
class LocalAggregation(Aggregation):
    """Aggregation of local vectors that are brought to unit length and to few dimensions first.

    ``local`` is the number of dimensions that a place keeps, ``local_whiten`` the power of their
    deviations, ``words`` the size of the codebook.
    """

    local: int = 64
    local_whiten: float = 0.0
    words: int = 16

    def prepare(self, x: NDArray[Any]) -> None:
        """Whitened axes of local vectors, and the codebook of what they give."""
        some = self.some(x)
        places = A.l2n(some).flatten(0, 2)
        rows = torch.from_numpy(evenly(len(places), 20000))
        k = min(self.local, places.shape[1])
        self.keep("local", A.principal_whitening(places[rows], k, self.local_whiten))
        book = A.learn_codebook(self.reduced(some), self.words, self.seed)
        self.words_, self.weights_ = book.words.numpy(), book.weights.numpy()
        self.variances_ = book.variances.numpy()

    def reduced(self, maps: Tensor) -> Tensor:
        """Maps (n, h, w, local) of unit vectors."""
        return self.axes("local")(A.l2n(maps))

    @property
    def book(self) -> A.Codebook:
        """The codebook."""
        parts = (self.words_, self.weights_, self.variances_)
        return A.Codebook(*(torch.from_numpy(p) for p in parts))
