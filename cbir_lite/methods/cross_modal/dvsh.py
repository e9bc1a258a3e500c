"""DVSH [201]: deep visual-semantic hashing (survey Section VII-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.two_towers import TwoTowerMethod


@dataclass(kw_only=True, eq=False)
class DVSH(TwoTowerMethod):
    r"""A joint embedding with a cosine max-margin loss, and a hinge that makes each bit sure.

    The code of a picture must have a large cosine with the codes of similar texts and a small one
    with those of others, up to a margin; and every bit must keep a distance from zero.

    :survey: Sections VII-A, VII-F
    :cite: cao2016dvsh
    :source: the paper's objective as restated by later papers and the survey's row
    :objective: \min\ \tfrac1{|S|}\sum_{ij}\max(0,\mu_c-s_{ij}\cos(h^x_i,h^t_j))
        +\lambda\sum_{k}\big(\max(0,\mu_b-|h^x_{ik}|)+\max(0,\mu_b-|h^t_{ik}|)\big),
        \quad s_{ij}\in\{-1,1\},\ h=\tanh(z)
    :shapes: x (n, d), other (n, d_t), labels (n, C); codes int8 (n, bits)
    :defaults: mu_c = 0.5, mu_b = 0.8, lambda = 0.1
    :departures: an LSTM over sentences and the fusion network become a hidden layer on word
        vectors, since the texts here are sets of words without order; positive and negative pairs
        have equal weight
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "text"

    mu_c: float = 0.5
    mu_b: float = 0.8
    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cosine hinge over all pairs of a batch, and the bitwise hinge of both modalities."""
        assert batch.other is not None
        x = torch.tanh(self.network_(batch.x))
        t = torch.tanh(self.network_.get_submodule("other")(batch.other))
        cosine = F.normalize(x, dim=1) @ F.normalize(t, dim=1).T
        similar = batch.similarity
        hinge = (self.mu_c - (2 * similar - 1) * cosine).clamp_min(0)
        balanced = (hinge * similar).sum() / similar.sum().clamp_min(1) + (
            hinge * (1 - similar)
        ).sum() / (1 - similar).sum().clamp_min(1)
        sure = torch.stack([(self.mu_b - h.abs()).clamp_min(0).mean() for h in (x, t)]).sum()
        return {"cosine": balanced, "bitwise": self.lam * sure}
