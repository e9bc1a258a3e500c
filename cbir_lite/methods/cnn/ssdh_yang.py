"""SSDH of Yang et al. [102]: supervised semantics-preserving deep hashing (survey Section IV-A)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.deep import Batch


@dataclass(kw_only=True, eq=False)
class SSDH(LatentLayer):
    r"""A latent layer of on-off attributes from which a classifier reads the labels.

    The latent units are sigmoids. Besides the classification error, two terms shape them: one
    drives every unit away from one half, towards 0 or 1, the other asks that half the units of
    each image are on, so that codes neither all fire nor all rest. The code is the rounded
    activation. Not to be confused with the semantic structure-based SSDH of 2018.

    :survey: Sections IV-A, VII-F; Tables II, IV
    :cite: yang2018ssdh
    :source: the authors' public Caffe code (layers of the three terms, their weights, the halves)
        and the survey
    :objective: \min\ \alpha\,\mathrm{mean}_n L(y_n, W a_n + c)
        -\frac{\beta}{2}\,\mathrm{mean}_n\frac1K\|a_n-0.5\,\mathbf{1}\|_2^2
        +\frac{\gamma}{2}\,\mathrm{mean}_n\big(\tfrac1K\mathbf{1}^\top a_n-0.5\big)^2,
        \quad a_n=\sigma(z_n)
    :shapes: x (n, d), labels (n, C); z (n, bits), a = sigmoid(z); codes int8 (n, bits), a >= 1/2
    :defaults: alpha = beta = gamma = 1 (public code)
    :departures: AlexNet and VGG trained end to end are replaced by a hidden layer on frozen
        features, and the classifier's tenfold learning rate is left out; Adam with cosine decay
        instead of SGD. Images with several labels get binary cross entropy instead of a margin
        loss. The public layers divide the last two terms by the batch size (32) once more, and take
        the mean activation of the whole batch instead of each image's
    :fidelity: simplified
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification, distance of the units from one half, and firing rate of each image."""
        a = self.network_(batch.x).sigmoid()
        return {
            "classification": self.alpha * self.classification(a, batch.labels),
            "binary": -self.beta / 2 * (a - 0.5).square().mean(),
            "half_on": self.gamma / 2 * (a.mean(1) - 0.5).square().mean(),
        }
