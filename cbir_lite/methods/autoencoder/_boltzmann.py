"""Autoencoders that start from restricted Boltzmann machines and round their code layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.autoencoder._straight_through import binary_units
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import Standardise

MOMENTUM = 0.9


class Boltzmann:
    """Restricted Boltzmann machine with weights W (d, h), biases a (d,), c (h,), learned by CD-1.

    ``gaussian`` visible units have unit variance, others are binary. ``mask`` (d, h) in {0, 1}
    says which units are connected.
    """

    def __init__(self, mask: Tensor, gaussian: bool):
        self.mask, self.gaussian = mask, gaussian
        self.W = 0.01 * torch.randn(mask.shape) * mask
        self.a, self.c = torch.zeros(mask.shape[0]), torch.zeros(mask.shape[1])
        self._speed = [torch.zeros_like(p) for p in (self.W, self.a, self.c)]

    def hidden(self, v: Tensor) -> Tensor:
        """P(h = 1 | v) (n, h)."""
        return (v @ self.W + self.c).sigmoid()

    def visible(self, h: Tensor) -> Tensor:
        """Mean of v given h (n, d)."""
        z = h @ self.W.T + self.a
        return z if self.gaussian else z.sigmoid()

    def gradients(self, v: Tensor, h: Tensor) -> list[Tensor]:
        """What one step of contrastive divergence adds to W, a, c, up to the learning rate.

        ``h`` (n, h) in {0, 1} is a sample of the hidden units given the data ``v`` (n, d).
        """
        p, v1 = self.hidden(v), self.visible(h)
        p1 = self.hidden(v1)
        W = (v.T @ p - v1.T @ p1) / len(v) * self.mask
        return [W, (v - v1).mean(0), (p - p1).mean(0)]

    def step(self, v: Tensor, lr: float, decay: float) -> None:
        """One update with momentum and decay of the weights."""
        h = torch.bernoulli(self.hidden(v))
        for p, speed, g, shrink in zip(
            (self.W, self.a, self.c), self._speed, self.gradients(v, h), (decay, 0, 0), strict=True
        ):
            speed.mul_(MOMENTUM).add_(lr * (g - shrink * p))
            p.add_(speed)

    def error(self, v: Tensor) -> float:
        """Mean squared error of the rows of v after one way up and down."""
        return float((v - self.visible(self.hidden(v))).square().mean())


class Layer(nn.Module):
    """Linear layer with the connections of ``mask`` (inputs, outputs); W is kept that way round."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)
        self.W = nn.Parameter(torch.zeros_like(mask))
        self.bias = nn.Parameter(torch.zeros(mask.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs), before the activation."""
        return x @ (self.W * self.mask) + self.bias


class Autoencoder(nn.Module):
    """Logistic layers down to the code and back; calling it gives the code's logits (B, bits)."""

    def __init__(self, x: NDArray[Any], masks: list[Tensor]):
        super().__init__()
        self.standardise = Standardise(x)
        self.encoder = nn.ModuleList(Layer(m) for m in masks)
        self.decoder = nn.ModuleList(Layer(m.T.contiguous()) for m in reversed(masks))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the code units."""
        h = self.standardise(x).flatten(1)
        for layer in self.encoder[:-1]:
            h = layer(h).sigmoid()
        z: Tensor = self.encoder[-1](h)
        return z

    def rebuild(self, b: Tensor) -> Tensor:
        """Standardised inputs (B, d) from activities b (B, bits) of the code units."""
        for layer in self.decoder[:-1]:
            b = layer(b).sigmoid()
        x: Tensor = self.decoder[-1](b)
        return x


@dataclass(kw_only=True, eq=False)
class PretrainedAutoencoder(DeepMethod):
    """Layer-wise pretraining, then backpropagation through code units rounded to 0 or 1."""

    supervision = "unsupervised"

    dropout: float = 0.0
    weight_decay: float = 0.0
    rbm_updates: int = 400
    rbm_lr: float = 0.1
    rbm_lr_gaussian: float = 0.01
    rbm_decay: float = 2e-4

    def masks(self, d: int) -> list[Tensor]:
        """Which units of consecutive layers are connected, from the d inputs to the code."""
        raise TypeError(f"{type(self).__name__} does not say how its layers are connected")

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The autoencoder, not yet pretrained."""
        d = int(x[0].size)
        return Autoencoder(x, self.masks(d))

    @torch.no_grad()
    def start_fit(self, data: TrainingData) -> None:
        """Learn one machine a layer on the activities below; unroll them into the autoencoder.

        ``memory_["pretraining"]`` (layers, 2) holds the squared error before and after.
        """
        net: Any = self.network_
        v = net.standardise(data.x).flatten(1)
        errors = []
        for i, layer in enumerate(net.encoder):
            machine = Boltzmann(layer.mask, gaussian=i == 0)
            before = machine.error(v)
            lr = self.rbm_lr_gaussian if i == 0 else self.rbm_lr
            for _ in range(self.rbm_updates):
                machine.step(v[torch.randint(len(v), (self.batch_size,))], lr, self.rbm_decay)
            errors.append([before, machine.error(v)])
            mirror = net.decoder[len(net.encoder) - 1 - i]
            layer.W.copy_(machine.W)
            layer.bias.copy_(machine.c)
            mirror.W.copy_(machine.W.T)
            mirror.bias.copy_(machine.a)
            v = machine.hidden(v)
        self.memory_ = {"pretraining": torch.tensor(errors)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of what the rounded code rebuilds, mean over dimensions."""
        net: Any = self.network_
        b = binary_units(net(batch.x).sigmoid())
        x = net.standardise(batch.x).flatten(1)
        return {"reconstruction": F.mse_loss(net.rebuild(b), x)}
