"""Deep Sketch Hashing [205]: not the DSH of Liu et al. 2016 (survey Section VII-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData, shares_label
from cbir_lite.methods.networks import FeatureTrunk, Standardise
from cbir_lite.methods.sketch._shared import (
    all_outputs,
    class_semantics,
    coordinate_descent,
    pair,
    per_label,
    random_signs,
)
from cbir_lite.methods.two_towers import TwoTowerMethod, TwoTowers


class _Tokens(nn.Module):
    """Image features (n, d) to features of the line drawing (n, d_s) that ridge regression expects.

    The regression is fitted on the training pairs once and then fixed.
    """

    weight: Tensor
    centre: Tensor

    def __init__(self, x: NDArray[Any], other: NDArray[Any]):
        super().__init__()
        self.standardise = Standardise(x)
        z = self.standardise(torch.from_numpy(np.array(x, np.float32))).double()
        t = torch.from_numpy(np.array(other, np.float64))
        gram = z.T @ z + len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        self.register_buffer("weight", torch.linalg.solve(gram, z.T @ (t - t.mean(0))).float())
        self.register_buffer("centre", t.mean(0).float())

    def forward(self, x: Tensor) -> Tensor:
        """Expected sketch features of images x."""
        return self.standardise(x) @ self.weight + self.centre


class _ImageTower(nn.Module):
    """z (n, bits) from two branches: the image's own, and the one it shares with sketches."""

    def __init__(self, x: NDArray[Any], other: NDArray[Any], shared: nn.Module, size: Any):
        super().__init__()
        width, bits, dropout = size
        self.own = FeatureTrunk(x, width, dropout)
        self.tokens = _Tokens(x, other)
        self.shared = shared
        self.fusion = nn.Linear(2 * width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """Late fusion of both hidden layers."""
        hidden = torch.cat([self.own(x), self.shared(self.tokens(x))], 1)
        z: Tensor = self.fusion(hidden)
        return z


@dataclass(kw_only=True, eq=False)
class DeepSketchHashing(TwoTowerMethod):
    r"""A shared branch reads sketches and what an image would look like as line art.

    The network is half shared: sketches pass one branch, images pass that same branch in the form
    of an expected line drawing and a second branch of their own, and both are fused. The codes
    of images and of sketches are unknowns of their own. Inner products of image and sketch codes
    must follow the labels, and from either code the semantic vector of the class must be rebuilt
    by one shared factor. Codes, factor and networks are solved for in turn, codes bit by bit.

    :survey: Section VII-B
    :cite: liu2017dsh
    :source: the paper's abstract and introduction, the survey's row, and the discrete steps in the
        public code of GDH, which reuses them; the repository of the authors holds models only
    :objective: \min\ \|m W-B_I B_S^\top\|_F^2
        +\lambda\big(\|\phi(Y)-B_I D\|_F^2+\|\phi(Y)-B_S D\|_F^2\big)
        +\gamma\big(\|F_I-B_I\|_F^2+\|F_S-B_S\|_F^2\big),
        \quad W_{ij}\in\{-1,1\},\ B\in\{-1,1\}^{n\times m}
    :shapes: x (n, d), other (n, d_s), labels (n, C), semantics (C, k); phi(Y) (n, k), or (n, d_s)
        without semantics; codes int8 (n, bits = m)
    :defaults: lambda = 0.01; gamma = 1e-5, as in the code of GDH; three passes over the bits an
        epoch; the networks minimise the last bracket, as a mean, so that gamma does not slow them
    :departures: frozen features replace three CNNs; sketch-tokens, contours of a separate detector,
        are ridge regressions from an image's features to those of its line drawing; in place of a
        pretrained word vector a class has what the split says of it in words (in the emoji set
        the mean keywords of its training concepts), and where a split has no words the mean
        of its sketches' features; fusion is one linear layer
    :fidelity: simplified
    """

    modality: ClassVar[str | None] = "sketch"

    lam: float = 0.01
    gamma: float = 1e-5
    passes: int = 3

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The semi-heterogeneous networks: the sketch's branch is part of the image tower."""
        sketches = self._others()
        shared = FeatureTrunk(sketches, self.width, self.dropout)
        size = self.width, self.bits, self.dropout
        image = _ImageTower(np.asarray(x), sketches, shared, size)
        return TwoTowers(image, nn.Sequential(shared, nn.Linear(self.width, self.bits)))

    def start_fit(self, data: TrainingData) -> None:
        """Semantic vectors, and random codes of both sides."""
        assert data.y is not None
        assert data.other is not None
        e = class_semantics(data, data.other)
        self.memory_["phi"] = F.normalize(per_label(data.y) @ e, dim=1)
        for k, name in enumerate(("B_I", "B_S")):
            self.memory_[name] = random_signs(self.seed * 2 + k, len(data), self.bits)

    def objective(self, W: Tensor, D: Tensor, F_I: Tensor, F_S: Tensor) -> Tensor:
        """The whole objective of the codes in memory, for W (n, n), D (m, k), F (n, m)."""
        phi, B_I, B_S = (self.memory_[k] for k in ("phi", "B_I", "B_S"))
        value = (self.bits * W - B_I @ B_S.T).square().sum()
        for B, out in ((B_I, F_I), (B_S, F_S)):
            value = value + self.lam * (phi - B @ D).square().sum()
            value = value + self.gamma * (out - B).square().sum()
        return value

    def factor(self) -> Tensor:
        """D (m, k): least squares of the semantic vectors on the codes of both sides."""
        B = torch.cat([self.memory_["B_I"], self.memory_["B_S"]])
        phi = self.memory_["phi"].repeat(2, 1)
        return torch.linalg.solve(B.T @ B + 1e-3 * torch.eye(self.bits), B.T @ phi)

    def code_steps(self, W: Tensor, D: Tensor, F_I: Tensor, F_S: Tensor) -> None:
        """One pass over the bits of the image codes, then one over those of the sketches."""
        phi, memory = self.memory_["phi"], self.memory_
        sides = (("B_I", "B_S", W, F_I), ("B_S", "B_I", W.T, F_S))
        for own, across, similarity, out in sides:
            B = memory[across]
            Q = self.bits * similarity @ B + self.lam * phi @ D.T + self.gamma * out
            memory[own] = coordinate_descent(memory[own], Q, B.T @ B + self.lam * D @ D.T)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The factor and the codes of all training rows, given the networks."""
        assert data.y is not None
        W = 2 * shares_label(data.y, data.y) - 1
        F_I, F_S = all_outputs(self, data)
        for _ in range(self.passes):
            self.code_steps(W, self.factor(), F_I, F_S)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distance of both towers' outputs from the codes of their rows."""
        F_I, F_S = pair(self, batch)
        return {
            "image codes": F.mse_loss(F_I, self.memory_["B_I"][batch.index]),
            "sketch codes": F.mse_loss(F_S, self.memory_["B_S"][batch.index]),
        }
