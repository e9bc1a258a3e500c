"""PWA [119]: part-based weighting aggregation (survey Sections IV-B, VI-B, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.base import Descriptors
from cbir_lite.methods.cnn._aggregation import BLOCK, Aggregation


@dataclass(kw_only=True, eq=False)
class PWA(Aggregation):
    r"""Let some channels act as detectors of parts, and pool the maps once for each of them.

    Without any label the channels whose sums vary most over the training images are taken as
    detectors: what fires everywhere or nowhere tells nothing. The map of each, normalised, is a
    soft proposal of where its part lies and weighs a sum of all channels; these sums are joined,
    brought to unit length, whitened and compressed.

    :survey: Sections IV-B, VI-B, VI-C
    :cite: xu2018pwa
    :source: the authors' public Python code (choice of channels, weights, chain of normalisation)
        and the paper's abstract
    :objective: f=\mathrm{concat}_n\sum_p w_n(p)\,\phi(p),\quad
        w_n(p)=\Big(\phi_{c_n}(p)\big/\big(\textstyle\sum_q\phi_{c_n}(q)^a\big)^{1/a}\Big)^{1/b}
    :shapes: maps x (n, h, w, d); joined (n, parts d); descriptors float32 (n, bits)
    :defaults: parts = 25, a = b = 2 (code); whiten = 0.5, half of the code's whitening: the full
        one lifts noise where training images are few, and ranks digits below random projections
    :departures: the principal components come from as many training images as a budget of memory
        allows; maps are those of this package's backbones, at one size of image
    :fidelity: simplified
    """

    parts: int = 25
    a: float = 2.0
    b: float = 2.0

    def prepare(self, x: NDArray[Any]) -> None:
        """Choose the channels whose sums over places vary most."""
        sums: list[Descriptors] = [
            np.asarray(x[s : s + BLOCK], np.float32).sum((1, 2)) for s in range(0, len(x), BLOCK)
        ]
        total = torch.from_numpy(np.concatenate(sums))[:, None, None]
        self.detectors_ = A.varied_channels(total, min(self.parts, x.shape[-1]))

    def aggregate(self, maps: Tensor) -> Tensor:
        """Sums weighted by each detector's map (n, parts d)."""
        return A.part_weighted(maps, self.detectors_, self.a, self.b)
