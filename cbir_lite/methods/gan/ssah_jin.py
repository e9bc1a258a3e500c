"""SSAH of Jin et al. [161]: self-paced hard samples against a hash network (survey Section V-D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, TrainingData, shares_label
from cbir_lite.methods.gan._players import FewLabels, Flat, hidden


class Networks(nn.Module):
    """Hash network (H-Net) and adversary (A-Net) on vectors; calling it gives z (B, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, views: int, dropout: float):
        super().__init__()
        self.flat = Flat(x)
        narrow = max(1, width // 4)
        self.hash = nn.Sequential(hidden(self.flat.d, width, dropout), nn.Linear(width, bits))
        self.adversary = nn.Sequential(nn.Linear(self.flat.d, narrow), nn.ReLU())
        self.turn = nn.Linear(narrow, views)
        self.occlude = nn.Linear(narrow, self.flat.d)

    def forward(self, x: Tensor) -> Tensor:
        """H-Net's output for inputs (B, ...), before tanh."""
        z: Tensor = self.hash(self.flat(x))
        return z

    def harder(self, x: Tensor, views: Tensor, pace: float) -> Tensor:
        """Hard samples (B, d) for vectors x (B, d): views (B, V, ...) mixed, features covered.

        A share ``pace`` of the features is covered, which sets them to their mean.
        """
        seen = self.flat(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        plan = self.adversary(x)
        mixed = (torch.softmax(self.turn(plan), 1)[:, :, None] * seen).sum(1)
        covered = pace * x.shape[1] * torch.softmax(self.occlude(plan), 1)
        return mixed * (1 - covered.clamp(max=1))


@dataclass(kw_only=True, eq=False)
class SSAHJin(FewLabels):
    r"""An adversary deforms images so that hashing them gets harder, a little more every epoch.

    This is the semi-supervised SSAH, not the self-supervised cross-modal one. The adversary chooses
    for each image how to turn or crop it and what to cover, and wants the hash network to fail on
    the result; the hash network learns from the deformed images too. How much may be covered grows
    during training, so that samples are easy first and hard later. With labels, pairs teach which
    codes are near; without, the deformed image shall have the code of the original.

    :survey: Sections IV-C, V-D, VIII-C; Table IV
    :cite: jin2020ssah
    :source: the paper's abstract (the two networks, occlusions and rotations, self-paced hardness,
        consistency of unlabelled images); its equations were not at hand, no public code was found
    :objective: \min_H\max_A\ \overline{w_{ij}\big(\tfrac1K h_i^\top h_j-s_{ij}\big)^2}
        +\nu\,\overline{w_{ij}\big(\tfrac1K\hat h_i^\top h_j-s_{ij}\big)^2}
        +\mu\,\overline{(\hat h-h)^2}+\eta\,\overline{(h-\mathrm{sgn}(h))^2},\quad
        \hat x=(1-o)\odot\textstyle\sum_v p_v\,x^{(v)},\ (p,o)=A(x),\ \bar o\le\rho_t
    :shapes: x (n, d), views (n, 6, d), labels (n, C), zero where unknown; h (n, bits), s -1
        or 1, w so that similar and other pairs weigh the same in total; codes int8 (n, bits)
    :defaults: rho = 0.5 (share covered in the last epoch, from 0 in the first), nu = 0.5, mu = 0.1,
        eta = 0.1, labelled = 64 labelled rows drawn a step beside the batch (own choices)
    :departures: the paper's losses, its pace and its weights were not at hand. Rotations and crops
        of images are fixed views through the frozen backbone, of which the adversary mixes the
        features; occlusion acts on features, for the backbone's input is out of reach; its scale is
        the share that is covered. One hidden layer each; Adam with cosine decay
    :fidelity: sketch
    """

    views = ("rotate-10", "rotate-5", "rotate5", "rotate10", "crop0", "crop1")
    players = (("hash",), ("adversary", "turn", "occlude"))

    rho: float = 0.5
    nu: float = 0.5
    mu: float = 0.1
    eta: float = 0.1

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """H-Net and A-Net."""
        return Networks(x, self.width, self.bits, len(self.views), self.dropout)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The pace: how much may be covered."""
        self.pace_ = self.rho * epoch / max(1, self.epochs - 1)

    def pairs(self, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        """Squared error of inner products (B, B) of codes a and b against s in {0, 1}.

        Similar and dissimilar pairs weigh the same in total.
        """
        share = s.mean().clamp(0.01, 0.99)
        w = torch.where(s > 0, 0.5 / share, 0.5 / (1 - share))
        return (w * (a @ b.T / self.bits - (2 * s - 1)).square()).mean()

    def game(self, x: Tensor, views: Tensor, h: Tensor, s: Tensor) -> dict[str, Tensor]:
        """What the adversary maximises and the hash network minimises, from vectors x (B, d).

        h (B, bits) are the codes of x, s (m, m) the similarities of the first m, labelled rows.
        """
        net: Any = self.network_
        hard, m = torch.tanh(net.hash(net.harder(x, views, self.pace_))), len(s)
        return {
            "hard": self.nu * self.pairs(hard[:m], h[:m], s),
            "consistency": self.mu * (hard[m:] - h[m:]).square().mean(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """What the hash network minimises."""
        net: Any = self.network_
        known = self.draw_labelled()
        assert known.y is not None
        assert known.views is not None
        assert batch.views is not None
        s = shares_label(known.y, known.y)
        x = net.flat(torch.cat([known.x, batch.x]))
        views = torch.cat([known.views, batch.views])
        h = torch.tanh(net.hash(x))
        self._round = x, views, h.detach(), s
        return {
            "similarity": self.pairs(h[: len(s)], h[: len(s)], s),
            **self.game(x, views, h, s),
            "quantization": self.eta * (h - sign(h.detach())).square().mean(),
        }

    def answer(self, batch: Batch) -> dict[str, Tensor]:
        """What the adversary minimises: the hash network's success on the same rows."""
        return {f"against {k}": -v for k, v in self.game(*self._round).items()}
