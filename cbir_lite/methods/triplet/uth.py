"""UTH [117]: unsupervised triplet hashing (survey Sections IV-B, V-C.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cbir_lite.methods.cnn.deepbit import (
    ANGLES,
    evenness_loss,
    one_view,
    quantization_loss,
)
from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(kw_only=True, eq=False)
class UTH(DeepMethod):
    r"""Triplets without labels: an image, the same image turned, and a random other image.

    DeepBit asks for an image and its turned copy to have the same outputs, which equal outputs for
    all images would satisfy as well. Here the copy is to be nearer than some other image by a
    margin, so that different images stay apart. Two criteria are kept: outputs near plus and minus
    one half, and bits that carry the most information, which are one as often as zero.

    :survey: Sections IV-B, V-C.2; Tables II, III
    :cite: huang2017uth
    :source: the paper's abstract and the caption of its first figure (triplets, three criteria), a
        later survey's summary of it; the criteria it shares with DeepBit from DeepBit's public code
    :objective: \min\ \mathrm{mean}_i\max\big(0,\ m+\|z_i-z_{i,\theta}\|^2-\|z_i-z_r\|^2\big)
        +\alpha\,\mathrm{mean}_i\|(b_i-0.5)-z_i\|^2+\beta\sum_k(\mu_k-0.5)^2,
        \quad b=\tfrac12(\mathrm{sgn}(z)+1)
    :shapes: x (n, d), views (n, 4, d) of images turned by -10, -5, 5 and 10 degrees; z (n, bits);
        codes int8 (n, bits)
    :defaults: alpha = beta = 1 as in DeepBit's public code; m = bits / 4, half of the squared
        distance of codes that have nothing to do with each other, chosen on a held-out part of the
        training images (the paper's value was not available), where bits / 8 has since turned out
        to rank better by .02
    :departures: VGG is replaced by a hidden layer on frozen features; the random image is another
        one of the batch; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"
    views: ClassVar[tuple[str, ...]] = tuple(f"rotate{a}" for a in ANGLES)

    alpha: float = 1.0
    beta: float = 1.0
    margin_per_bit: float = 0.25

    @property
    def m(self) -> float:
        """The margin, which grows with the code length."""
        return self.bits * self.margin_per_bit

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """One triplet for each image of the batch; the other two criteria over both views."""
        assert batch.views is not None
        turned, _ = one_view(batch.views)
        z = self.network_(torch.cat([batch.x, turned]))
        anchor, positive = z.chunk(2)
        # Batches are in random order, so the next image is a random one.
        negative = anchor.roll(1, 0)
        near, far = ((anchor - other).square().sum(1) for other in (positive, negative))
        return {
            "triplet": (self.m + near - far).clamp_min(0).mean(),
            "quantization": self.alpha * quantization_loss(z),
            "entropy": self.beta * evenness_loss(z),
        }
