"""Pairwise relationship guided deep hashing [142] (survey Section VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cbir_lite.methods.cross_modal._shared import likelihood, quantization
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.two_towers import TwoTowerMethod


def decorrelation(z: Tensor) -> Tensor:
    """Mean squared correlation of different bits over a batch of outputs (n, bits)."""
    centred = z - z.mean(0)
    scale = centred.square().mean(0).sqrt().clamp_min(1e-6)
    correlation = centred.T @ centred / len(z) / (scale[:, None] * scale[None, :])
    off = correlation - torch.diag(torch.diag(correlation))
    return off.square().sum() / (z.shape[1] * (z.shape[1] - 1))


@dataclass(kw_only=True, eq=False)
class PRDH(TwoTowerMethod):
    r"""Pair labels within and across modalities train two hashing networks.

    Every kind of pair counts: picture and words, two pictures, two texts. Bits of one code are kept
    uncorrelated, and outputs near their signs.

    :survey: Sections V-A, VII-A
    :cite: yang2017prdh
    :source: the paper's objective as restated by later papers and the survey's row
    :objective: \min\ -\sum_{v\in\{xt,xx,tt\}}\sum_{ij}\big(s_{ij}\Theta^v_{ij}
        -\log(1+e^{\Theta^v_{ij}})\big)+\gamma\,L_{decorrelation}+\lambda\,\|\mathrm{sgn}(z)-z\|_2^2,
        \quad\Theta_{ij}=\tfrac12 z_i^\top z_j
    :shapes: x (n, d), other (n, d_t), labels (n, C); codes int8 (n, bits)
    :defaults: gamma = 0.1, lambda = 0.1, all pairs of a batch
    :departures: inputs are frozen features and word vectors; Adam instead of alternating SGD; the
        signs are those of each modality's own outputs, the paper shares one code for a pair
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "text"

    gamma: float = 0.1
    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihoods of three kinds of pairs, decorrelation and quantization of both sides."""
        assert batch.other is not None
        x = self.network_(batch.x)
        t = self.network_.get_submodule("other")(batch.other)
        s = batch.similarity
        return {
            "inter": likelihood(x, t, s),
            "intra": likelihood(x, x, s) + likelihood(t, t, s),
            "decorrelation": self.gamma * (decorrelation(x) + decorrelation(t)),
            "quantization": self.lam * quantization(x, t),
        }
