"""DMSH [198]: deep multi-level semantic hashing (survey Sections VI-B, VII-A, VII-F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cbir_lite.methods.base import sign
from cbir_lite.methods.cross_modal._shared import likelihood
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.two_towers import TwoTowerMethod


def label_relevance(y: Tensor) -> Tensor:
    """How strongly each label goes with each other, R (C, C) in [0, 1], from labels y (n, C).

    The cosine of the two labels' columns: 1 for a label with itself (also for one that never
    occurs), 0 for labels that never occur together.
    """
    counts = y.sum(0).clamp_min(1)
    R = y.T @ y / (counts[:, None] * counts).sqrt()
    return R.fill_diagonal_(1.0)


def semantic_levels(y: Tensor, R: Tensor) -> Tensor:
    """Levels (B, B) in [0, 1] of labels y (B, C): the cosine of the sets of labels under R.

    y R y' counts a pair of related labels by how related they are.
    """
    inner = y @ R @ y.T
    norm = inner.diagonal().clamp_min(1e-12).sqrt()
    return (inner / (norm[:, None] * norm)).clamp(0, 1)


@dataclass(kw_only=True, eq=False)
class DMSH(TwoTowerMethod):
    r"""How alike two items are has levels, and the levels are read off the labels together.

    Labels that often occur together are related. Two items are compared by their sets of labels,
    where related labels count in part, which gives a level between zero and one instead of a
    yes or no. The codes of pictures and words must follow both: the likelihood of the yes or no
    of a shared label, and the level by their inner product over the code length.

    DMSSPH, for images alone, is another system (``dmssph``).

    :survey: Sections VI-B, VII-A, VII-F
    :cite: ji2019dmsh
    :source: the paper's abstract (multi-level supervision from label relevance, jointly with the
        binary similarity) and the objective in the survey's row; the equations were not at hand
    :objective: \min\ \sum_{ij}\log(1+e^{\Theta_{ij}})-s_{ij}\Theta_{ij}
        +\alpha\sum_{ij}\big(\tfrac1kh_i^{x\top}h_j^t-(2\bar s_{ij}-1)\big)^2
        +\eta\big(\|B-h^x\|_F^2+\|B-h^t\|_F^2\big),\quad\Theta=\tfrac12h^{x\top}h^t,\
        \bar s_{ij}=\frac{y_iRy_j^\top}{\sqrt{y_iRy_i^\top}\sqrt{y_jRy_j^\top}},\
        B=\mathrm{sgn}(h^x+h^t)
    :shapes: x (n, d), other (n, d_t), labels (n, C), R (C, C); h in (-1, 1) (n, bits); codes int8
        (n, bits)
    :defaults: alpha = 1, eta = 0.1; every term a mean; chosen here
    :departures: the form of the relevance R (cosine of the columns of the labels) and of the level
        is this package's; the survey counts the system among those with real-valued
        descriptors, but the title and the abstract speak of hashing, so codes are binary here;
        with one label an item the levels are zero and one; frozen features and word vectors as
        inputs, one hidden layer each, instead of the three CNNs that the paper compares
    :fidelity: sketch
    """

    modality: ClassVar[str | None] = "text"

    alpha: float = 1.0
    eta: float = 0.1

    def start_fit(self, data: TrainingData) -> None:
        """The relevance of the labels to each other, over the training set."""
        assert data.y is not None
        self.memory_ = {"R": label_relevance(data.y)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood of shared labels, squared error of the levels, distance from one code."""
        assert batch.other is not None
        tower: Any = self.network_.get_submodule("other")
        x, t = self.network_(batch.x).tanh(), tower(batch.other).tanh()
        levels = semantic_levels(batch.labels, self.memory_["R"])
        B = sign((x + t).detach())
        return {
            "binary": likelihood(x, t, batch.similarity),
            "levels": self.alpha * (x @ t.T / self.bits - (2 * levels - 1)).square().mean(),
            "quantization": self.eta * torch.stack([B - x, B - t]).square().mean(),
        }
