"""DMIRH [210]: deep multiple-instance ranking based hashing (survey Sections VII-C, VII-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._instances import CategoryMethod, CategoryNetwork
from cbir_lite.methods.deep import Batch


class _Network(CategoryNetwork):
    """Instances are assigned to categories, the chosen ones make the bag, the bag a code."""

    def bag(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bag features (n, C, k), and scores of the image (n, C)."""
        f, a = self.instances(x)
        # Each category chooses the instances that show it best; both sums are over instances.
        chosen = a.softmax(1)
        scores = (chosen * a).sum(1)
        bag = chosen.detach().transpose(1, 2) @ f
        # What the image does not show has no part in its bag. Labels alone teach the assignment:
        # the ranking would bend it to whatever separates the codes of a batch.
        return bag * scores.detach().sigmoid()[:, :, None], scores

    def code(self, bag: Tensor) -> Tensor:
        """u (n, bits) of length one of bag features."""
        return F.normalize(self.hash_layer(self.drop(self.norm(bag.flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        """u (n, bits) of maps (n, h, w, d)."""
        return self.code(self.bag(x)[0])


def level_ranking(theta: Tensor, r: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin (r_qp - r_qn) / r_max - theta_qp + theta_qn) over r_qp > r_qn.

    ``theta`` (B, B) inner products; ``r`` (B, B) numbers of shared labels.
    """
    q, p = (r * (1 - torch.eye(len(r))) > 0).nonzero(as_tuple=True)
    gap = r[q, p][:, None] - r[q]
    # The query itself is nobody's negative.
    counts = (gap > 0).float().scatter(1, q[:, None], 0.0)
    asked = margin * gap / r.max().clamp_min(1)
    hinge = (asked - theta[q, p][:, None] + theta[q]).clamp_min(0)
    return (hinge * counts).sum() / counts.sum().clamp_min(1)


@dataclass(kw_only=True, eq=False)
class DMIRH(CategoryMethod):
    r"""An image is a bag of instances; bags are ranked by how many labels they share.

    Every category chooses among the instances of an image those that show it, and the features of
    the chosen ones, weighted by whether the image shows the category at all, are the bag's. Codes
    of bags are trained by a ranking loss on inner products: an image that shares more labels with
    the query is to be nearer than one that shares fewer, by the more the further they are apart.

    :survey: Sections VII-C, VII-D
    :cite: chen2020dmirh
    :source: the beginning of the paper's abstract (bag of category-aware instances, joint
        assignment and aggregation, ranking of bags, quantization by inner products); full text and
        code were not found
    :objective: \min\ \sum_{q}\sum_{r_{qp}>r_{qn}}\max\Big(0,\delta\tfrac{r_{qp}-r_{qn}}{r_{\max}}
        -\theta_{qp}+\theta_{qn}\Big)+\beta\sum_{ic}\mathrm{BCE}(y_{ic},\hat y_{ic})
        +\alpha\sum_i\big(1-\tfrac1{\sqrt K}u_i^\top\mathrm{sgn}(u_i)\big),\quad
        \theta_{ij}=u_i^\top u_j,\ \|u_i\|=1,\ r_{ij}=y_i^\top y_j
    :shapes: maps x (n, h, w, d), labels (n, C); bags (n, C, k); u (n, bits); codes int8 (n, bits)
    :defaults: delta = 0.5 (a quarter of the range of theta; 1 and 2 rank worse on validation
        images), alpha = 0.1, beta = 1 beside means; k = width / 16; bags are batch-normalised
        before the hash layer, outputs have length one, and labels alone train the assignment,
        because the codes of bounded outputs (tanh) saturated on a validation part of the training
        set; all chosen here
    :departures: positions of frozen maps take the place of the instances that a CNN trained end to
        end proposes; the form of assignment, ranking and quantization and all constants are chosen
        here after the abstract
    :fidelity: sketch
    """

    network = _Network

    delta: float = 0.5
    alpha: float = 0.1
    beta: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Ranking of bags, classification of bags, and quantization, each averaged."""
        net: Any = self.network_
        bag, scores = net.bag(batch.x)
        u = net.code(bag)
        y = batch.labels
        return {
            "ranking": level_ranking(u @ u.T, y @ y.T, self.delta),
            "classification": self.beta * F.binary_cross_entropy_with_logits(scores, y),
            "quantization": self.alpha
            * (1 - (u * sign(u.detach())).sum(1).mean() / self.bits**0.5),
        }
