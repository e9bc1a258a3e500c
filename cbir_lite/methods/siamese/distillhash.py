"""DistillHash [82]: hashing by distilling data pairs (survey Sections III.7, IV-B)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn._pseudo import PseudoSupervised, directions, nearest_rows
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.derived import derived

_BLOCK_ELEMENTS = 1 << 23


def _blocks(n: int) -> tuple[Tensor, ...]:
    return torch.arange(n).split(max(1, _BLOCK_ELEMENTS // n))


def noisy_labels(u: Tensor, alpha: float) -> Tensor:
    """Whether the cosine of two rows of u (n, d), of length one, is unusually large, bool (n, n).

    Unusual is what exceeds the mean over all pairs by ``alpha`` standard deviations.
    """
    n, u64 = len(u), u.double()
    mean = float((u64.sum(0).square().sum() - n) / (n * (n - 1)))
    squares = float(((u64.T @ u64).square().sum() - n) / (n * (n - 1)))
    threshold = mean + alpha * math.sqrt(max(squares - mean**2, 0.0))
    return torch.cat([u[rows] @ u.T > threshold for rows in _blocks(n)])


def _summed(rows: Tensor, near: Tensor) -> Tensor:
    """Sums, uint8 (len(near), n), of the rows of ``rows`` (n, n) that ``near`` (., o) lists."""
    total = rows[near[:, 0]]
    for k in range(1, near.shape[1]):
        total += rows[near[:, k]]
    return total


def similar_pairs(noisy: Tensor, near: Tensor) -> Tensor:
    """How many pairs between the neighbourhoods of two rows are similar, uint8 (n, n).

    ``noisy`` bool (n, n), symmetric; ``near`` (n, o) lists the neighbourhood of each row, o < 16.
    """
    n, rows = len(noisy), noisy.view(torch.uint8)
    # Rows are added, as they lie in memory in one piece; turned, so that the second sum is of rows.
    half, total = torch.empty(n, n, dtype=torch.uint8), torch.empty(n, n, dtype=torch.uint8)
    for block in _blocks(n):
        half[:, block[0] : block[-1] + 1] = _summed(rows, near[block]).T
    for block in _blocks(n):
        total[block[0] : block[-1] + 1] = _summed(half, near[block])
    return total


def distil(noisy: Tensor, near: Tensor, rho: float) -> Tensor:
    """Labels int8 (n, n): 1 or -1 where the Bayes optimal one is certain, 0 where it is not.

    With eta the share of similar pairs between the neighbourhoods ``near`` of two rows: if less
    than a share rho of either label is wrong, eta > (1 + rho) / 2 can only come from a pair that is
    more likely similar than not, and eta < (1 - rho) / 2 from one that is not.
    """
    counts = similar_pairs(noisy, near)
    eta = torch.arange(near.shape[1] ** 2 + 1) / near.shape[1] ** 2
    # The least count that is certainly similar, and the least that is not certainly dissimilar.
    high, low = (int((~side).sum()) for side in (eta > (1 + rho) / 2, eta >= (1 - rho) / 2))
    for rows in _blocks(len(counts)):
        block = counts[rows[0] : rows[-1] + 1]
        block.copy_((block >= high).byte() - (block < low).byte())
    return counts.view(torch.int8)


def certain_pairs(x: Tensor, alpha: float, o: int, rho: float) -> Tensor:
    """Labels int8 (n, n) of the pairs of training rows x (n, d), see :func:`distil`."""
    u = directions(x)
    own = torch.arange(len(u))[:, None]
    near = torch.cat([own, nearest_rows(u, min(o, len(u)) - 1)], 1)
    return distil(noisy_labels(u, alpha), near, rho)


@dataclass(kw_only=True, eq=False)
class DistillHash(PseudoSupervised):
    r"""Learn from those pairs of images only whose pseudo label is certain.

    Pairs with unusually similar features get the label similar, all others dissimilar. Such labels
    are noisy. How probable a label is for a pair is read from the labels of all pairs between the
    neighbours of the one image and those of the other; where that probability is near one half,
    noise of a bounded rate could have turned the label, and the pair is left out. On the others the
    network maximises the likelihood of the labels given half the inner product of its outputs.

    :survey: Sections III.7, IV-B; Tables II, III
    :cite: yang2019distillhash
    :source: the paper's abstract, and a later survey of deep hashing (neighbours' labels,
        likelihood of distilled pairs, tanh); the thresholds are those of the theory of bounded
        label noise that the abstract appeals to, the first labels simplify those of the first
        author's earlier SSDH
    :objective: \min\ -\sum_{(i,j):\,s_{ij}\ne0}\log\sigma(s_{ij}\Theta_{ij}),
        \quad\Theta_{ij}=\tfrac12h_i^\top h_j,\ h=\tanh(z),\quad s_{ij}=\begin{cases}
        1&\eta_{ij}>\tfrac12(1+\rho)\\-1&\eta_{ij}<\tfrac12(1-\rho)\\0&\text{else}\end{cases},
        \quad\eta_{ij}=\tfrac1{o^2}\sum_{k\in N_o(i),\,l\in N_o(j)}\hat s_{kl}
    :shapes: x (n, d); noisy and distilled labels (n, n); h (n, bits); codes int8 (n, bits)
    :defaults: similar from 1.5 standard deviations above the mean cosine on, chosen on a held-out
        part of the training images; neighbourhoods of o = 10 rows, the row itself among them; rho =
        0.2 (the paper's values were not available)
    :departures: VGG is replaced by a hidden layer on frozen features, and the labels come from the
        same features, centred; the first labels have one threshold, from the moments of all
        cosines, and leave no pair out, where SSDH has two; both neighbourhoods have o rows, and
        both labels the same bound rho; the likelihood is averaged over the certain pairs of a
        batch; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"

    alpha: float = 1.5
    o: int = 10
    rho: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.o <= 15:
            raise ValueError(
                f"o must be from 1 to 15, as pairs are counted in a byte, not {self.o}"
            )

    def fit(self, split: Split, **loop: Any) -> Self:
        """Distil the pairs of the training rows, then train on them."""
        super().fit(split, **loop)
        # n^2 labels do not belong in a saved system.
        del self._s
        return self

    def start_fit(self, data: TrainingData) -> None:
        """The labels follow from the features alone, so that a resumed run finds them again."""
        self._s = derived(certain_pairs, data.x, self.alpha, self.o, self.rho)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood of the certain labels of pairs i < j."""
        h = torch.tanh(self.network_(batch.x))
        i, j = torch.triu_indices(len(h), len(h), offset=1)
        s = self._s[batch.index[i], batch.index[j]].float()
        theta = 0.5 * (h @ h.T)[i, j]
        likelihood = (F.softplus(-s * theta) * s.abs()).sum() / s.abs().sum().clamp_min(1)
        return {"likelihood": likelihood}
