"""Corr-AE [125]: correspondence autoencoder (survey Sections V-B, VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class AutoencoderTower(HashNetwork):
    """A hash network that can also rebuild its standardised input from the output."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float):
        super().__init__(x, width, bits, dropout)
        self.decoder = nn.Sequential(
            nn.Linear(bits, width), nn.ReLU(), nn.Linear(width, x.shape[1])
        )

    def reconstruction(self, x: Tensor, h: Tensor) -> Tensor:
        """Mean squared error of the input rebuilt from h, over rows and features."""
        standardise = self.trunk[0]  # type: ignore[index]
        return F.mse_loss(self.decoder(h), standardise(x))


@dataclass(kw_only=True, eq=False)
class CorrAE(TwoTowerMethod):
    r"""Two autoencoders, one a modality, whose codes of one pair are pulled together.

    Each modality must be rebuilt from its own short code, and the codes of a picture and of its
    words must be near each other. No label is used: the pairing is all that is known.

    :survey: Sections V-B, VII-A
    :cite: feng2014corrae
    :source: the objective as printed in later papers and in the survey's row
    :objective: \min\ (1-\alpha)\big(\|x-\hat x\|_2^2+\|t-\hat t\|_2^2\big)
        +\alpha\|h_x-h_t\|_2^2
    :shapes: x (n, d), other (n, d_t); h float32 (n, bits) of either modality
    :defaults: alpha = 0.8, not tuned
    :departures: the restricted Boltzmann machines that initialise the paper's autoencoders are left
        out; inputs are frozen features and word vectors, standardised; cosine ranks
    :fidelity: simplified
    """

    supervision: ClassVar[str] = "unsupervised"
    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "text"

    alpha: float = 0.8

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Two autoencoders."""
        size = self.width, self.bits, self.dropout
        return TwoTowers(
            AutoencoderTower(np.asarray(x), *size), AutoencoderTower(self._others(), *size)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction of both modalities, and distance of the codes of a pair."""
        image, other = self.network_.image, self.network_.other
        assert isinstance(image, AutoencoderTower)
        assert isinstance(other, AutoencoderTower)
        assert batch.other is not None
        h_x, h_t = image(batch.x), other(batch.other)
        rebuilt = image.reconstruction(batch.x, h_x) + other.reconstruction(batch.other, h_t)
        return {
            "reconstruction": (1 - self.alpha) * rebuilt,
            "correspondence": self.alpha * F.mse_loss(h_x, h_t),
        }
