"""GAH [154]: deep hashing with gradient attention (survey Section V-E)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label
from cbir_lite.methods.networks import HashNetwork

_P = 10
"""Gradients below exp(-P) are told by their value, larger ones by logarithm and sign."""


def scale_gradients(g: Tensor) -> tuple[Tensor, Tensor]:
    """Two inputs of moderate size for gradients of any size, each in the shape of ``g``.

    (log|g| / P, sgn g) where |g| > exp(-P), else (-1, exp(P) g).
    """
    size = g.abs()
    large = size > math.exp(-_P)
    logarithm = torch.where(large, size.clamp_min(math.exp(-_P)).log() / _P, -1.0)
    return logarithm, torch.where(large, g.sign(), math.exp(_P) * g)


class GradientAttention(nn.Module):
    """For every pair and bit: which of the two codes should move, and how much of the step."""

    def __init__(self, width: int):
        super().__init__()
        # A bit of one image, its gradient from this pair and its gradient from all pairs.
        self.fc_in = nn.Linear(5, width)
        self.fc_out = nn.Linear(width, 1, bias=False)

    def score(self, c: Tensor, g: Tensor, all_g: Tensor) -> Tensor:
        """Scores (m, n, bits) for codes c (m, 1, bits) with gradients g (m, n, bits) of pairs."""
        w = self.fc_in.weight.T
        log_g, sign_g = (v[..., None] for v in scale_gradients(g))
        rest = (v[..., None] for v in (c, *scale_gradients(all_g)))
        # One input after the other: a table of five for every pair and bit is slow to fill.
        hidden = self.fc_in.bias + sum(v * w[k] for v, k in zip(rest, (0, 3, 4), strict=True))
        hidden = torch.addcmul(torch.addcmul(hidden, log_g, w[1]), sign_g, w[2])
        return self.fc_out(F.relu(hidden)).squeeze(-1)

    def forward(self, c1: Tensor, c2: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Attended gradients of codes c1 (m, bits) and c2 (n, bits).

        ``slope`` (m, n) is the derivative of the loss by the inner products of the pairs. The two
        weights of a bit of a pair sum to two, so that equal scores leave the gradient as it is.
        """
        g1, g2 = slope[:, :, None] * c2, slope[:, :, None] * c1[:, None]
        s1 = self.score(c1[:, None], g1, g1.sum(1, keepdim=True))
        s2 = self.score(c2[None], g2, g2.sum(0, keepdim=True))
        a1 = torch.sigmoid(s1 - s2)
        return 2 * (a1 * g1).sum(1), 2 * ((1 - a1) * g2).sum(0)


class Networks(nn.Module):
    """The hash network and the gradient attention network; calling it gives z (n, bits)."""

    def __init__(self, x: NDArray[Any], width: int, bits: int, dropout: float, attention: int):
        super().__init__()
        self.hash = HashNetwork(x, width, bits, dropout)
        self.attention = GradientAttention(attention)

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        z: Tensor = self.hash(x)
        return z


@dataclass(kw_only=True, eq=False)
class GAH(DeepMethod):
    r"""A second network says which image of a pair should change a bit, so both do not swap.

    When two similar images differ in a bit, the gradient moves both towards the other, and after
    the step they may differ again with the signs exchanged. The gradient attention network looks
    at a bit of one image, at its gradient from the pair and at its gradient from all pairs, and
    splits the movement between the two images. It is trained by the loss after the step that it
    has shaped: its gradient flows through the update of the hash network.

    :survey: Section V-E
    :cite: huang2019gradient
    :source: the authors' public code (pair loss and its factor gamma, the five inputs and softmax
        of the attention network, the update it is trained through, the growing slope of tanh)
    :objective: \theta'=\theta-\eta\sum_{ij}\sum_k\Big(2a_{ijk}\frac{\partial\ell_{ij}}
        {\partial c_{ik}}\frac{\partial c_{ik}}{\partial\theta}+2(1-a_{ijk})
        \frac{\partial\ell_{ij}}{\partial c_{jk}}\frac{\partial c_{jk}}{\partial\theta}\Big),\quad
        \min_\phi\sum_{ij}\ell_{ij}(\theta'(\phi)),\quad
        \ell_{ij}=\log(1+e^{\gamma c_i^\top c_j})-s_{ij}\gamma c_i^\top c_j,\
        c=\tanh(\beta z),\ a=\mathrm{softmax}\big(f_\phi(\cdot_i),f_\phi(\cdot_j)\big)
    :shapes: x (n, d), labels (n, C); c (n, bits); attention a for every pair and bit; codes int8
        (n, bits)
    :defaults: gamma = 0.2 and Adam at 0.08 for the attention network (public code, CIFAR-10); beta
        = sqrt(1 + 0.005 steps) (public code, there raised every 200 steps, here every epoch); SGD
        with momentum 0.9 for the hash network (public code), through whose step the attention
        learns, at 0.1, chosen on a validation part of the training set
    :departures: AlexNet trained end to end is replaced by a hidden layer on frozen features; a
        batch is cut into pieces of 2 x 16 images and pairs are made within a piece only, and the
        attention network has 32 hidden units instead of 100, both because every pair and bit
        passes through it; all pairs weigh the same (the code gives similar pairs of CIFAR-10 ten
        times the weight); plain momentum instead of Nesterov's, cosine decay instead of steps. On
        these features the attention hardly changes the result: with its scores frozen
        at their first values the validation part ranks about as well
    :fidelity: simplified
    """

    lr: float = 0.1
    gamma: float = 0.2
    pairs: int = 16
    attention_width: int = 32
    attention_lr: float = 0.08

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Hash network and gradient attention network."""
        return Networks(x, self.width, self.bits, self.dropout, self.attention_width)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Plain SGD for the hash network, as its step is differentiated; Adam for the attention."""
        net: Any = self.network_
        own = torch.optim.SGD(
            net.hash.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.weight_decay
        )
        return [own, torch.optim.Adam(net.attention.parameters(), lr=self.attention_lr)]

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """The slope of tanh grows with the number of steps."""
        self.beta_ = math.sqrt(1 + 0.005 * epoch * math.ceil(len(data) / self.batch_size))

    def pieces(self, c: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Codes c1 (m, bits) and c2 (n, bits) and their s (m, n), piece by piece of the batch."""
        size = 2 * self.pairs
        halves = zip(c.split(size), y.split(size), strict=True)
        return [(*a.tensor_split(2), shares_label(*b.tensor_split(2))) for a, b in halves]

    def likelihood(self, c: Tensor, y: Tensor) -> Tensor:
        """Mean of the pair loss over the pairs of the pieces."""
        losses = []
        for c1, c2, s in self.pieces(c, y):
            theta = self.gamma * c1 @ c2.T
            losses.append((F.softplus(theta) - s * theta).flatten())
        return torch.cat(losses).mean()

    def attended(self, c: Tensor, y: Tensor) -> Tensor:
        """The gradient (B, bits) of the likelihood by c (B, bits), as the attention divides it."""
        pieces, parts = self.pieces(c, y), []
        pairs = sum(s.numel() for _, _, s in pieces)
        for c1, c2, s in pieces:
            slope = self.gamma / pairs * (torch.sigmoid(self.gamma * c1 @ c2.T) - s)
            parts += self.network_.get_submodule("attention")(c1, c2, slope)
        return torch.cat(parts)

    def codes(self, z: Tensor) -> Tensor:
        """c = tanh(beta z)."""
        return torch.tanh(self.beta_ * z)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The pair loss, of which training_step uses the attended gradient."""
        return {"likelihood": self.likelihood(self.codes(self.network_(batch.x)), batch.labels)}

    def training_step(self, batch: Batch) -> dict[str, float]:
        """A step of the hash network along the attended gradient, then one of the attention."""
        net: Any = self.network_
        step, attention_step = self._optimisers
        own = list(net.hash.parameters())
        # The step changes the parameters in place, and the graph needs those before it.
        old = {k: p.detach().clone().requires_grad_() for k, p in net.hash.named_parameters()}
        random = torch.get_rng_state()
        c = self.codes(functional_call(net.hash, old, (batch.x,)))
        before = self.likelihood(c.detach(), batch.labels)
        gradient = self.attended(c.detach(), batch.labels)
        moved = torch.autograd.grad(c, list(old.values()), gradient, create_graph=True)
        for p, g in zip(own, moved, strict=True):
            p.grad = g.detach()
        step.step()

        torch.set_rng_state(random)  # the same dropout as before the step
        after = self.loss(batch)["likelihood"]
        slopes = torch.autograd.grad(after, own)
        lr = step.param_groups[0]["lr"]
        # By the chain rule: the step subtracts lr x gradient, whatever momentum adds.
        reached = sum((g * v).sum() for g, v in zip(moved, slopes, strict=True))
        learned = list(net.attention.parameters())
        for p, g in zip(learned, torch.autograd.grad(-lr * reached, learned), strict=True):
            p.grad = g
        attention_step.step()
        return {"likelihood": float(before), "after the step": float(after.detach())}
