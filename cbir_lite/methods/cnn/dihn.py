"""DIHN [80]: deep incremental hashing network, on top of ADSH codes (survey III.7, Table II)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.adsh import ADSH
from cbir_lite.methods.deep import TrainingData


@dataclass(kw_only=True, eq=False)
class DIHN(ADSH):
    r"""New classes join a database whose old codes must not change.

    First ADSH learns the codes of the images of the original classes. Then the images of the
    incremental classes arrive: a new network hashes queries of all classes, and it is trained
    against the whole database, in which the old codes stay as they are and only the codes of the
    new images are updated bit by bit. Nothing of the first network is kept.

    :survey: Section III.7; Table II (row DIHN2+ADSH)
    :cite: wu2019dihn
    :source: the public code of a group at the authors' institute (both stages, sampling, sizes,
        value of a dissimilar pair, column-wise update of the new codes, gamma, mu) and the paper's
        abstract
    :objective: \min_{\Theta,V'}\ \sum_{i\in\Omega}\Big(\sum_{j\in\text{old}}
        \big(u_i^\top v_j-Ks_{ij}\big)^2+\sum_{j\in\text{new}}\big(u_i^\top v'_j-Ks_{ij}\big)^2
        \Big)+\gamma\sum_{i\in\Omega}\|v_i-u_i\|_2^2+\mu\sum_{i\in\Omega}(u_i^\top\mathbf1)^2,
        \quad u_i=\tanh(F(x_i;\Theta)),\ v'_j\in\{\pm1\}^K,\ v_j\text{ fixed},
        \ s_{ij}=1\text{ if similar, else }-|S_1|/|S_0|
    :shapes: database x (m, d) and labels (m, C); F(x) (n, K) with K = bits; V and V' together int8
        (m, K)
    :defaults: gamma = 200, mu = 50, 2000 rows in Omega, 3 epochs a round, batches of 64 (public
        code); 7 of 10 classes are original (share 0.7, the first ones); 25 rounds a stage
    :departures: the paper's CNN trained end to end is replaced by a hidden layer on frozen
        features; Adam with cosine decay, half the rounds of the public code in each stage; the
        balance term is squared (the public code adds the plain sum of u, which only drives bits to
        -1), and codes are held against outputs of the same rows (there of the rows with their
        number in the sample). A row with any incremental class is new. The sources do not tell
        DIHN2 from DIHN1: as in the public code, Omega is drawn from old and new images
    :fidelity: simplified
    """

    epochs: int = 75
    mu: float = 50.0
    original: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.original < 1:
            raise ValueError(f"original={self.original}: the share of old classes is in (0, 1)")

    def start_fit(self, data: TrainingData) -> None:
        """The codes of the original classes by ADSH, random codes for the others."""
        super().start_fit(data)
        assert data.y is not None
        first = round(self.original * data.y.shape[1])
        old = data.y[:, first:].sum(1) == 0
        if not 1 < int(old.sum()) < len(old):
            raise ValueError(
                f"{int(old.sum())} of {len(old)} database rows are of the first {first} classes "
                "only: DIHN needs old and new ones; change original"
            )
        self.memory_["V"][old] = self._original_codes(data.rows(old.nonzero().squeeze(1)))
        self.memory_["old"] = old

    def _original_codes(self, data: TrainingData) -> Tensor:
        assert data.y is not None
        known = {k: v for k, v in self.params.items() if k in ADSH.parameters()}
        x, y = data.x.numpy(), data.y.to(torch.uint8).numpy()
        adsh = ADSH(**known).fit(Split(x, y, database=Split(x, y)))
        return torch.from_numpy(adsh.codes_).float()

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """At the start of a round, as ADSH; the balance of a code joins the quadratic form.

        mu (u'1)^2 = u' (mu 1 1') u, and u' V'V u is part of the similarity term.
        """
        super().start_epoch(epoch, data)
        if epoch % self.inner_epochs == 0:
            self.memory_["G"] = self.memory_["G"] + self.mu

    def _update_codes(self, x: Tensor | NDArray[Any]) -> None:
        """As ADSH, for new rows only: rows do not depend on each other in this step."""
        V, old = self.memory_["V"], self.memory_["old"]
        kept = V[old].clone()
        super()._update_codes(x)
        V[old] = kept
