"""UCBD [113]: DeepBit extended (survey Sections IV-B, V-A, VI-A, Fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn.deepbit import evenness_loss, one_view, quantization_loss
from cbir_lite.methods.deep import Batch, DeepMethod


def correlation_loss(z: Tensor) -> Tensor:
    """Squared error |B B^T / n - I|^2 of the bits b = sgn(z), z (n, bits), per bit.

    Only pairs of different bits count, since every bit agrees with itself. A step function has no
    slope, so the gradient of b is taken as that of 2 z, whose target values are plus and minus one.
    """
    b = 2 * z + (sign(z.detach()) - 2 * z).detach()
    return (b.T @ b / len(b) - torch.eye(b.shape[1])).square().sum() / b.shape[1]


@dataclass(kw_only=True, eq=False)
class UCBD(DeepMethod):
    r"""Small quantization loss, even and uncorrelated bits, and the same bits after transformation.

    The journal version of DeepBit. Beside turned copies of an image the network sees parts of it,
    enlarged and sometimes mirrored, and is to give all of them the same outputs. A fourth term
    keeps different bits from repeating each other. All terms are learned at once.

    :survey: Sections IV-B, V-A, VI-A; Fig. 5; Table III
    :cite: lin2019ucbd
    :source: the paper's abstract (three criteria, the third widened from rotation to
        transformations), the survey's sentence (uncorrelated bits), and the public code of the
        conference version (losses and their weights)
    :objective: \min\ \alpha\,\mathrm{mean}_i\|(b_i-0.5)-z_i\|^2+\beta\sum_k(\mu_k-0.5)^2
        +\tfrac\gamma K\big\|\tfrac1nBB^\top-I\big\|^2
        +\delta\,\mathrm{mean}_{i,t}\|z_{i,t}-z_i\|^2,
        \quad b=\tfrac12(\mathrm{sgn}(z)+1),\ B\in\{-1,1\}^{K\times n}
    :shapes: x (n, d), views (n, 6, d): four rotations and two random crops; z (n, bits); codes int8
        (n, bits)
    :defaults: alpha = beta = delta = 1; gamma = 0.1, chosen on a held-out part of the training
        images; one view of each image a step
    :departures: VGG is replaced by a hidden layer on frozen features; all transformations weigh the
        same; which transformations the paper uses besides rotation, and its weights, were
        not available; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"
    views: ClassVar[tuple[str, ...]] = (
        "rotate-10",
        "rotate-5",
        "rotate5",
        "rotate10",
        "crop0",
        "crop1",
    )

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.1
    delta: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Three terms over images and transformed images, one over the pairs of them."""
        assert batch.views is not None
        transformed, _ = one_view(batch.views)
        z = self.network_(torch.cat([batch.x, transformed]))
        z_image, z_view = z.chunk(2)
        return {
            "quantization": self.alpha * quantization_loss(z),
            "even": self.beta * evenness_loss(z),
            "uncorrelated": self.gamma * correlation_loss(z),
            "invariance": self.delta * (z_view - z_image).square().sum(1).mean(),
        }
