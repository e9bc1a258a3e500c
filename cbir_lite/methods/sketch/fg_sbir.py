"""FG-SBIR [137]: spatial-semantic attention and a second-order energy (survey Section VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.cross_modal._shared import cross_triplet
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.sketch._shared import pair
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_SAMPLE = 256
"""Rows from which means and deviations of the maps are taken."""


class _Fusion(nn.Module):
    """Fine features (n, d) to unit vectors (n, bits): a deep half and a half by a shortcut."""

    def __init__(self, d: int, width: int, bits: int, dropout: float):
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(d, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, bits - bits // 2),
        )
        self.fine = nn.Sequential(nn.Dropout(dropout), nn.Linear(d, bits // 2))

    def forward(self, v: Tensor) -> Tensor:
        """Both halves, together of length one."""
        return F.normalize(torch.cat([self.coarse(v), self.fine(v)], 1), dim=1)


class _Tower(nn.Module):
    """Maps (n, h, w, d), attended to at some positions, then fused.

    ``score`` and ``fusion`` are those of the other tower too; only means and deviations, which are
    not learned, are its own.
    """

    def __init__(self, x: NDArray[Any], score: nn.Sequential, fusion: nn.Module):
        super().__init__()
        some = x[:: -(-len(x) // _SAMPLE)].astype(np.float32)
        self.standardise = Standardise(some)
        self.score = score
        self.fusion = fusion

    def mask(self, x: Tensor) -> Tensor:
        """Attention (n, h * w) over the positions of float maps, rows sum to one."""
        # Scaling the weights instead of the maps saves a pass over the largest tensor.
        first = self.score[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight / self.standardise.scale
        bias = first.bias - weight @ self.standardise.mean
        h = F.relu(F.linear(x, weight, bias))
        scores: Tensor = self.score[2](h)
        return F.softmax(scores.flatten(1), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over positions plus the attended mean, standardised, fused."""
        x = x.float()
        a = self.mask(x)
        both = torch.stack([torch.full_like(a, 1 / a.shape[1]), a], 1) @ x.flatten(1, 2)
        z: Tensor = self.fusion(self.standardise(both).sum(1))
        return z


@dataclass(kw_only=True, eq=False)
class FineGrainedSBIR(TwoTowerMethod):
    r"""Attention, coarse and fine features together, and a distance with learned cross terms.

    One network with the same weights for sketches and photos looks at some positions more than at
    others and adds what it sees there to the mean; a shortcut carries these fine features past the
    deep layer to the output. Sketch and photo are compared by a second-order energy: every
    dimension of one with every dimension of the other, by learned weights that start as the plain
    Euclidean distance and are held near it, so that a detail may be found in a neighbouring
    feature. A triplet loss trains all of it.

    :survey: Sections V-E, VII-B, VII-F, VII-G
    :cite: song2017dssa
    :source: the paper's abstract, the survey's row and sentences, and an author's public code
        (yuqian1023/Deep_SBIR_tf: attention, fusion, weights shared by both sides, margin), which
        trains with the plain Euclidean distance and has no learned energy
    :objective: \min\ \sum\max\big(0,\Delta+D(s,p^+)-D(s,p^-)\big)
        +\lambda\big(\|W-I\|_1+\|W-I\|_F\big),\quad
        D(s,p)=\sum_{ij}W_{ij}\big(f_i(s)-f_j(p)\big)^2
    :shapes: maps of photos x (n, h, w, d) and of sketches other (n, h', w', d), labels (n, C); f
        float32 (n, bits) of length one; W (bits, bits)
    :defaults: Delta = 0.3 as in the code; lambda = 1e-3 with the first norm as a mean over its
        rows, attention by 32 channels (256 in the code), triplets of 32 anchors of a batch: chosen
        here
    :departures: frozen maps replace the CNN trained end to end; photos stay in colour, where the
        code reads their edges, so each side has means and deviations of its own, while all that is
        learned is shared; what is seen at the positions is averaged, in the code summed for the
        shortcut and read position by position by the deep layers; the shortcut ends in a linear
        layer of bits / 2, and both halves are brought to length one together, not each by itself;
        who is a positive is said by the labels: give labels of concepts for the fine-grained
        task, of categories otherwise; norms and weights of W are as later papers tell them, not
        checked
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "sketch"
    reads: ClassVar[str] = "maps"
    other_reads: ClassVar[str] = "maps"

    margin: float = 0.3
    lam: float = 1e-3
    hidden: int = 32
    anchors: int = 32

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two towers of the same weights; raises ``ValueError`` for other inputs than maps."""
        sketches = self._others()
        if x.ndim != 4 or sketches.ndim != 4 or sketches.shape[3] != x.shape[3]:
            raise ValueError(
                f"fg_sbir reads maps (n, h, w, d) of photos and of sketches from one backbone, "
                f"got {x.shape} and {sketches.shape}: extract features of kind 'maps'"
            )
        d = x.shape[3]
        score = nn.Sequential(nn.Linear(d, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))
        fusion = _Fusion(d, self.width, self.bits, self.dropout)
        network = TwoTowers(*(_Tower(v, score, fusion) for v in (x, sketches)))
        network.register_parameter("energy", nn.Parameter(torch.eye(self.bits)))
        return network

    def energies(self, s: Tensor, p: Tensor) -> Tensor:
        """D (n, m) of sketch outputs s (n, bits) and photo outputs p (m, bits)."""
        W = self.network_.get_parameter("energy")
        return (s.square() @ W.sum(1))[:, None] + p.square() @ W.sum(0) - 2 * s @ W @ p.T

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplets anchored at sketches, and the distance of W from the identity."""
        p, s = pair(self, batch)
        few = slice(0, self.anchors)
        away = self.network_.get_parameter("energy") - torch.eye(self.bits)
        # The derivative of the Frobenius norm does not exist at the identity, where W starts.
        norms = away.abs().sum() / self.bits + (away.square().sum() + 1e-12).sqrt()
        return {
            "triplet": cross_triplet(self.energies(s[few], p), batch.similarity[few], self.margin),
            "energy": self.lam * norms,
        }

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """The learned energy between sketches and photos."""
        with torch.inference_mode():
            d: NDArray[np.float32] = self.energies(
                torch.from_numpy(queries), torch.from_numpy(database)
            ).numpy()
        return d
