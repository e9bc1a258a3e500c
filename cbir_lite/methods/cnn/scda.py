"""SCDA [189]: selective convolutional descriptor aggregation (survey Sections VI-C, VII-G)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.cnn._aggregation import Aggregation


@dataclass(kw_only=True, eq=False)
class SCDA(Aggregation):
    r"""Find the object without labels, and describe only the places that lie on it.

    A place belongs to the object if its sum over channels is above the image's mean; of such places
    the largest connected part is kept, the rest is taken for background. Inside this mask the mean
    and the maximum of every channel are each brought to unit length and joined, and the whole is
    compressed. It was made for fine-grained sets, where one object fills most of the image.

    :survey: Sections VI-C, VII-G
    :cite: wei2017scda
    :source: the survey's row and sentences, the paper's abstract, and openings of public Python
        ports (largest connected part)
    :objective: M=\mathrm{largest}\big(\mathbb 1[\textstyle\sum_d\phi_d>\bar a]\big),\quad
        f=\big[\mathrm{norm}(\mathrm{avg}_M\,\phi);\ \mathrm{norm}(\max_M\phi)\big]
    :shapes: maps x (n, h, w, d); joined (n, 2 d); descriptors float32 (n, bits)
    :defaults: whiten = 0.5, half of the whitening of the paper's compressed variant: the full one
        lifts noise where training images are few, and ranks digits below random projections
    :departures: one layer of maps only, without the second layer and the mirrored image that the
        paper's best variant joins; maps are those of this package's backbones
    :fidelity: simplified
    """

    def aggregate(self, maps: Tensor) -> Tensor:
        """Mean and maximum inside the mask (n, 2 d)."""
        return A.scda(maps)
