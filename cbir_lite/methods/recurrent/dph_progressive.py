"""DPH [83]: deep progressive hashing (survey Sections III.7, V-F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.base import Codes, as_float32, sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import FeatureTrunk

# In float32 these maps stay below what the allocator gives back and has to ask for again.
_BLOCK = 128


def salient_regions(x: Tensor, steps: int) -> Tensor:
    """Descriptors r (n, steps, d) of growing salient regions of maps (n, h, w, d), float32.

    The saliency of a position is the sum of its channels. Region t holds the
    ceil(t / steps x positions) most salient positions (ties: the first in row order), and r_t is
    the mean of the maps over it; the last region is the whole image.
    """
    x = x.flatten(1, 2).float()
    n, positions, _ = x.shape
    order = x.sum(2).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(positions).expand(n, -1))
    size = torch.tensor([-(-t * positions // steps) for t in range(1, steps + 1)])[:, None]
    inside = (rank[:, None, :] < size).float() / size
    return inside @ x


class _Steps(nn.Module):
    """Region descriptors (n, T, d) to relaxed codes of all steps (n, T, bits) in (-1, 1)."""

    def __init__(self, r: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.trunk = FeatureTrunk(r, width, dropout)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.hash_layer = nn.Linear(width, bits)

    def forward(self, r: Tensor) -> Tensor:
        """One code for each step; a step knows the regions before it."""
        h: Tensor = self.hash_layer(self.lstm(self.trunk(r))[0]).tanh()
        return h


class _Network(nn.Module):
    """The relaxed code of the last step (n, bits)."""

    def __init__(self, r: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.steps = _Steps(r, width, bits, dropout)

    def forward(self, r: Tensor) -> Tensor:
        """Region descriptors (n, T, d) to the code that has seen every region."""
        h: Tensor = self.steps(r)[:, -1]
        return h


@dataclass(kw_only=True, eq=False)
class DPH(DeepMethod):
    r"""A recurrent network reads growing salient regions and emits a code after each.

    The first region is the most salient part of the image, the last the whole of it. An LSTM
    carries on what it has seen, so that later codes refine earlier ones; a triplet ranking loss
    trains the code of every step. The last code is the image's.

    :survey: Sections III.7 (2019), V-F
    :cite: bai2019dph
    :source: the abstracts of the 2017 conference and the 2019 journal paper (LSTM, codes of
        expanding salient regions, triplet ranking loss); full text and code were not found
    :objective: \min\ \sum_t\sum_{(a,p,n)}\max\big(0,\ m+\|h^t_a-h^t_p\|_2^2
        -\|h^t_a-h^t_n\|_2^2\big)
    :shapes: maps x (n, h, w, d), labels (n, C); region descriptors r (n, T, d); h (n, T, bits);
        codes int8 (n, bits), of all steps (n, T, bits)
    :defaults: T = 4 steps, m = bits / 4 (a bit that differs adds 4 to a distance), the sum over
        triplets is a mean, hidden layer and LSTM of width / 2; all chosen here
    :departures: saliency is the sum of channels of frozen maps instead of the papers' saliency
        models, and a region is pooled from the maps instead of cropped from the image; the plain
        LSTM of 2017, not the graph-based recurrent network of 2019; the constants, and whatever
        the loss has beside the ranking, are not the papers'
    :fidelity: sketch
    """

    reads = "maps"

    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps={self.steps!r}: the number of regions must be an integer >= 1")

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits / 4

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Region descriptors float32 (n, T, d) of maps (n, h, w, d): they hold no parameters."""
        if x.ndim != 4:
            raise ValueError(
                f"dph_progressive reads maps (n, h, w, d) and got {x.shape}: extract features of "
                "kind 'maps'"
            )
        r = np.empty((len(x), self.steps, x.shape[-1]), np.float32)
        for a in range(0, len(x), _BLOCK):
            block = torch.from_numpy(as_float32(x[a : a + _BLOCK]))
            r[a : a + _BLOCK] = salient_regions(block, self.steps).numpy()
        return r

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hidden layer, LSTM and hash layer on region descriptors (n, T, d)."""
        return _Network(x, self.width // 2, self.bits, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking loss averaged over all valid triplets of the batch, one term for each step."""
        s = batch.similarity
        a, p = (s - torch.eye(len(s)) > 0).nonzero(as_tuple=True)
        negative = 1 - s[a]
        triplets = negative.sum().clamp_min(1)
        terms = {}
        for t, h in enumerate(self.network_.get_submodule("steps")(batch.x).unbind(1), 1):
            squares = h.square().sum(1)
            d2 = squares[:, None] + squares - 2 * h @ h.T
            hinge = (self.m + d2[a, p][:, None] - d2[a]).clamp_min(0)
            terms[f"ranking {t}"] = (hinge * negative).sum() / triplets
        return terms

    def encode_steps(self, x: NDArray[Any]) -> Codes:
        """Codes int8 (n, T, bits) after each region of maps (n, h, w, d); the last are encode's."""
        self._require_fit()
        steps = self.network_.get_submodule("steps")
        codes: Codes = sign(self._in_blocks(steps, x)).numpy()
        return codes
