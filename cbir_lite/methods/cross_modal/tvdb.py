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
from cbir_lite.methods.gan.agah import code_map
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers

_LEVELS = 2
_BLOCK = 256
_SPANS = (1, 2, 3)


def regions(x: NDArray[Any]) -> NDArray[np.float32]:
    """Regions float32 (n, 5, d + 4) of maps (n, h, w, d): the whole, then four overlapping parts.

    The parts come by falling norm of their mean activation. The last four numbers of a region are
    its borders as shares of the height and the width.
    """
    h, w = x.shape[1:3]
    places = windows(h, w, _LEVELS)
    borders = np.array([[r.start / h, r.stop / h, c.start / w, c.stop / w] for r, c in places])
    out = np.empty((len(x), len(places), x.shape[3] + 4), np.float32)
    for a in range(0, len(x), _BLOCK):
        block = np.asarray(x[a : a + _BLOCK], np.float32)
        means = np.stack([block[:, r, c].mean((1, 2)) for r, c in places], 1)
        order = np.argsort(-np.linalg.norm(means[:, 1:], axis=2), 1, kind="stable") + 1
        order = np.concatenate([np.zeros_like(order[:, :1]), order], 1)
        out[a : a + _BLOCK, :, :-4] = np.take_along_axis(means, order[:, :, None], 1)
        out[a : a + _BLOCK, :, -4:] = borders[order]
    return out


class RegionTower(nn.Module):
    """Regions (B, R, d) in their order to h in (-1, 1) (B, bits), read by an LSTM."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__()
        self.region = nn.Sequential(
            Standardise(x), nn.Dropout(dropout), nn.Linear(x.shape[-1], width), nn.ReLU()
        )
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.hash_layer = nn.Linear(width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """The code is read off the state after the last region."""
        last = self.lstm(self.region(x))[0][:, -1]
        h: Tensor = self.hash_layer(last).tanh()
        return h


class TextTower(nn.Module):
    """Multi-hot words (B, V) to h in (-1, 1) (B, bits): convolutions over the list of words."""

    def __init__(self, vocabulary: int, width: int, bits: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, span) for span in _SPANS)
        self.drop = nn.Dropout(dropout)
        self.hash_layer = nn.Linear(len(_SPANS) * width, bits)

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
        h: Tensor = self.hash_layer(self.drop(torch.cat(pooled, 1))).tanh()
        return h


@dataclass(kw_only=True, eq=False)
class TVDB(TwoTowerMethod):
    r"""Regions of a picture are read one after the other, and so are the words of a text.

    A recurrent network reads the regions of a picture from the dominant to the minor ones, with
    their places; a convolutional network reads the text. Training alternates within each batch:
    with the networks fixed, one binary code for every pair of picture and text is found bit by
    bit, so that inner products follow the relevance of the pairs and the code stays near both
    outputs; with the codes fixed, both networks learn to give them.

    :survey: Sections V-F, VII-A, VII-F
    :cite: shen2017tvdb
    :source: the paper's abstract and a published summary of its figure (regions from dominant to
        minor with their coordinates into an LSTM, word embedding and text CNN, batch-wise coding
        in alternation with the networks); the equations were not at hand
    :objective: \min_{B,f,g}\ \|BB^\top-kS\|_F^2+\mu\big\|B-\tfrac12(f(X)+g(T))\big\|_F^2
        +\|f(X)-B\|_F^2+\|g(T)-B\|_F^2,\quad S\in\{-1,1\}^{m\times m},\ B\in\{-1,1\}^{m\times k}
    :shapes: maps x (n, h, w, d), regions (n, 5, d + 4), other (n, V), labels (n, C); B (m, bits)
        of a batch; codes int8 (n, bits)
    :defaults: mu = 100, one sweep over the bits a batch, filters over 1 to 3 words, all layers
        128 wide whatever ``width`` is (after a comparison on digits); chosen here
    :departures: the similarity term and its solution are this package's choice among those usual
        at the time (in each sweep one factor of BB' is held at the codes before it); there is no
        region proposal network: regions are the whole map and four overlapping parts by falling
        activation, of a frozen backbone; texts are sets of words, read in the order of the
        vocabulary; relevance is a shared label
    :fidelity: sketch
    """

    reads = "maps"
    modality: ClassVar[str | None] = "text"

    mu: float = 100.0
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

    def codes(self, image: Tensor, other: Tensor, s: Tensor) -> Tensor:
        """Binary codes B (m, bits) of the pairs of a batch for fixed outputs of both networks."""
        near = 0.5 * (image + other)
        B = sign(near).float()
        k = B.shape[1]
        # The pull towards the outputs is k more rows of the same least squares problem.
        rows = torch.cat([B, self.mu**0.5 * torch.eye(k)])
        target = torch.cat([k * (2 * s - 1), self.mu**0.5 * near.T])
        return code_map(rows, target, B)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distance of both outputs from the codes of the batch."""
        assert batch.other is not None
        x = self.network_(batch.x)
        t = self.network_.get_submodule("other")(batch.other)
        B = self.codes(x.detach(), t.detach(), batch.similarity)
        return {"image": F.mse_loss(x, B), "text": F.mse_loss(t, B)}
