"""ADAH [145]: attention-aware deep adversarial hashing (survey Sections V-D, V-E, VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.cross_modal._shared import cosine_distance, two_way_triplet
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import FeatureTrunk, Standardise, trunk
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_SAMPLE = 256
"""Images from which the spread over positions is taken: all of them would need much memory."""


def binary_mask(score: Tensor) -> Tensor:
    """1 where a score (B, P) is above the mean of its row, else 0; the gradient is a sigmoid's."""
    soft = torch.sigmoid(score - score.mean(1, keepdim=True))
    return soft + ((soft > 0.5).float() - soft).detach()


def opposed(mask: Tensor) -> Tensor:
    """The mask and its complement (B, 2, P); the gradient of the complement is turned round.

    So whoever makes the mask climbs the loss of the unattended part while others descend it.
    """
    rest = 1 - mask
    return torch.stack([mask, 2 * rest.detach() - rest], 1)


class MapTower(nn.Module):
    """Maps (B, h, w, d) to codes of what is attended to, and of what is not."""

    def __init__(self, x: NDArray[Any], width: int, channels: int, bits: int, dropout: float):
        super().__init__()
        some = np.asarray(x[:: -(-len(x) // _SAMPLE)], np.float32)
        self.standardise = Standardise(some)
        self.attention = nn.Sequential(
            nn.Linear(x.shape[-1], channels), nn.ReLU(), nn.Linear(channels, 1)
        )
        pooled = np.stack([m.mean(axis=(0, 1), dtype=np.float32) for m in x])
        self.trunk = FeatureTrunk(pooled, width, dropout)
        self.hash_layer = nn.Linear(width, bits)

    def mask(self, x: Tensor) -> Tensor:
        """Binary attention (B, P) over the positions of flat maps (B, P, d)."""
        first = self.attention[0]
        assert isinstance(first, nn.Linear)
        # Standardising by the weights spares a pass over the maps.
        weight = first.weight / self.standardise.scale
        hidden = F.linear(x, weight, first.bias - weight @ self.standardise.mean)
        return binary_mask(self.attention[1:](hidden).squeeze(2))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h in (-1, 1) (B, bits) of the attended and of the unattended positions."""
        x = x.flatten(1, 2).float()
        both = opposed(self.mask(x))
        pooled = both / both.sum(2, keepdim=True).clamp_min(1) @ x
        h = self.hash_layer(self.trunk(pooled)).tanh()
        return h[:, 0], h[:, 1]

    def forward(self, x: Tensor) -> Tensor:
        """h of what is attended to."""
        return self.codes(x)[0]


class WordTower(nn.Module):
    """Words (B, d) to codes of the attended and of the unattended units of a hidden layer."""

    def __init__(self, words: NDArray[Any], width: int, channels: int, bits: int, dropout: float):
        super().__init__()
        self.trunk = trunk(words, width, dropout)
        self.attention = nn.Sequential(
            nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, width)
        )
        self.hash_layer = nn.Linear(width, bits)

    def codes(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """h in (-1, 1) (B, bits) of either part."""
        f = self.trunk(words)
        # The features serve the hashing module only, so the attention does not shape them.
        both = opposed(binary_mask(self.attention(f.detach())))
        h = self.hash_layer(f[:, None] * both).tanh()
        return h[:, 0], h[:, 1]

    def forward(self, words: Tensor) -> Tensor:
        """h of what is attended to."""
        return self.codes(words)[0]


@dataclass(kw_only=True, eq=False)
class ADAH(TwoTowerMethod):
    r"""An attention module hides what matters from the hash functions, and so finds it.

    In each modality a binary mask divides the features into an attended and an unattended part,
    and the same hash layer codes both. The hashing module keeps similar pictures and words
    together by triplets across modalities, for the attended and for the unattended part. The
    attention module moves against it: it wants the unattended part to fail, so everything that
    tells the items apart goes to the attended part. Retrieval uses the code of that part.

    AGAH of reference 160, whose attention looks up labels, is another system (``agah``).

    :survey: Sections V-D, V-E, VII-A
    :cite: zhang2018adah
    :source: abstract and introduction of the paper and of its preprint, which state the modules,
        who plays against whom on which part, and the binary masks; the full text was not at hand
    :objective: \min_{f,h}\ L(h^x_a,h^t_a)+L(h^x_u,h^t_u),\quad
        \max_{a}\ L(h^x_u,h^t_u)-L(h^x_a,h^t_a),\quad
        L(x,t)=\sum_{s_{ij}>s_{ik}}\max\big(0,m+d(x_i,t_j)-d(x_i,t_k)\big)+(x\leftrightarrow t)
    :shapes: maps x (n, h, w, d), other (n, d_t), labels (n, C); masks (n, h w) and (n, width);
        codes int8 (n, bits)
    :defaults: margin 0.5 on cosines, 32 anchors a batch, 32 channels of attention; chosen here
    :departures: maps of a frozen backbone instead of a CNN trained along; words have no places,
        so their mask is over the units of a hidden layer; a mask holds what scores above the mean
        of its item instead of above a constant, since nothing else keeps the attention from
        attending to everything; the attention also profits from a good attended part, which the
        abstract leaves open; both players step at once, by turning a gradient round; Adam
    :fidelity: simplified
    """

    reads = "maps"
    modality: ClassVar[str | None] = "text"

    margin: float = 0.5
    anchors: int = 32
    channels: int = 32

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """A tower on maps (n, h, w, d) and one on words; ``ValueError`` for other inputs."""
        if x.ndim != 4:
            raise ValueError(
                f"adah reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
            )
        size = self.width, self.channels, self.bits, self.dropout
        return TwoTowers(MapTower(x, *size), WordTower(self._others(), *size))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Triplets across modalities on the attended and on the unattended parts.

        The hashing module descends both; the gradient that the masks get of the second is turned
        round, so the attention modules descend the first and climb the second.
        """
        image, other = self.network_.get_submodule("image"), self.network_.get_submodule("other")
        assert isinstance(image, MapTower)
        assert isinstance(other, WordTower)
        assert batch.other is not None
        parts = zip(image.codes(batch.x), other.codes(batch.other), strict=True)
        s = batch.similarity
        attended, unattended = (
            two_way_triplet(cosine_distance(x, t), s, self.margin, self.anchors) for x, t in parts
        )
        return {"attended": attended, "unattended": unattended}

    def attention(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Masks float32 (n, h, w) of maps (n, h, w, d): 1 where the code looks, else 0."""
        self._require_fit()
        tower = self.network_.get_submodule("image")
        assert isinstance(tower, MapTower)
        with torch.inference_mode():
            flat = torch.from_numpy(np.asarray(x, np.float32)).flatten(1, 2)
            masks: NDArray[np.float32] = tower.mask(flat).reshape(x.shape[:3]).numpy()
        return masks
