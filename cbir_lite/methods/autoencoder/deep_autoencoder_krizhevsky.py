"""Codes of a very deep autoencoder [58] (survey Sections III.1, V-B, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cbir_lite.methods.autoencoder._boltzmann import PretrainedAutoencoder


@dataclass(kw_only=True, eq=False)
class DeepAutoencoderKrizhevsky(PretrainedAutoencoder):
    r"""A stack of restricted Boltzmann machines, unrolled into an autoencoder with a binary waist.

    Each machine learns features of the activities of the one below, without labels and without
    looking ahead. The stack and its mirror image then form an autoencoder that is trained as a
    whole. In the forward pass the logistic code units are rounded to 0 or 1, so that the
    decoder only ever sees what retrieval will see; the backward pass ignores the rounding.

    :survey: Sections III.1 (2011-2013), V-B, VI-A
    :cite: krizhevsky2011autoencoder
    :source: the paper's abstract and first page; contrastive divergence, Gaussian visible units and
        rounded code units as commonly described, not checked line by line
    :objective: \min\ \|x-\hat x(b)\|^2,\quad b=\mathbb 1[\sigma(z)\ge\tfrac12],\
        \partial b/\partial z:=\sigma'(z);\quad\text{start: }
        \Delta W\propto\langle vh\rangle_{data}-\langle vh\rangle_{1\text{ step}}
    :shapes: x (n, d); layers d, width, width / 2, bits; b (B, bits); codes int8 (n, bits)
    :defaults: momentum 0.9, ten epochs a machine at rates 0.001 (Gaussian) and 0.02, weight decay
        2e-4; chosen here
    :departures: the inputs are standardised frozen features instead of the pixels of tiny images,
        the layers are three instead of six and far narrower; Adam fine-tunes. Searching with
        several shifted copies of the query is left out
    :fidelity: simplified
    """

    def masks(self, d: int) -> list[Tensor]:
        """Everything is connected."""
        sizes = [d, self.width, max(self.width // 2, self.bits), self.bits]
        return [torch.ones(m, n) for m, n in pairwise(sizes)]
