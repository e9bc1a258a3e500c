"""DMSSPH [208]: deep multilevel semantic similarity preserving hashing (survey Section VII-C)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.methods.cnn._multilevel import multilevel_terms, pull_to_signs
from cbir_lite.methods.deep import Batch, DeepMethod


@dataclass(kw_only=True, eq=False)
class DMSSPH(DeepMethod):
    r"""The more labels two images share, the nearer their codes: a distance for every level.

    Two images may share one label of many, or all of them. Ranking losses put such pairs in order
    but leave open how near they come. Here each level of similarity has its own distance: equal
    sets of labels ask for equal codes, partly equal ones for some distance, and images without a
    common label for at least half of the bits. With one label an image there are two levels, and
    the loss is a contrastive one.

    :survey: Section VII-C
    :cite: wu2017dmssph
    :source: the paper's abstract (pairwise labels of several levels, direct constraints on the
        distances of very similar images); full text and code were not found
    :objective: \min\ \sum_{i<j,\,s_{ij}>0}\big(d_{ij}-m(s_{ij})\big)^2
        +\sum_{i<j,\,s_{ij}=0}\max(0,m(0)-d_{ij})^2+\alpha\sum_i\||u_i|-1\|_1,\quad
        d_{ij}=\tfrac1{4K}\|u_i-u_j\|_2^2,\ m(s)=\tfrac12(1-s),\
        s_{ij}=\frac{|y_i\cap y_j|}{\max(|y_i|,|y_j|)}
    :shapes: x (n, d), labels (n, C); s (B, B); u (n, bits); codes int8 (n, bits)
    :defaults: alpha = 0.01 beside means over pairs, images and bits; levels by the share of common
        labels and their distances m; all chosen here
    :departures: the form of the loss, its levels and margins are not known and chosen here; the
        CNN trained end to end is replaced by a hidden layer on frozen features
    :fidelity: sketch
    """

    alpha: float = 0.01

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distances that miss their level, and how far outputs are from plus and minus one."""
        u = self.network_(batch.x)
        terms = multilevel_terms(u, batch.labels)
        return {**terms, "quantization": self.alpha * pull_to_signs(u)}
