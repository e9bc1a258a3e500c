"""TVDB [139]: textual-visual deep binaries (survey Sections V-F, VII-A, VII-F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn.cnn_off_the_shelf import windows
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_LEVELS = 2
_BLOCK = 256
_SPANS = (1, 2, 3)


def regions(x: NDArray[Any]) -> NDArray[np.float32]:
    """Regions float32 (n, 5, d + 4) of maps (n, h, w, d): the whole, then four overlapping parts.

    The parts come by falling norm of their mean activation. The last four numbers of a region are
    its height, its width and its centre (down, right) as shares of those of the map.
    """
    h, w = x.shape[1:3]
    places = windows(h, w, _LEVELS)
    frames = np.array(
        [
            [
                (r.stop - r.start) / h,
                (c.stop - c.start) / w,
                (r.start + r.stop) / (2 * h),
                (c.start + c.stop) / (2 * w),
            ]
            for r, c in places
        ]
    )
    out = np.empty((len(x), len(places), x.shape[3] + 4), np.float32)
    for a in range(0, len(x), _BLOCK):
        block = np.asarray(x[a : a + _BLOCK], np.float32)
        means = np.stack([block[:, r, c].mean((1, 2)) for r, c in places], 1)
        order = np.argsort(-np.linalg.norm(means[:, 1:], axis=2), 1, kind="stable") + 1
        order = np.concatenate([np.zeros_like(order[:, :1]), order], 1)
        out[a : a + _BLOCK, :, :-4] = np.take_along_axis(means, order[:, :, None], 1)
        out[a : a + _BLOCK, :, -4:] = frames[order]
    return out


def _hash_layers(inputs: int, width: int, bits: int, dropout: float) -> nn.Sequential:
    """The two layers that both networks end in: (n, inputs) to h in (-1, 1) (n, bits)."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, bits), nn.Tanh()
    )


class RegionTower(nn.Module):
    """Regions (B, R, d) in their order to h in (-1, 1) (B, bits), read both ways by an LSTM."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.region = nn.Sequential(
            Standardise(x), nn.Dropout(dropout), nn.Linear(x.shape[-1], width), nn.ReLU()
        )
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.hash_layers = _hash_layers(2 * width, width, bits, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The code is made of the mean over what is said after each region."""
        said = self.lstm(self.region(x))[0].mean(1)
        h: Tensor = self.hash_layers(F.relu(said))
        return h


class TextTower(nn.Module):
    """Multi-hot words (B, V) to h in (-1, 1) (B, bits): convolutions over the list of words."""

    def __init__(self, vocabulary: int, width: int, bits: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, span) for span in _SPANS)
        self.hash_layers = _hash_layers(len(_SPANS) * width, width, bits, dropout)

    def forward(self, words: Tensor) -> Tensor:
        """The largest response of every filter over the words of an item, in list order."""
        present = words > 0
        count = present.sum(1)
        longest = max(1, int(count.max()))
        # Positions of the words first, in their order; then what is not there.
        listed = (~present).long().argsort(dim=1, stable=True)[:, :longest]
        there = torch.arange(longest) < count[:, None]
        # Words beyond the last are zero, however long the longest text of the batch is.
        e = (self.embedding(listed) * there[:, :, None]).transpose(1, 2)
        pooled = [
            (F.relu(f(F.pad(e, (0, span - 1)))) * there[:, None]).amax(2)
            for f, span in zip(self.convolutions, _SPANS, strict=True)
        ]
        h: Tensor = self.hash_layers(torch.cat(pooled, 1))
        return h


@dataclass(kw_only=True, eq=False)
class TVDB(TwoTowerMethod):
    r"""Regions of a picture are read one after the other, and so are the words of a text.

    A recurrent network reads the regions of a picture from the dominant to the minor ones, and
    back, with their places; a convolutional network reads the text. Each has binary codes of its
    own. Training alternates within each batch: with the networks fixed, the codes of pictures and
    those of texts are found in turn, each at once, so that inner products follow the relevance of
    the pairs and codes stay near the outputs; with the codes fixed, both networks learn them.

    :survey: Sections V-F, VII-A, VII-F
    :cite: shen2017tvdb
    :source: the paper's abstract and a published reading note that gives both networks and the
        objective with its auxiliary codes; the paper itself was not read
    :objective: \min_{B,H,f,g}\ -\mathrm{tr}\big(B^\top SH\big)+\eta\big(\|B-f(X)\|_F^2
        +\|H-g(T)\|_F^2\big),\quad B,H\in\{-1,1\}^{m\times k},
        \ S_{ij}=s_{ij}-\bar s_{i\cdot}-\bar s_{\cdot j}+\bar s;\quad
        B\leftarrow\mathrm{sgn}\big(SH+2\eta f(X)\big),\
        H\leftarrow\mathrm{sgn}\big(SB+2\eta g(T)\big)
    :shapes: maps x (n, h, w, d), regions (n, 5, d + 4), other (n, V), labels (n, C); B, H (m, bits)
        of a batch; codes int8 (n, bits)
    :defaults: eta = 0.1 (of 0.1 and 1, by held-out training concepts of the emoji set), H starts at
        sgn(g(T) less its mean over the batch) and each code is solved once a batch, filters over 1
        to 3 words, all layers 128 wide whatever ``width`` is; chosen here
    :departures: S is the relevance of a batch, centred by rows and columns: with ones and zeros one
        code for all is best, and with ones and minus ones, where few pairs are related, one code
        for all pictures and its opposite for all texts; the networks' own loss is the mean squared
        error, which eta only scales; there is no region proposal network: regions are the whole map
        and four overlapping parts by falling activation, of a frozen backbone, and the numbers of
        their places are not repeated; texts are sets of words, read in the order of the
        vocabulary; relevance is a shared label
    :fidelity: simplified
    """

    reads = "maps"
    modality: ClassVar[str | None] = "text"

    eta: float = 0.1
    layer: int = 128

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """Regions of maps (n, h, w, d); raises ``ValueError`` for other inputs."""
        if x.ndim != 4:
            raise ValueError(
                f"tvdb reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
            )
        return regions(x)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The network of regions and the network of words."""
        size = self.layer, self.bits, self.dropout
        words = self._others().shape[1]
        return TwoTowers(RegionTower(x, *size), TextTower(words, *size))

    def codes(self, image: Tensor, other: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Codes B of pictures and H of texts (m, bits) of a batch for fixed outputs of both."""
        S = s - s.mean(0) - s.mean(1, keepdim=True) + s.mean()
        # From the signs themselves, bits that are equal for all at first would stay so.
        H = sign(other - other.mean(0)).float()
        B = sign(S @ H + 2 * self.eta * image).float()
        H = sign(S.T @ B + 2 * self.eta * other).float()
        return B, H

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distances of the outputs from the codes of the batch."""
        assert batch.other is not None
        x = self.network_(batch.x)
        t = self.network_.get_submodule("other")(batch.other)
        B, H = self.codes(x.detach(), t.detach(), batch.similarity)
        return {"image": F.mse_loss(x, B), "text": F.mse_loss(t, H)}
