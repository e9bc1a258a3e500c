"""Binary units of a network: exact in the forward pass, real in the backward pass."""

from __future__ import annotations

from torch import Tensor


def binary_units(p: Tensor, threshold: Tensor | float = 0.5) -> Tensor:
    """1 where p >= threshold, else 0; the gradient is that of p.

    With p = sigmoid(z) and a threshold drawn uniformly from [0, 1] this is a sample of Bernoulli(p)
    with the gradient of its mean.
    """
    return p + ((p >= threshold).to(p.dtype) - p).detach()
