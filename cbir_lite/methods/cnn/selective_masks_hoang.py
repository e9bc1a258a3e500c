"""Selective deep convolutional features [73] (survey Section III.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cbir_lite.methods.cnn._masked import MaskedEmbedding


@dataclass(kw_only=True, eq=False)
class SelectiveMasks(MaskedEmbedding):
    r"""Keep the local features that say something, and let each kept one count as much as another.

    Local features of one image repeat each other, and the repeated ones drown the rest. A mask
    keeps few: the places at which some channel has its maximum, or those whose sum over channels
    is above the median. Kept features are embedded by their directions to all words of a codebook,
    whitened, and summed with weights that make the parts of all in the sum equal. The codebook
    starts from ``self.seed``.

    :survey: Section III.5
    :cite: hoang2017selective
    :source: the survey's row and the paper's abstract (masks, embedding, aggregation); median,
        maxima, triangulation embedding and democratic sum are as commonly reported and were not
        checked in its text
    :objective: M_{max}=\{\arg\max_p\phi_c(p)\}_c,\ M_{sum}=\{p:\textstyle\sum_c\phi_c(p)\ge
        \mathrm{median}\},\quad f=\sum_{p\in M}\lambda_p\,W\,\mathrm{concat}_k
        \frac{\psi(p)-c_k}{\|\psi(p)-c_k\|}
    :shapes: maps x (n, h, w, d); embedded places (n, P, words local); descriptors float32 (n, bits)
    :defaults: mask = max (the paper's best), variant sum; words = 8 and local = 64, less than in
        the paper because small maps give few places; whiten = 0.5 at the end
    :departures: embedded places are divided by the root of their deviations, half of a whitening;
        no mask from SIFT keypoints, which need the image; the components of largest variance are
        not cut; ten dampened Sinkhorn steps; maps are those of this package's backbones
    :fidelity: simplified
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"sum": {"mask": "sum"}}
