"""CNNH [95]: convolutional neural network hashing (survey Sections IV-A, V-A, Tables II to IV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label
from cbir_lite.methods.networks import HashNetwork

Float64 = NDArray[np.float64]


def reconstruction(G: Float64, sums: Float64, S: Float64, counts: Float64, q: int) -> float:
    """||H H' - q S||^2 of the n x n matrices, from G = H'H and the sums of H by label set."""
    cross = float((sums * (S @ sums)).sum())
    return float(np.square(G).sum()) - 2 * q * cross + q**2 * float(counts @ np.square(S) @ counts)


@njit
def newton_sweep(
    H: Float64, G: Float64, sums: Float64, S: Float64, kind: NDArray[Any], order: NDArray[Any]
) -> None:
    """One pass of coordinate descent over all entries of H (n, q), in the order given, in place.

    Each entry moves by the Newton step of ||H H' - q S||^2, cut off at plus and minus one. With
    L = H H' - q S the two derivatives are 4 L_i . H_j and 4 (|H_j|^2 + H_ij^2 + L_ii); G = H'H and
    the sums of H by label set give both without the n x n matrix.
    """
    q = H.shape[1]
    for t in order:
        i, j = t // q, t % q
        k = kind[i]
        inner, own = 0.0, 0.0
        for b in range(q):
            inner += H[i, b] * G[b, j]
            own += H[i, b] * H[i, b]
        for m in range(S.shape[0]):
            inner -= q * S[k, m] * sums[m, j]
        curvature = G[j, j] + H[i, j] ** 2 + own - q * S[k, k]
        if curvature <= 0:
            continue
        d = min(max(-inner / curvature, -1 - H[i, j]), 1 - H[i, j])
        for b in range(q):
            G[b, j] += d * H[i, b]
            G[j, b] += d * H[i, b]
        # The loop has added 2 d H_ij to G_jj: the square of the step is what is left.
        G[j, j] += d * d
        sums[k, j] += d
        H[i, j] += d


@dataclass(kw_only=True, eq=False)
class CNNH(DeepMethod):
    r"""Two stages: codes that factorise the similarities of the training set, then a network.

    The first stage sees no images. It looks for a matrix H of approximate codes whose inner
    products reproduce the pairwise similarities, by coordinate descent with Newton steps on
    entries relaxed to the interval between minus and plus one. The second stage trains a network
    to predict the signs of H, bit by bit, and the class labels from the same hidden layer.

    :survey: Sections IV-A, V-A; Tables II, III, IV
    :cite: xia2014cnnh
    :source: the survey's row and a public reimplementation of the first stage (derivatives, box,
        rejection of a pass that raises the objective); that code leaves out the class labels, which
        the paper names optional and the survey's row has
    :objective: \min_{H\in[-1,1]^{n\times q}}\|S-\tfrac1q HH^\top\|_F^2,\quad s_{ij}\in\{-1,1\};
        \quad\text{then}\ \min_\Theta\ \sum_i\sum_k\mathrm{CE}\big(\sigma(z_{ik}),
        \tfrac12(1+\mathrm{sgn}\,h_{ik})\big)+\mathrm{CE}(\hat y_i,y_i)
    :shapes: x (n, d), labels (n, C); H and z (n, q) with q = bits; codes sgn(z), int8 (n, bits)
    :defaults: 10 passes over the entries of H (the reimplementation); bits and classes weigh the
        same, each cross entropy a mean
    :departures: the paper's CNN is replaced by a hidden layer on frozen features, Adam with cosine
        decay instead of SGD; the cross entropies of the second stage are chosen here; images with
        several labels are classified by one logistic term a class
    :fidelity: simplified
    """

    passes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError(
                "validation must be 0: CNNH learns a code for every training row before the "
                "network; to choose hyper-parameters fit on Protocol.validation_split"
            )

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network and a layer of classes on the same trunk."""
        assert n_classes is not None
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.classes = nn.Linear(self.width, n_classes)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Stage one: H, its signs, and the objective after each pass."""
        assert data.y is not None
        rng = np.random.default_rng(self.seed)
        kinds, kind, n_kind = data.y.unique(dim=0, return_inverse=True, return_counts=True)
        S = 2 * shares_label(kinds, kinds).double().numpy() - 1
        H = rng.uniform(-1, 1, (len(data), self.bits))
        members, counts = kind.numpy(), n_kind.double().numpy()
        state = [H, H.T @ H, np.zeros((len(kinds), self.bits))]
        np.add.at(state[2], members, H)
        values = [reconstruction(state[1], state[2], S, counts, self.bits)]
        for _ in range(self.passes):
            before = [a.copy() for a in state]
            newton_sweep(state[0], state[1], state[2], S, members, rng.permutation(H.size))
            value = reconstruction(state[1], state[2], S, counts, self.bits)
            if value >= values[-1]:
                state, value = before, values[-1]
            values.append(value)
        self.memory_ = {
            "H": sign(torch.from_numpy(state[0])).float(),
            "relaxed": torch.from_numpy(state[0]).float(),
            "objective": torch.tensor(values, dtype=torch.float64),
            "one_label": (data.y.sum(1) == 1).all(),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Stage two: cross entropies of the bits of H and of the classes."""
        network: Any = self.network_
        hidden = network.trunk(batch.x)
        bit = (1 + self.memory_["H"][batch.index]) / 2
        one_label = bool(self.memory_["one_label"])
        classification = F.cross_entropy if one_label else F.binary_cross_entropy_with_logits
        return {
            "bits": F.binary_cross_entropy_with_logits(network.hash_layer(hidden), bit),
            "classes": classification(network.classes(hidden), batch.labels),
        }
