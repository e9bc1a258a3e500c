"""WMH [172]: weakly supervised multimodal hashing (survey Section IV-C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn._tags import nearest_rows, rarity
from cbir_lite.methods.shallow._linear import Float64, LinearHash, pooled


def geometric(x: Float64, index: NDArray[np.int64]) -> Float64:
    """X' L X (d, d) for the graph that links each row of x (n, d) with its neighbours (n, m).

    w'(X' L X)w is half the sum of squared differences of the projections of linked rows.
    """
    total = np.zeros((x.shape[1], x.shape[1]))
    for column in index.T:
        difference = x - x[column]
        total += difference.T @ difference
    return 0.5 * total


def discriminative(x: Float64, index: NDArray[np.int64], ridge: float) -> Float64:
    """X' L X (d, d) whose quadratic form is how badly local linear models predict a projection.

    Around every row, on the clique of the row and its neighbours, a ridge regression (with an
    offset) predicts the projected values from x; the errors and penalties of all are summed.
    """
    cliques = np.concatenate([np.arange(len(x))[:, None], index], 1)
    total = np.zeros((x.shape[1], x.shape[1]))
    eye = ridge * np.eye(cliques.shape[1])
    for a in range(0, len(x), 512):
        local = x[cliques[a : a + 512]]
        local = local - local.mean(1, keepdims=True)
        error = ridge * np.linalg.inv(local @ local.transpose(0, 2, 1) + eye)
        # One product of flat matrices instead of a sum over cliques.
        flat = local.reshape(-1, x.shape[1])
        total += flat.T @ (error @ local).reshape(-1, x.shape[1])
    return total


@dataclass(kw_only=True, eq=False)
class WMH(LinearHash):
    r"""Orthogonal linear hash functions from tags, checked against the pictures themselves.

    Projections should agree where the tags of two pictures agree. Tags are imperfect, so two
    properties of the visual space hold them back: neighbours shall get similar values, and around
    every picture the values shall be predictable by a local linear model. Projections of large
    variance carry the most information. All of it is quadratic in the projections, which are
    orthogonal, so the best ones are eigenvectors. The objective is the same for every rotation of
    these, and a random one gives all bits a like share of the variance.

    :survey: Section IV-C
    :cite: tang2018wmh
    :source: the paper's abstract (semantic structure from tags, local discriminative and geometric
        structure in the visual space, orthogonal functions, maximum entropy, eigenvalue problem)
    :objective: \max_{W^\top W=I}\ \mathrm{tr}\,W^\top X^\top\big(S+\gamma I-\alpha L_{geo}
        -\beta L_{loc}\big)XW,\quad S=TT^\top,\ L_{loc}=\sum_i R_i^\top\mu
        (\bar X_i\bar X_i^\top+\mu I)^{-1}R_i
    :shapes: x (n, d) centred, tags (n, V) multi-hot, T (n, V) unit rows less their mean;
        W (d, bits); codes int8 (n, bits) = sgn((x - mean) W)
    :defaults: alpha = beta = gamma = 0.1 (gamma corrected once from 1, on digits), mu = 1 on rows
        scaled to unit mean square, 5 neighbours; each of the four matrices is divided by its
        trace; chosen here
    :departures: the equations were not at hand: tag similarity is the cosine of tags weighted by
        inverse document frequency, the local discriminative structure is a local ridge regression
        as usual in the literature, variance stands for entropy; the random rotation of
        the eigenvectors is added here (without it codes fall below random projections on digits);
        frozen features
    :fidelity: sketch
    """

    supervision = "weakly-supervised"

    alpha: float = 0.1
    beta: float = 0.1
    gamma: float = 0.1
    mu: float = 1.0
    neighbours: int = 5

    def fit(self, split: Split, **loop: Any) -> Self:
        """One eigenvalue problem; raises ``ValueError`` when bits exceeds d."""
        features = pooled(split.x, system="WMH")
        if self.bits > features.shape[1]:
            raise ValueError(
                f"bits={self.bits} exceeds the {features.shape[1]} dimensions of the features: "
                "there are no more orthogonal projections; use fewer bits"
            )
        mean = features.mean(axis=0, dtype=np.float64)
        x = features - mean
        x = x / max(float(np.sqrt(np.square(x).sum(1).mean())), 1e-12)
        M = self.objective(x, np.asarray(split.labels, np.float32))
        W = np.linalg.eigh(M)[1][:, ::-1][:, : self.bits]
        W = W * np.sign(W[np.abs(W).argmax(0), np.arange(self.bits)])
        # The objective does not change when W is turned, but the eigenvectors themselves are the
        # worst choice for codes: the last ones hardly vary.
        normal = np.random.default_rng(self.seed).standard_normal((self.bits, self.bits))
        self._keep(mean, W @ np.linalg.qr(normal)[0])
        return self

    def objective(self, x: Float64, tags: NDArray[np.float32]) -> Float64:
        """The matrix M (d, d) whose form tr W'MW is maximised, for centred x (n, d)."""
        index = nearest_rows(torch.from_numpy(x.astype(np.float32)), self.neighbours)[1].numpy()
        weighted = tags * rarity(torch.from_numpy(tags)).numpy()
        norms = np.linalg.norm(weighted, axis=1, keepdims=True)
        T = weighted / np.where(norms > 0, norms, 1)
        # Pairs of pictures agree more or less than pairs do on average.
        half = x.T @ (T - T.mean(0))
        M = np.zeros((x.shape[1], x.shape[1]))
        for weight, part in (
            (1.0, half @ half.T),
            (self.gamma, x.T @ x),
            (-self.alpha, geometric(x, index)),
            (-self.beta, discriminative(x, index, self.mu)),
        ):
            M += weight * part / max(float(np.trace(part)), 1e-12)
        return M
