"""A hash network with a sigmoid layer before the loss [70] (survey Section III.4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.deep import Batch


@dataclass(kw_only=True, eq=False)
class SigmoidLayerHash(LatentLayer):
    r"""A compact sigmoid layer under the loss makes outputs that are almost bits.

    The layer is as narrow as the code is long and its units lie between zero and one, so the
    labels squeeze through near-binary activations; rounding those gives the code. Hash function
    and representation are learned at once, from the loss of the labels alone.

    :survey: Section III.4
    :cite: zhong2016dhln
    :source: the survey's sentence and row, and the abstract of the preprint (a compact sigmoid
        layer before the loss layer, supervised, representation and code learned together); its
        loss is not named there
    :objective: \min\ \sum_iL_{\mathrm{cls}}\big(y_i,W\sigma(z_i)\big),\quad
        b_k=1\text{ if }\sigma(z_k)\ge\tfrac12,\text{ else }-1
    :shapes: x (n, d), labels (n, C); z (n, bits), W (C, bits); codes int8 (n, bits)
    :defaults: none besides those of every deep system
    :departures: cross entropy of a linear classifier stands for the loss that the sources do not
        name, which makes the objective that of [51] without its second search stage; the
        paper's CNN is replaced by a hidden layer on frozen features; images with several labels get
        one logistic term a class; Adam with cosine decay
    :fidelity: sketch
    """

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels given the sigmoid layer."""
        layer = self.network_(batch.x).sigmoid()
        return {"labels": self.classification(layer, batch.labels)}
