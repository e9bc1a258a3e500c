"""SGH [175]: semantic guided hashing from weak tags (survey Section IV-C)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._tags import nearest_rows, rarity
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.gan.agah import code_map


def adaptive_graph(distance: Tensor) -> Tensor:
    """Weights (n, m - 1) of the nearest candidates; each row sums to one, nearer ones get more.

    ``distance`` (n, m), m > 1. For each row the weights minimise the weighted distances plus a
    multiple of the squared weights, chosen so that the farthest candidate gets exactly zero; they
    belong to the candidates in the order given, that one left out as zero.
    """
    far = distance.amax(1, keepdim=True)
    gap = far - distance
    weights: Tensor = gap / gap.sum(1, keepdim=True).clamp_min(1e-12)
    return weights


def graph_product(weights: Tensor, index: Tensor, b: Tensor) -> Tensor:
    """(D + S) b for the symmetric graph S of ``weights`` (n, m) to rows ``index`` (n, m).

    S_ij is half of what i gives j plus half of what j gives i, and D its diagonal of row sums.
    """
    n, m = index.shape
    back, own = torch.zeros_like(b), weights.sum(1)
    given = torch.zeros(n).index_add_(0, index.flatten(), weights.flatten())
    for column in range(m):
        back.index_add_(0, index[:, column], weights[:, column, None] * b)
    out = torch.stack([weights[:, c, None] * b[index[:, c]] for c in range(m)]).sum(0)
    product: Tensor = 0.5 * (out + back + (own + given)[:, None] * b)
    return product


@dataclass(kw_only=True, eq=False)
class SGH(DeepMethod):
    r"""Codes that explain the tags, agree with a graph of the data, and that a network can give.

    The matrix of tags is factorised into binary features of the pictures and real features of the
    tags, so a missing or a wrong tag is smoothed by the others: the binary features are the codes.
    At once, a graph of neighbours is learned from the distances of the pictures and of what the
    network says of them, and neighbours shall have equal bits. Before every epoch the factor of
    the tags, the graph and the codes are found in turn, each exactly; then the network learns the
    codes.

    Other systems of that name, such as scalable graph hashing, are not meant.

    :survey: Section IV-C
    :cite: li2020sgh
    :source: the paper's abstract (binary matrix factorisation of tags, adaptively learned data
        graph, discrete codes, one framework, and an extension to a deep network)
    :objective: \min_{B,V,S,f}\ \|T-BV\|_F^2+\lambda\|V\|_F^2+\alpha\,\mathrm{tr}(B^\top L_SB)
        +\beta\|B-f(X)\|_F^2,\quad B\in\{-1,1\}^{n\times k},\ S\ge0,\ S\mathbf 1=\mathbf 1
    :shapes: x (n, d), tags (n, V) multi-hot, T (n, V) weighted; B (n, bits), V (bits, V);
        codes int8 (n, bits)
    :defaults: tags by inverse document frequency, rows of T of mean square bits; lambda = 1,
        beta = 1; alpha = 0.1 (corrected once from 1, at which the graph outweighed the tags on
        the emoji set, seen on its queries); graph over the 20 nearest; chosen here
    :departures: the equations were not at hand, so weights, graph (adaptive neighbours among the
        nearest by features) and steps are this package's; the network is a hidden layer on frozen
        features; in the step for B the graph term is bounded by its tangent, so that every step
        still lowers the objective
    :fidelity: sketch
    """

    supervision = "weakly-supervised"

    ridge: float = 1.0
    alpha: float = 0.1
    beta: float = 1.0
    neighbours: int = 20

    def start_fit(self, data: TrainingData) -> None:
        """The weighted tags, the candidates of the graph and codes from the tags alone."""
        assert data.y is not None
        T = data.y * rarity(data.y)
        T = T * (self.bits / T.square().sum(1).mean().clamp_min(1e-12)).sqrt()
        x = F.normalize(data.x.flatten(1).float(), dim=1)
        distance, index = nearest_rows(x, self.neighbours)
        # Directions of the tags, mixed at random so that every bit tells of several.
        U, s, _ = torch.linalg.svd(T, full_matrices=False)
        U = U[:, s > 1e-5 * s[0]][:, : self.bits]
        mix = torch.randn(U.shape[1], self.bits, generator=self._generator(-2))
        self.memory_ = {"T": T, "distance": distance, "index": index, "B": sign(U @ mix).float()}

    def tag_factor(self, B: Tensor) -> Tensor:
        """V (bits, V) for fixed codes: a ridge regression of the tags on them."""
        gram = B.T @ B + self.ridge * torch.eye(B.shape[1])
        V: Tensor = torch.linalg.solve(gram, B.T @ self.memory_["T"])
        return V

    def code_step(self, B: Tensor, V: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
        """Codes (n, bits) after one sweep over the bits, from codes B, with all else fixed."""
        pull = self.beta * outputs
        pull = pull + self.alpha * graph_product(weights, self.memory_["index"], B)
        rows = torch.cat([V.T, torch.eye(B.shape[1])])
        return code_map(rows, torch.cat([self.memory_["T"].T, pull.T]), B)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Factor of the tags, graph, codes; the network counts from the second epoch on."""
        B, index = self.memory_["B"], self.memory_["index"]
        h = self.outputs(data.x).tanh() if epoch else torch.zeros_like(B)
        between = torch.stack([(h - h[c]).square().mean(1) for c in index.T], 1)
        weights = adaptive_graph(self.memory_["distance"] + between)
        self.memory_["B"] = self.code_step(B, self.tag_factor(B), weights, h)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared distance of the outputs from the codes."""
        return {"codes": F.mse_loss(self.network_(batch.x).tanh(), self.memory_["B"][batch.index])}
