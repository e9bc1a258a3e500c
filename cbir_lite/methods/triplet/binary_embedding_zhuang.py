"""Triplet binary embedding [130]: codes by graph cuts, then a network (survey Section V-C.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData

Indices = NDArray[np.int64]

# Hinges are multiples of 1/2 and divided by 4, so weights times 8 are whole, as the cuts need.
SCALE = 8


def sample_triplets(y: NDArray[np.int64], count: int, rng: np.random.Generator) -> Indices:
    """Triplets (T, 3) of rows of multi-hot y (n, C), ``count`` for each anchor that has some.

    The second row shares a label with the first, the third does not.
    """
    kinds, kind = np.unique(y, axis=0, return_inverse=True)
    triplets = [np.empty((0, 3), np.int64)]
    for k, shares in enumerate(kinds @ kinds.T > 0):
        similar, other = np.flatnonzero(shares[kind]), np.flatnonzero(~shares[kind])
        if len(similar) and len(other):
            i = np.repeat(np.flatnonzero(kind == k), count)
            j, n = (rows[rng.integers(len(rows), size=len(i))] for rows in (similar, other))
            triplets.append(np.stack([i, j, n], 1)[i != j])
    return np.concatenate(triplets)


def pair_weights(gaps: NDArray[np.int64], triplets: Indices, margin: float, n: int) -> csr_array:
    """The matrix A (n, n), times 8, whose quadratic form is the loss of one more bit.

    With the bits so far a triplet's hinge is max(0, margin - gap), gap = d_ik - d_ij (T,). A new
    bit z changes it by the products of its values only, so it is exactly
    a_ij z_i z_j + a_ik z_i z_k + a_jk z_j z_k plus a constant.
    """
    same, apart, near = (np.maximum(0, margin - gaps + c) for c in (0, -1, 1))
    i, j, k = triplets.T
    weights = [apart - near, near - apart, 2 * same - apart - near]
    values = np.rint(np.concatenate(weights) * SCALE / 4).astype(np.int64)
    A = coo_array((values, (np.concatenate([i, i, j]), np.concatenate([j, k, k]))), (n, n))
    return csr_array(A + A.T)


def blocks_of(triplets: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
    """A partition of the rows in which no block holds a negative of one of its rows.

    So all weights within a block are at most zero, whatever the codes.
    """
    i, j, k = triplets.T
    ones = np.ones(2 * len(i), bool)
    conflict = coo_array((ones, (np.concatenate([i, j]), np.concatenate([k, k]))), (n, n))
    conflict = csr_array(conflict + conflict.T)
    left, blocks = rng.permutation(n), []
    while len(left):
        barred = np.zeros(n, bool)
        block = []
        for row in left.tolist():
            if not barred[row]:
                block.append(row)
                barred[conflict.indices[conflict.indptr[row] : conflict.indptr[row + 1]]] = True
        blocks.append(np.array(block))
        left = left[~np.isin(left, block)]
    return blocks


def cut(W: csr_array, u: NDArray[np.int64]) -> NDArray[np.int64]:
    """z in {-1, 1} (b,) that minimises -sum_{i<j} W_ij z_i z_j + u'z exactly, W (b, b) >= 0."""
    b = len(u)
    if (u >= 0).all() or (u <= 0).all():
        # Nobody pulls the other way, and pairs gain by agreeing.
        return np.full(b, -1 if u.any() and u.min() >= 0 else 1)
    # Node b is the side of +1 and node b + 1 that of -1: a cut edge is a cost that is paid.
    capacity = np.zeros((b + 2, b + 2), np.int32)
    capacity[:b, :b] = W.toarray()
    capacity[b, :b] = np.maximum(-u, 0)
    capacity[:b, b + 1] = np.maximum(u, 0)
    flow = maximum_flow(csr_array(capacity), b, b + 1).flow.toarray()
    open_ = capacity > flow
    reached = np.arange(b + 2) == b
    count = 0
    while count < (count := int(reached.sum())):
        reached |= open_[reached].any(0)
    return np.where(reached[:b], 1, -1)


def infer_bit(
    A: csr_array, blocks: list[Indices], sweeps: int, z: NDArray[np.int64]
) -> NDArray[np.int64]:
    """z (n,) after sweeps that set each block in turn to its optimum given the others."""
    outer = [A[block] for block in blocks]
    inner = [rows[:, block] for rows, block in zip(outer, blocks, strict=True)]
    for _ in range(sweeps):
        for block, rows, own in zip(blocks, outer, inner, strict=True):
            z[block] = cut(-own, rows @ z - own @ z[block])
    return z


@dataclass(kw_only=True, eq=False)
class ZhuangEmbedding(DeepMethod):
    r"""Codes that order triplets come first, by graph cuts; a network then learns to predict them.

    Training a network on triplets is slow because there are so many. Here the triplet loss is
    minimised over the codes alone, one bit after another: with the earlier bits fixed, the loss of
    a new bit is exactly a quadratic form in its values, whose matrix weighs every pair of images.
    Blocks of images without a mismatched pair have no positive weights among them, so a graph cut
    gives the best values of a whole block while the others stay.

    When a group of bits is found, the network learns them as so many two-class problems, and what
    it predicts for them, not what was wished for, is the start of the next group.

    :survey: Section V-C.2
    :cite: zhuang2016triplet
    :source: the paper's abstract, and a public reimplementation that quotes its equations 5 to 8
        and Algorithm 1 (hinge with a margin of half the bits so far, weights of pairs, blocks
        without positive weights solved by maximum flow, groups of 8 bits)
    :objective: \min_{z_r\in\{\pm1\}^n}\sum_{(i,j,k)}\max\big(0,\tfrac r2-d_H^{(r)}(i,k)
        +d_H^{(r)}(i,j)\big)=\mathrm{const}+\sum_{i<j}a_{ij}z_{ri}z_{rj}\text{ for }r=1,2,\dots;
        \quad\min_\Theta\ \sum_{i,r}\log\big(1+e^{-z_{ri}f_r(x_i;\Theta)}\big)
    :shapes: x (n, d), labels (n, C); A (n, n) sparse; Z (n, bits) of signs; f (n, bits); codes
        int8 (n, bits)
    :defaults: groups of 8 bits (public code); 10 triplets of each anchor, drawn again for each
        group, and 3 sweeps over the blocks, chosen for the sake of time
    :departures: VGG-16 fine-tuned for each group is replaced by one hidden layer on frozen features
        that is shared by all groups; the groups start evenly over the first half of the epochs;
        the blocks are a partition made once for each group, and a bit starts from random signs
        once, not several times; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    group: int = 8
    triplets: int = 10
    sweeps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError(
                f"validation={self.validation} must be 0: rows held out have no inferred codes"
            )

    def start_fit(self, data: TrainingData) -> None:
        """No codes yet."""
        Z = torch.zeros(len(data), self.bits)
        self.memory_ = {"Z": Z, "inferred": torch.tensor(0)}

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Infer the groups of bits that are due: they start evenly over the first half."""
        groups = math.ceil(self.bits / self.group)
        fitted = int(self.memory_["inferred"])
        for g in range(groups):
            if g * self.epochs // (2 * groups) == epoch:
                self._infer_group(g, data, fitted)

    def _infer_group(self, g: int, data: TrainingData, fitted: int) -> None:
        """The next group after the bits before it, of which the network has learned ``fitted``."""
        assert data.y is not None
        first, end = g * self.group, min(self.bits, (g + 1) * self.group)
        before = self.memory_["Z"][:, :first].clone()
        before[:, :fitted] = sign(self.outputs(data.x))[:, :fitted].float()
        codes = before.numpy().astype(np.int64)
        rng = np.random.default_rng([self.seed, g])
        triplets = sample_triplets(data.y.numpy().astype(np.int64), self.triplets, rng)
        blocks = blocks_of(triplets, len(data), rng)
        i, j, k = triplets.T
        gaps = (codes[i] != codes[k]).sum(1) - (codes[i] != codes[j]).sum(1)
        for r in range(first, end):
            A = pair_weights(gaps, triplets, (r + 1) / 2, len(data))
            z = infer_bit(A, blocks, self.sweeps, rng.choice([-1, 1], len(data)))
            gaps = gaps + (z[i] != z[k]) - (z[i] != z[j]).astype(np.int64)
            self.memory_["Z"][:, r] = torch.from_numpy(z).float()
        self.memory_["inferred"] = torch.tensor(end)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of every inferred bit as a two-class problem, averaged."""
        m = int(self.memory_["inferred"])
        z = self.network_(batch.x)[:, :m]
        target = (self.memory_["Z"][batch.index, :m] + 1) / 2
        return {"bits": F.binary_cross_entropy_with_logits(z, target)}
