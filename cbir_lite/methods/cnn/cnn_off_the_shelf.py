"""CNN features off-the-shelf [32] (survey Sections I-C, V-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Descriptors, as_float32, require_finite
from cbir_lite.methods.cnn.neural_codes import NeuralCodes

_BLOCK = 256


def windows(h: int, w: int, levels: int) -> list[tuple[slice, slice]]:
    """Places of an h x w grid: at level i there are i x i windows of side 2 / (i + 1), overlapping.

    Level 1 is the whole image; places are spread evenly, from one border to the other.
    """

    def spans(n: int, i: int) -> list[slice]:
        side = max(1, min(n, -(-2 * n // (i + 1))))
        starts = np.round(np.linspace(0, n - side, i)).astype(int).tolist()
        return [slice(a, a + side) for a in starts]

    return [(r, c) for i in range(1, levels + 1) for r in spans(h, i) for c in spans(w, i)]


@dataclass(kw_only=True, eq=False)
class CNNOffTheShelf(NeuralCodes):
    r"""Take the activations of a network trained to classify, and compare images part by part.

    Nothing is trained for retrieval. Each image is described by the activations of the whole and of
    overlapping parts, all scaled to unit length, projected on principal components and scaled
    again. Each part of the query looks for the part of the other image that is nearest to it, and
    the images are ranked by the mean of these distances, so an object may be found in
    another place and beside other things. Real-valued: ``bits`` is the number of dimensions of a
    part, each a float32. The variant ``whole`` has no parts.

    :survey: Sections I-C, V-A
    :cite: razavian2014offtheshelf
    :source: the survey's sentences and the paper's abstract; the chain of normalisation, PCA and
        normalisation and the search over parts as later papers report them
    :objective: f(x)=\frac{g}{\|g\|_2},\ g=V_k^\top\big(\phi(x)/\|\phi(x)\|_2-\mu\big),\quad
        d(q,x)=\frac1P\sum_{p}\min_{r}\|f(q_p)-f(x_r)\|_2
    :shapes: maps x (n, h, w, d); P parts; descriptors float32 (n, P bits)
    :defaults: 2 levels, so P = 5
    :departures: the paper runs its network on every part, on up to four levels; here the maps of
        one run are averaged over the part; whiten = False: the paper whitens, which lowers the
        ranking by class on digits below random projections and is kept as an option; the
        activations are those of this package's backbones, not of the paper's fully connected
        layer
    :fidelity: simplified
    """

    reads = "maps"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"whole": {"levels": 1}}

    levels: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.levels, int) or self.levels < 1:
            raise ValueError(
                f"levels={self.levels!r}: the number of levels must be an integer >= 1"
            )

    def parts(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Mean activations float32 (n, P, d) over the windows of maps (n, h, w, d)."""
        if x.ndim != 4:
            raise ValueError(
                f"CNNOffTheShelf reads maps (n, h, w, d) and got {x.shape}: extract features of "
                "kind 'maps'"
            )
        places = windows(x.shape[1], x.shape[2], self.levels)
        pooled = np.empty((len(x), len(places), x.shape[-1]), np.float32)
        for a in range(0, len(x), _BLOCK):
            block = as_float32(x[a : a + _BLOCK])
            require_finite(block, "CNNOffTheShelf", a)
            for p, (r, c) in enumerate(places):
                pooled[a : a + _BLOCK, p] = block[:, r, c].mean((1, 2))
        return pooled

    def fit(self, split: Split, **loop: Any) -> Self:
        """PCA of the normalised parts; raises ``ValueError`` when bits exceeds d."""
        pooled = self.parts(split.x)
        self.n_parts_ = int(pooled.shape[1])
        return super().fit(Split(pooled.reshape(-1, pooled.shape[-1]), None, "unsupervised"))

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Descriptors float32 (n, P bits), one part after the other."""
        self._require_fit()
        pooled = self.parts(x)
        f = super().embed(pooled.reshape(-1, pooled.shape[-1]))
        norms = np.linalg.norm(f, axis=1, keepdims=True)
        unit: Descriptors = (f / np.where(norms > 0, norms, 1)).astype(np.float32)
        return unit.reshape(len(x), -1)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Mean distance of the query's parts to the nearest part, (n_queries, n_database)."""
        P = self.n_parts_
        q, b = (v.reshape(len(v), P, -1) for v in (queries, database))
        total = np.zeros((len(q), len(b)), np.float32)
        for p in range(P):
            nearest = super().distance(q[:, p], b[:, 0])
            for r in range(1, P):
                np.minimum(nearest, super().distance(q[:, p], b[:, r]), out=nearest)
            total += nearest
        return total / np.float32(P)
