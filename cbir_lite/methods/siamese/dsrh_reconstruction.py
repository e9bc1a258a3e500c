"""DSRH [162]: deep semantic reconstruction hashing (survey Sections V-C.1, VII-F).

Not the ranking-based DSRH of the same letters that the survey names for cross-modal retrieval.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod


def affinity(labels: Tensor) -> Tensor:
    """Cosine of the label vectors (B, C) of each pair, (B, B) in [0, 1]."""
    unit = F.normalize(labels, dim=1)
    return unit @ unit.T


@dataclass(kw_only=True, eq=False)
class DSRHReconstruction(DeepMethod):
    r"""The similarity of two codes must reconstruct the affinity of their labels.

    Two images without a common label should have unrelated codes, not opposite ones: two images
    that are both as far as possible from a third would otherwise have to be alike. The affinity
    of a pair lies between zero and one and has degrees where images carry several labels.
    Quantization is judged by pairs too: rounding the outputs may move each of them, but must not
    change how similar two of them are.

    :survey: Sections V-C.1, VII-F
    :cite: wang2021dsrh
    :source: the survey's sentences (pairwise similarity-preserving quantization and semantic
        affinity); the paper's equations and code were not found
    :objective: \min\ \sum_{ij}\big(\tfrac1Ku_i^\top u_j-s_{ij}\big)^2
        +\lambda\sum_{ij}\tfrac1{K^2}\big(u_i^\top u_j-b_i^\top b_j\big)^2,\quad
        s_{ij}=\cos(y_i,y_j),\ u=\tanh z,\ b=\mathrm{sgn}(u)
    :shapes: x (n, d) or images uint8 (n, h, w, c), labels (n, C); u (B, bits), s (B, B); codes int8
        (n, bits)
    :defaults: lambda = 0.1, chosen here
    :departures: the CNN is replaced by a hidden layer on frozen features; how the paper derives the
        affinity from labels is not known here, the cosine of label vectors is the plainest choice;
        sums are means over pairs i < j; Adam
    :fidelity: sketch
    """

    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction of the affinity and pairwise quantization, means over pairs i < j."""
        u = self.network_(batch.x).tanh()
        b = sign(u.detach()).to(u.dtype)
        pairs = affinity(batch.labels).triu(1), (u @ u.T).triu(1), (b @ b.T).triu(1)
        s, soft, hard = (
            p / scale for p, scale in zip(pairs, (1, self.bits, self.bits), strict=True)
        )
        count = len(u) * (len(u) - 1) / 2
        return {
            "reconstruction": (soft - s).square().sum() / count,
            "quantization": self.lam * (soft - hard).square().sum() / count,
        }
