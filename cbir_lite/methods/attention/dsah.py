"""DSAH [155]: deep spatial attention hashing (survey Sections V-E, VI-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod
from cbir_lite.methods.networks import FeatureTrunk, Standardise

_SAMPLE = 256
"""Images from which the spread over positions is taken: all of them would need much memory."""


class _Attention(nn.Module):
    """Maps (n, h, w, d) to weights (n, h, w) that sum to one over the positions of an image."""

    def __init__(self, x: NDArray[Any], width: int, dropout: float):
        super().__init__()
        self.standardise = Standardise(x)
        self.drop = nn.Dropout(dropout)
        self.convolution = nn.Linear(x.shape[-1], width)
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Each position's share of the gates in (0, 1) that 1x1 convolutions give them."""
        # Standardising and dropping channels on the weights instead of the maps saves passes over
        # the largest tensor.
        weight = self.convolution.weight * self.drop(1 / self.standardise.get_buffer("scale"))
        bias = self.convolution.bias - weight @ self.standardise.get_buffer("mean")
        gate = self.score(F.relu(F.linear(x.float(), weight, bias))).flatten(1).sigmoid()
        return (gate / gate.sum(1, keepdim=True)).view(x.shape[:3])


class _Network(nn.Module):
    """The main and the attention sub-network, joined at the hash layer, and a classifier."""

    def __init__(
        self,
        x: NDArray[Any],
        width: int,
        attention: tuple[int, float],
        bits: int,
        classes: int,
        dropout: float,
    ):
        super().__init__()
        pooled = np.stack([m.mean(axis=(0, 1), dtype=np.float32) for m in x])
        # What one position holds varies more than a mean of positions.
        some = x[:: -(-len(x) // _SAMPLE)].astype(np.float32)
        self.main = FeatureTrunk(pooled, width - width // 2, dropout)
        self.local = FeatureTrunk(some, width // 2, dropout)
        self.attention = _Attention(some, *attention)
        self.hash_layer = nn.Linear(width, bits)
        self.classifier = nn.Linear(bits, classes)
        self._scratch = torch.empty(0)

    def _as_float(self, x: Tensor) -> Tensor:
        """float32 maps in memory that is used again: fresh pages cost more than the cast."""
        if x.dtype == torch.float32:
            return x
        if self._scratch.shape[1:] != x.shape[1:] or len(self._scratch) < len(x):
            with torch.inference_mode(False):
                self._scratch = torch.empty(x.shape)
        return self._scratch[: len(x)].copy_(x)

    def forward(self, x: Tensor) -> Tensor:
        """z (n, bits) of maps (n, h, w, d)."""
        x = self._as_float(x)
        a = self.attention(x).flatten(1)
        uniform = torch.full_like(a, 1 / a.shape[1])
        features = torch.stack([uniform, a], 1) @ x.flatten(1, 2)
        hidden = [self.main(features[:, 0]), self.local(features[:, 1])]
        z: Tensor = self.hash_layer(torch.cat(hidden, 1))
        return z


@dataclass(kw_only=True, eq=False)
class DSAH(DeepMethod):
    r"""Where to look is learned beside what to see, and both feed the hash layer.

    The attention sub-network gives every position of the maps a weight and pools the maps by it;
    the main sub-network pools them evenly. Each has its own hidden layer, and the two join at the
    last fully connected layer, whose outputs z are trained by the likelihood of pair labels, by a
    classifier on z and by a pull to plus and minus one.

    :survey: Sections V-E, VI-C, IX; Table IV
    :cite: ge2019dsah
    :source: the survey's sentences on the two sub-networks and their fusion; no open copy of the
        paper and no public code was found
    :objective: \min\ -\sum_{i\ne j}\big(s_{ij}\Theta_{ij}-\log(1+e^{\Theta_{ij}})\big)
        +\beta\sum_i\mathrm{CE}(y_i,\hat y_i)+\lambda\sum_i\|z_i-\mathrm{sgn}(z_i)\|_2^2,
        \quad \Theta_{ij}=\tfrac12 z_i^\top z_j,\ z_i=f\big(\textstyle\frac1P\sum_p x_{ip},
        \sum_p a_{ip}x_{ip}\big)
    :shapes: maps x (n, h, w, d), labels (n, C); attention a (n, h, w); z (n, bits); codes int8
        (n, bits)
    :defaults: beta = 1, lam = 0.1 (sums over pairs, images and bits are means here); attention by
        1x1 convolutions to 32 channels and to one gate, the gates of an image divided by their
        sum; half of the channels it reads dropped in training, because on a validation part of
        the training set a softmax without it overfitted; hidden layers of width / 2 each, so
        that both together are as wide as the hidden layer of other systems; all chosen here
    :departures: the loss, its weights and the attention's layers are not the paper's but the
        common ones of its time; maps of a frozen backbone replace the CNN trained end to end
    :fidelity: sketch
    """

    reads = "maps"

    beta: float = 1.0
    lam: float = 0.1
    attention_width: int = 32
    attention_dropout: float = 0.5

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two sub-networks on maps (n, h, w, d); raises ``ValueError`` for other inputs."""
        if x.ndim != 4:
            raise ValueError(
                f"dsah reads maps (n, h, w, d) and got {x.shape}: extract features of kind 'maps'"
            )
        assert n_classes is not None
        attention = self.attention_width, self.attention_dropout
        return _Network(x, self.width, attention, self.bits, n_classes, self.dropout)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Pair likelihood over pairs i != j, classification and quantization of the outputs z."""
        z = self.network_(batch.x)
        y, s = batch.labels, batch.similarity
        theta = 0.5 * z @ z.T
        others = 1 - torch.eye(len(z))
        classifier = self.network_.get_submodule("classifier")
        target = y / y.sum(1, keepdim=True).clamp_min(1)
        return {
            "likelihood": ((F.softplus(theta) - s * theta) * others).sum() / others.sum(),
            "classification": self.beta * F.cross_entropy(classifier(z), target),
            "quantization": self.lam * (z - sign(z.detach())).square().mean(),
        }

    def attention(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Attention float32 (n, h, w) of maps (n, h, w, d); an image's weights sum to one."""
        self._require_fit()
        return self._in_blocks(self.network_.get_submodule("attention"), x).numpy()
