"""DeepBit [112]: compact binary descriptors without labels (survey Sections IV-B, V-A, VI-A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork

ANGLES = (-10, -5, 5, 10)
"""Degrees by which the training images are turned."""
SIGMA = 5.0


def quantization_loss(z: Tensor) -> Tensor:
    """Mean over images of |(b - 0.5) - z|^2, where b = (sgn(z) + 1) / 2 and z (n, bits)."""
    b = (z.detach() >= 0).to(z.dtype)
    return ((b - 0.5) - z).square().sum(1).mean()


def evenness_loss(z: Tensor) -> Tensor:
    """Sum over bits of (mu_k - 0.5)^2, mu_k the mean of b_k over the images of z (n, bits).

    A step function has no slope, so the gradient of b is taken as that of z.
    """
    b = z + ((z >= 0).to(z.dtype) - z).detach()
    return (b.mean(0) - 0.5).square().sum()


def one_view(views: Tensor) -> tuple[Tensor, Tensor]:
    """One view (n, d) of each image, drawn at random from ``views`` (n, V, d), and which, (n,)."""
    k = torch.randint(views.shape[1], (len(views),))
    return views[torch.arange(len(views)), k], k


@dataclass(kw_only=True, eq=False)
class DeepBit(DeepMethod):
    r"""Bits that lose little in the sign, are set in half of the images, and survive a turn.

    Nothing but the images is needed. Outputs are pulled to plus and minus one half, every bit is to
    be one as often as zero, and an image and its copy turned by a few degrees are to have the same
    outputs, where small turns count more than large ones. Training has two stages: first the hash
    layer alone learns the first two criteria, then the whole network learns all three, from the
    images and from one turned copy of each.

    :survey: Sections IV-B, V-A, VI-A; Tables II, III, IV
    :cite: lin2016deepbit
    :source: the paper's abstract and the authors' public code (loss layers, two stages, angles and
        their weights, weights of the losses); this is the version with rotation, the abstract in
        the proceedings names uncorrelated bits as the third criterion instead
    :objective: \min\ \alpha\,\mathrm{mean}_i\|(b_i-0.5)-z_i\|^2+\beta\sum_k(\mu_k-0.5)^2
        +\gamma\,\mathrm{mean}_{i,\theta}\,C(\theta)\|z_{i,\theta}-z_i\|^2,
        \quad b=\tfrac12(\mathrm{sgn}(z)+1),\ C(\theta)=e^{-\theta^2/2\sigma^2}
    :shapes: x (n, d), views (n, 4, d) of images turned by -10, -5, 5 and 10 degrees; z (n, bits);
        codes int8 (n, bits)
    :defaults: alpha = beta = 1, sigma = 5 degrees (public code); gamma = 1 chosen here, where the
        public code has 0.001 beside losses of the same scale; each stage takes half of the epochs
    :departures: VGG is replaced by a hidden layer on frozen features, which the second stage trains
        (the public code keeps all layers but the last as they were pretrained); the gradient of the
        even distribution goes through each bit, where the public code sends one number to all bits,
        with both signs to the same outputs, so that it cancels, and does the same for the
        quantization, which leaves the rotation; it shows angle weights C in its printed loss only
        and turned images in the second stage only, and divides the even distribution by the batch
        size once more; codes are signs, where it cuts outputs, which end in a rectifier, at their
        overall mean; images as they are do not count as a fifth view; stages take half of the
        epochs each, there ten to one; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"
    views: ClassVar[tuple[str, ...]] = tuple(f"rotate{a}" for a in ANGLES)

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    first_stage: float = 0.5

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Which stage this epoch belongs to."""
        stage = 1 if epoch < self.first_stage * self.epochs else 2
        self.memory_ = {"stage": torch.tensor(stage)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Quantization and even distribution of images and turned images; then rotation too."""
        assert batch.views is not None
        assert isinstance(self.network_, HashNetwork)
        turned, k = one_view(batch.views)
        first = int(self.memory_["stage"]) == 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first):
            hidden = self.network_.trunk(torch.cat([batch.x, turned]))
        z = self.network_.hash_layer(hidden)
        terms = {
            "quantization": self.alpha * quantization_loss(z),
            "even": self.beta * evenness_loss(z),
        }
        if not first:
            C = torch.tensor([math.exp(-(a**2) / (2 * SIGMA**2)) for a in ANGLES])[k]
            z, z_turned = z.chunk(2)
            terms["rotation"] = self.gamma * (C * (z_turned - z).square().sum(1)).mean()
        return terms
