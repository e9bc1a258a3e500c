"""What cross-modal systems have in common: pair likelihood, triplets, a modality classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


def likelihood(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Mean negative log likelihood of s (n, m) given half the inner products of a and b."""
    theta = 0.5 * a @ b.T
    return (F.softplus(theta) - s * theta).mean()


def quantization(*outputs: Tensor) -> Tensor:
    """Squared distance of outputs (n, bits) from their signs, mean over all numbers."""
    return torch.stack([(z - sign(z.detach())).square().mean() for z in outputs]).mean()


def cross_triplet(distance: Tensor, s: Tensor, margin: float) -> Tensor:
    """Hinge over all (anchor, positive, negative) of distances (n, m) with relevance s (n, m).

    The mean runs over triplets that exist; rows are anchors, columns are of the other modality.
    """
    # (n, positives, negatives): margin + d(a, p) - d(a, n).
    gap = margin + distance[:, :, None] - distance[:, None, :]
    valid = s[:, :, None] * (1 - s[:, None, :])
    return (gap.clamp_min(0) * valid).sum() / valid.sum().clamp_min(1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (n, m)."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
    return (squares - 2 * a @ b.T).clamp_min(0)


class Judge(nn.Sequential):
    """Tells from an output (n, bits) which modality it comes from: one logit (n,)."""

    def __init__(self, bits: int, width: int = 64):
        super().__init__(
            nn.Linear(bits, width), nn.ReLU(), nn.Linear(width, 1), nn.Flatten(start_dim=0)
        )


def judgement(judge: nn.Module, image: Tensor, other: Tensor) -> Tensor:
    """Cross entropy of telling image (1) from other (0)."""
    yes, no = judge(image), judge(other)
    return 0.5 * (
        F.binary_cross_entropy_with_logits(yes, torch.ones_like(yes))
        + F.binary_cross_entropy_with_logits(no, torch.zeros_like(no))
    )


@dataclass(kw_only=True, eq=False)
class Adversarial(TwoTowerMethod):
    """Two towers against a judge that tells the modalities apart; the two play in turn.

    A system gives ``outputs_of`` (what the judge sees) and ``loss``; ``confusion`` weighs how much
    the towers profit from the judge's errors.
    """

    confusion: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The towers and the judge."""
        network = super().build(x, n_classes)
        network.judge = Judge(self.bits)
        return network

    def judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the judge sees of a batch: outputs of the image and of the other side."""
        assert batch.other is not None
        towers = self.network_
        assert isinstance(towers, TwoTowers)
        return towers.image(batch.x), towers.other(batch.other)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam for the players' towers, one for the judge."""
        own = [p for n, p in self.network_.named_parameters() if not n.startswith("judge")]
        return [self.adam(own), self.adam(self.network_.get_submodule("judge").parameters())]

    def training_step(self, batch: Batch) -> dict[str, float]:
        """The judge learns on fixed outputs; then the towers descend and confuse it."""
        judge = self.network_.get_submodule("judge")
        with torch.no_grad():
            image, other = self.judged(batch)
        judged = judgement(judge, image, other)
        self._descend(judged, self._optimisers[1])
        terms = self.loss(batch)
        terms["confusion"] = -self.confusion * judgement(judge, *self.judged(batch))
        self._descend(sum(terms.values()), self._optimisers[0])
        return {k: float(v.detach()) for k, v in terms.items()} | {"judge": float(judged.detach())}


def two_way_triplet(distance: Tensor, s: Tensor, margin: float, anchors: int) -> Tensor:
    """:func:`cross_triplet` of distances (n, n) with the images, then the others as anchors.

    The first ``anchors`` rows and columns are anchors: rows of a batch are in random order.
    """
    few = slice(0, anchors)
    return cross_triplet(distance[few], s[few], margin) + cross_triplet(
        distance.T[few], s.T[few], margin
    )


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of every row of a (n, d) with every row of b (m, d)."""
    return 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
