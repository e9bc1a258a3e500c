"""PGDH [77]: relaxation-free hashing by policy gradient (survey Sections III.6, V-G)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.base import sign
from cbir_lite.methods.deep import Batch, DeepMethod


def pair_weights(s: Tensor) -> Tensor:
    """w (B, B): beta at similar pairs, 1 - beta at others, 0 on the diagonal.

    beta is the share of dissimilar pairs, so that both kinds weigh the same in total.
    """
    off = 1 - torch.eye(len(s))
    beta = 1 - (s * off).sum() / off.sum()
    return off * torch.where(s > 0, beta, 1 - beta)


def rewards(b: Tensor, s: Tensor) -> Tensor:
    """r (T, B), at most 0: what each of T drawn codes b (T, B, K) of an image earns in its batch.

    ``s`` (B, B) is 1 for similar images. A draw meets the draws of the same number of the other
    images. The error is squared: distances alone are best served by K copies of the best bit.
    """
    B, K = b.shape[1:]
    error = (b @ b.transpose(1, 2) / K - (2 * s - 1)).square()
    return -(pair_weights(s) * error).sum(2) / (B - 1)


@dataclass(kw_only=True, eq=False)
class PGDH(DeepMethod):
    r"""Draw the bits from the network's probabilities and reinforce draws that keep similarity.

    The network gives the probability of each bit to be +1. Codes are drawn, never relaxed; the
    reward of a draw is high where similar images got near codes and dissimilar ones far codes; and
    the likelihood of draws that earn more than their image's mean is raised (REINFORCE with a
    baseline). A code is the most probable one: +1 where the probability is at least one half.
    ``history_`` holds the mean reward of each epoch.

    :survey: Sections III.6, V-G
    :cite: yuan2018pgdh
    :source: the survey's account and the paper's introduction (stochastic policy in place of the
        sign, reward of similarity preservation, policy gradient); no public code was found
    :objective: \max_\theta\ \mathbb{E}_{b\sim\pi_\theta}\sum_i r(b_i),\quad
        \pi_\theta(b_i|x_i)=\prod_k p_{ik}^{(1+b_{ik})/2}(1-p_{ik})^{(1-b_{ik})/2},\quad
        r(b_i)=-\sum_j w_{ij}\big(\tfrac1K b_i^\top b_j-s_{ij}\big)^2,\
        w_{ij}=\beta\text{ if }s_{ij}=1,\ 1-\beta\text{ if }s_{ij}=-1;\quad
        \nabla\approx\frac1T\sum_{t,i}\big(r(b_i^t)-\bar r_i\big)\nabla\log\pi_\theta(b_i^t|x_i)
    :shapes: x (n, d), labels (n, C); p (n, bits); codes int8 (n, bits)
    :defaults: T = 16 draws an image and step, baseline = their mean, beta = share of dissimilar
        pairs of a batch (own choices, made on a validation part of CIFAR-10's training set)
    :departures: the paper's reward, number of draws and baseline were not at hand: the squared
        error, its weights and T are this package's own; the CNN trained end to end is replaced by
        a hidden layer on frozen features; Adam with cosine decay
    :fidelity: sketch
    """

    T: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.T, int) or self.T < 2:
            raise ValueError(f"T={self.T!r}: the baseline needs an integer of at least 2 draws")

    def draw(self, logits: Tensor) -> Tensor:
        """T codes (T, B, bits) in {-1, +1} from the Bernoulli policy of logits (B, bits)."""
        p = torch.sigmoid(logits.detach()).expand(self.T, -1, -1)
        return 2 * torch.bernoulli(p) - 1

    def surrogate(self, logits: Tensor, b: Tensor, r: Tensor) -> Tensor:
        r"""Scalar whose gradient is minus the policy gradient, per image and bit.

        log pi = sum_k log sigmoid(b_k logit_k); only this factor carries a gradient.
        """
        log_pi = F.logsigmoid(b * logits).sum(2)
        return -((r - r.mean(0)) * log_pi).mean()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The policy's surrogate on drawn codes; in evaluation, minus the reward of the mode."""
        logits = self.network_(batch.x)
        if not self.network_.training:
            return {"policy": -rewards(sign(logits).float()[None], batch.similarity).mean()}
        b = self.draw(logits)
        r = rewards(b, batch.similarity)
        self._reward = float(r.mean())
        return {"policy": self.surrogate(logits, b, r)}

    def training_step(self, batch: Batch) -> dict[str, float]:
        """One step along the policy gradient; the mean reward is logged beside the surrogate."""
        terms = super().training_step(batch)
        return {**terms, "reward": self._reward}
