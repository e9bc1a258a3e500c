"""Network parts shared by the deep systems: standardised trunk, small conv net, hash layer.

Every deep system starts from the same trunk (one hidden layer on frozen features, or a small conv
net on images), so that measured differences come from the objective. Survey: Section V-A.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def moments(x: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (d,) over all but the last axis of ``x`` (..., d)."""
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    # In blocks that stay in the cache: a float64 copy of all rows takes longer than the sums.
    step = max(1, 2**16 // max(1, len(mean)))
    for a in range(0, len(rows), step):
        centred = rows[a : a + step] - mean
        squares += np.einsum("ij,ij->j", centred, centred)
    return mean, np.sqrt(squares / len(rows))


class Standardise(nn.Module):
    """Subtract the mean and divide by the standard deviation of the training inputs, per feature.

    Maps are standardised per channel. Features that never vary are only centred.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, x: NDArray[np.generic]):
        super().__init__()
        mean, std = moments(x)
        scale = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0)
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Float input of any shape (..., d)."""
        return (x.float() - self.mean) / self.scale


class Dropout(nn.Module):
    """Dropout in float32, with 16 random bits to decide on each value.

    ``nn.Dropout`` draws its Bernoulli numbers one by one, which on a CPU costs as much as the
    hidden layer it regularises; here one 64-bit draw decides on four values.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout {p}: use a probability of at least 0 and below 1")
        self.p = p
        self.dropped = round(p * 2**16)

    def forward(self, x: Tensor) -> Tensor:
        """While training each value of ``x`` is zero with probability p, else x / (1 - p)."""
        if not self.training or not self.dropped:
            return x
        n = x.numel()
        draws = torch.empty(-(-n // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        numbers = draws.view(torch.int16)[:n].view(x.shape).float()
        kept = numbers.ge_(self.dropped - 2**15).mul_(2**16 / (2**16 - self.dropped))
        return x * kept


class FeatureTrunk(nn.Sequential):
    """Features (n, d) to (n, width): standardise, hidden layer, ReLU; dropout on both sides."""

    def __init__(self, x: NDArray[np.generic], width: int, dropout: float = 0.0):
        super().__init__(
            Standardise(x),
            Dropout(dropout),
            nn.Linear(x.shape[-1], width),
            nn.ReLU(),
            Dropout(dropout),
        )
        self.width = width


class ConvTrunk(nn.Module):
    """Images uint8 (n, h, w, c) to (n, width): three conv blocks, a hidden layer, from scratch."""

    def __init__(self, x: NDArray[np.uint8], width: int):
        super().__init__()
        self.width = width
        self.standardise = Standardise(x)
        layers: list[nn.Module] = []
        channels = x.shape[-1]
        for out in (32, 64, 128):
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = out
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(4 * channels, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Batch of images to hidden activations."""
        y: Tensor = self.hidden(self.convolutions(self.standardise(x).permute(0, 3, 1, 2)))
        return y


class MeanOfMaps(nn.Module):
    """Maps (n, h, w, d) to pooled features (n, d)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over positions."""
        return x.float().mean(dim=(1, 2))


def trunk(x: NDArray[np.generic], width: int, dropout: float = 0.0) -> nn.Module:
    """The trunk for what ``x`` is: uint8 images, maps (n, h, w, d) or pooled features (n, d).

    ``x`` is the training input, from which the standardisation is taken. The result has an
    attribute ``width``.
    """
    if x.dtype == np.uint8 and x.ndim == 4:
        return ConvTrunk(x.view(np.uint8), width)
    if x.ndim == 4:
        pooled = np.stack([m.mean(axis=(0, 1), dtype=np.float32) for m in x])
        inner = FeatureTrunk(pooled, width, dropout)
        network = nn.Sequential(MeanOfMaps(), inner)
        network.width = width  # type: ignore[assignment]
        return network
    if x.ndim == 2:
        return FeatureTrunk(x, width, dropout)
    raise ValueError(
        f"inputs of shape {x.shape}: use features (n, d), maps (n, h, w, d) or uint8 images "
        "(n, h, w, c)"
    )


class HashNetwork(nn.Module):
    """Trunk and hash layer: inputs to real-valued outputs z (n, bits), whose sign is the code."""

    def __init__(self, x: NDArray[np.generic], width: int, bits: int, dropout: float = 0.0):
        super().__init__()
        self.trunk = trunk(x, width, dropout)
        self.hash_layer = nn.Linear(width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        z: Tensor = self.hash_layer(self.trunk(x))
        return z
