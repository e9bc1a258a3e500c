"""Instance retrieval baseline [212]: maxima of many patches, matched one by one (Section VII-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cbir_lite.methods.base import require_finite
from cbir_lite.methods.cnn.cnn_off_the_shelf import CNNOffTheShelf, windows


@dataclass(kw_only=True, eq=False)
class RazavianBaseline(CNNOffTheShelf):
    r"""Pool patches of several sizes by their maxima, and let every patch look for its match.

    The maximum over the places of a patch keeps what is there and forgets where, which a
    fully connected layer cannot. Patches of several scales cover query and database images; each is
    brought to unit length, whitened and brought to unit length again. Images are ranked by
    the mean distance of the query's patches to the nearest patch of the other image. With
    ``levels = 1`` there is one patch: the compact baseline of the paper.

    :survey: Section VII-D
    :cite: razavian2015baseline
    :source: the paper's abstract (local features at several scales and positions); public code and
        notes that take the maximum over the places of the last convolution from this paper;
        unit length, whitening and the distance as in the same authors' off-the-shelf features;
        the survey's row; the full text was not read
    :objective: f(r)=\mathrm{norm}\big(P^\top(\mathrm{norm}(\max_{p\in r}\phi(p))-\mu)\big),\quad
        d(q,x)=\frac1R\sum_{r}\min_{s}\|f(q_r)-f(x_s)\|_2
    :shapes: maps x (n, h, w, d); R patches; descriptors float32 (n, R bits)
    :defaults: levels = 3, so R = 14; whiten = True
    :departures: the patches are windows of one run of the network, not images of their own; no
        jittered copies of the query; maxima over the whole patch, not over a grid of four cells,
        because maps are small here; maps are those of this package's backbones
    :fidelity: simplified
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {}

    levels: int = 3
    whiten: bool = True

    def parts(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Maxima float32 (n, R, d) over the windows of maps (n, h, w, d)."""
        if x.ndim != 4:
            return super().parts(x)  # which says what it needs
        places = windows(x.shape[1], x.shape[2], self.levels)
        maxima = [x[:, r, c].max((1, 2)) for r, c in places]
        parts = np.stack(maxima, 1).astype(np.float32)
        require_finite(parts, type(self).__name__)
        return parts
