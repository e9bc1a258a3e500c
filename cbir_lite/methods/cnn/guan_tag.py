"""Tag-based weakly supervised hashing [173] (survey Section IV-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.cnn._tags import item_vectors, mutual_information, nearest_rows, rarity
from cbir_lite.methods.cross_modal._shared import likelihood
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import HashNetwork


def semantic_words(
    T: Tensor, k: int, sparsity: float, rounds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sparse A (n, k) and semantic words D (k, V), both >= 0, with T (n, V) close to A D.

    Minimises ||T - A D||^2 / 2 + sparsity * sum(A), rows of D of unit length, by multiplicative
    steps that never raise it.
    """
    A = torch.rand(len(T), k, generator=generator) + 0.1
    D = F.normalize(torch.rand(k, T.shape[1], generator=generator) + 0.1, dim=1)
    for _ in range(rounds):
        A = A * (T @ D.T) / (A @ (D @ D.T) + sparsity).clamp_min(1e-9)
        D = D * (A.T @ T) / (A.T @ A @ D).clamp_min(1e-9)
        # Longer words with smaller shares are the same product, but would evade the sparsity.
        size = D.norm(dim=1).clamp_min(1e-9)
        A, D = A * size, D / size[:, None]
    return A, D


@dataclass(kw_only=True, eq=False)
class GuanTag(DeepMethod):
    r"""A first stage on tags with a semantic vector for every picture, a second on pair labels.

    Tags are noisy, vague and incomplete, so they do not supervise directly. Sparse coding finds
    semantic words in them, and every picture gets a semantic vector over these words. The vector
    is itself unknown: it shall explain the tags, resemble those of pictures that look alike, and be
    what the network reads off the code; vectors and network are learned in turn. Then follows
    supervised fine-tuning, as any deep hashing does it.

    :survey: Section IV-C
    :cite: guan2018tag
    :source: the paper's abstract and a published summary (semantic words by sparse coding, semantic
        vectors learned jointly with the hashing model, tagging and content in one problem, then
        any supervised training)
    :objective: \text{1: }\min_{f,U\ge0}\ \sum_{ij}\big(\tfrac1kh_i^\top h_j-\cos(u_i,u_j)\big)^2
        +\sum_i\|g(h_i)-u_i\|^2+\|T-UD\|_F^2+\lambda\|U\|_1+\alpha\sum_{ij}S_{ij}\|u_i-u_j\|^2;
        \quad\text{2: }\min_f\ \sum_{ij}\log(1+e^{\Theta_{ij}})-s_{ij}\Theta_{ij}
        +\eta\|z_i-\mathrm{sgn}\,z_i\|^2
    :shapes: x (n, d), tags (n, V) multi-hot, T (n, V) unit rows, D (words, V),
        u (n, words); h = tanh(z) (n, bits); codes int8 (n, bits)
    :defaults: 32 semantic words and a third of the epochs for the first stage, chosen on a
        held-out part of the training concepts of the emoji set, after an earlier version had been
        seen on its queries; lambda = 0.01, alpha = 0.2, 10
        neighbours, eta = 0.1, chosen here
    :departures: the second stage of the paper has class labels of some pictures, which a weakly
        supervised split does not show: here pairs are similar if they share a tag, so both stages
        read the same tags, and on the held-out part the second alone ranks better than both; the
        equations were not at hand, so terms and weights follow the summary; T holds the mutual
        information of a picture's tags with all tags, weighted by inverse document frequency; the
        second stage is the likelihood of DPSH; frozen features, Adam
    :fidelity: simplified
    """

    supervision = "weakly-supervised"

    words: int = 32
    sparsity: float = 0.01
    alpha: float = 0.2
    neighbours: int = 10
    eta: float = 0.1
    first_stage: float = 1 / 3

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The hash network, with ``semantic`` that reads the semantic vector off a code."""
        network: nn.Module = HashNetwork(x, self.width, self.bits, self.dropout)
        network.semantic = nn.Linear(self.bits, self.words)
        return network

    def start_fit(self, data: TrainingData) -> None:
        """Semantic words, first semantic vectors and the pictures that look alike."""
        assert data.y is not None
        T = item_vectors(data.y, mutual_information(data.y).float(), rarity(data.y))
        U, D = semantic_words(T, self.words, self.sparsity, 50, self._generator(-2))
        x = F.normalize(data.x.flatten(1).float(), dim=1)
        index = nearest_rows(x, self.neighbours)[1]
        self.memory_ = {"T": T, "D": D, "U": U, "index": index, "stage": torch.tensor(1)}

    def vector_step(self, U: Tensor, read: Tensor, around: Tensor) -> Tensor:
        """One projected gradient step on semantic vectors U (n, words), with the rest fixed.

        ``read`` is what the network says, ``around`` the mean vector of the neighbours; the step
        is as long as is sure not to raise the objective.
        """
        D = self.memory_["D"]
        gram = D @ D.T
        slope = U @ gram - self.memory_["T"] @ D.T + self.sparsity
        slope = slope + (U - read) + self.alpha * (U - around)
        longest = torch.linalg.matrix_norm(gram, 2) + 1 + self.alpha
        return (U - slope / longest).clamp_min(0)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Semantic vectors of the next epoch, or the change to the second stage."""
        if epoch >= round(self.first_stage * self.epochs):
            self.memory_["stage"] = torch.tensor(2)
        elif epoch:
            U = self.memory_["U"]
            with torch.no_grad():
                read = self.network_.get_submodule("semantic")(self.outputs(data.x).tanh())
            self.memory_["U"] = self.vector_step(U, read, U[self.memory_["index"]].mean(1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the stage; those of the other one are zero."""
        z, none = self.network_(batch.x), torch.zeros(())
        if self.memory_["stage"] == 2:
            return {
                "pairs": none,
                "reading": none,
                "likelihood": likelihood(z, z, batch.similarity),
                "quantization": self.eta * (z - sign(z.detach())).square().mean(),
            }
        h, u = z.tanh(), self.memory_["U"][batch.index]
        unit = F.normalize(u, dim=1)
        read = self.network_.get_submodule("semantic")(h)
        return {
            "pairs": (h @ h.T / self.bits - unit @ unit.T).square().mean(),
            "reading": (read - u).square().sum(1).mean(),
            "likelihood": none,
            "quantization": none,
        }
