"""Deep multi-view hashing [59] (survey Section III.1)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cbir_lite.methods.autoencoder._boltzmann import PretrainedAutoencoder


def parts(n: int, k: int) -> list[int]:
    """Sizes of k parts of n units, as equal as can be, the larger first."""
    return [n // k + (i < n % k) for i in range(k)]


def view_mask(inputs: list[int], outputs: list[int]) -> Tensor:
    """Connections (sum of inputs, sum of outputs) between two layers of grouped units.

    ``outputs`` are the sizes of the views' own groups and, last, of the shared group; ``inputs``
    the same, or the views alone. A view's own units see that view's own units below; the shared
    units see everything.
    """
    mask = torch.zeros(sum(inputs), sum(outputs))
    mask[:, sum(outputs[:-1]) :] = 1
    row = column = 0
    for m, n in zip(inputs, outputs[:-1], strict=False):
        mask[row : row + m, column : column + n] = 1
        row, column = row + m, column + n
    return mask


@dataclass(kw_only=True, eq=False)
class DMVH(PretrainedAutoencoder):
    r"""Layers with units of their own for each view and units that all views share.

    An image is described in several ways, its views. In each hidden layer some units are
    connected to one view only and learn what is particular to it, others are connected to all views
    and learn what these have in common. The layers are learned one by one as restricted
    Boltzmann machines. The code units sit on top of all of them, and the whole is trained to
    rebuild every view from the code.

    :survey: Section III.1 (2011-2013)
    :cite: kang2012multiview
    :source: the survey's sentence, which is that of the paper's abstract (view-specific and shared
        hidden nodes in each layer), and the abstract of an earlier work by two of its authors
        with layers of this kind (Kang and Choi 2011, restricted deep belief networks for multi-view
        learning: own nodes see their view's own nodes below, shared nodes see all, layers learned
        one by one by contrastive divergence); how codes are made of the layers was not found
    :objective: \min\ \sum_v\|x_v-\hat x_v(b)\|^2,\quad
        h^{l+1}_v=\sigma(W_v^\top h^l_v),\ h^{l+1}_s=\sigma(U^\top[h^l_1;\dots;h^l_V;h^l_s]),\
        b=\mathbb 1[\sigma(z)\ge\tfrac12]
    :shapes: x (n, d), cut into V views; layers width and width / 2, half of each shared; codes int8
        (n, bits)
    :defaults: V = 2, half of the hidden units shared; rates and epochs of the machines as in
        deep_autoencoder_krizhevsky; all chosen here
    :departures: the views of an image are parts of one frozen descriptor, which are far more alike
        than the paper's different descriptors; how the paper fine-tunes was not found, here
        it is reconstruction through rounded code units
    :fidelity: sketch
    """

    n_views: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n_views, int) or self.n_views < 1:
            raise ValueError(f"n_views={self.n_views!r}: the number of views must be >= 1")

    def masks(self, d: int) -> list[Tensor]:
        """Two hidden layers of own and shared units, and the code above them."""
        if d < self.n_views:
            raise ValueError(f"n_views={self.n_views} exceeds the {d} dimensions of the features")
        groups = [parts(d, self.n_views)]
        for size in (self.width, self.width // 2):
            shared = size - size // 2
            groups.append([*parts(size // 2, self.n_views), shared])
        hidden = [view_mask(a, b) for a, b in pairwise(groups)]
        return [*hidden, torch.ones(sum(groups[-1]), self.bits)]
