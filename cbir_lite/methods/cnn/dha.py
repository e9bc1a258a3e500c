"""DHA [84]: deep learning to hash with an adaptive loss (survey III.7, IV-A, Tables II and IV)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod


def adaptive_scale(product: Tensor) -> Tensor:
    """Root mean square of the inner products of different rows in ``product`` (n, n).

    Without gradient. It grows with the code length and with how far the codes have spread, so that
    the products divided by it always lie where the sigmoid still bends.
    """
    different = ~torch.eye(len(product), dtype=torch.bool)
    return product.detach()[different].square().mean().sqrt().clamp_min(1e-6)


@dataclass(kw_only=True, eq=False)
class DHA(DeepMethod):
    r"""A pair likelihood whose slope follows the code length and the distances between the codes.

    With a fixed slope the sigmoid of an inner product is saturated for long codes and almost linear
    for short ones, so pairs stop learning at a point that depends on the length. Here the inner
    products of a batch are divided by their own root mean square before the sigmoid: pairs keep a
    gradient at every length and at every stage of training.

    :survey: Sections III.7, IV-A; Tables II, IV
    :cite: xu2019dha
    :source: the survey's sentences and row only (an adaptive loss on pairs and quantization);
        neither the text of the paper nor code of its authors was found
    :objective: \min\ \sum_{i\ne j}\Big(\log\big(1+e^{\Theta_{ij}}\big)-s_{ij}\Theta_{ij}\Big)
        +\lambda\sum_i\big\||h_i|-\mathbf 1\big\|_2^2,\quad h=\tanh(z),
        \ \Theta_{ij}=\beta\,h_i^\top h_j\Big/\sqrt{\mathrm{mean}_{k\ne l}\,(h_k^\top h_l)^2}
    :shapes: x (n, d), labels (n, C); h (n, bits); codes sgn(h), int8 (n, bits)
    :defaults: beta = 1 and lambda = 0.1, chosen on a validation part of the CIFAR-10 training
        set; the first sum is averaged over pairs, the second over outputs
    :departures: the form of the adaptation is this implementation's reading of "adaptive"; the
        paper's CNN is replaced by a hidden layer on frozen features, Adam with cosine decay
    :fidelity: sketch
    """

    beta: float = 1.0
    lam: float = 0.1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Likelihood of the pairs i < j at the adapted slope, and quantization."""
        h = torch.tanh(self.network_(batch.x))
        product = h @ h.T
        i, j = torch.triu_indices(len(h), len(h), offset=1)
        theta = self.beta * (product / adaptive_scale(product))[i, j]
        s = batch.similarity[i, j]
        return {
            "likelihood": (F.softplus(theta) - s * theta).mean(),
            "quantization": self.lam * (h.abs() - 1).square().mean(),
        }
