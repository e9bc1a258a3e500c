"""DSQ [81]: deep spherical quantization (survey Sections III, IV-A, Tables II and III)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.networks import HashNetwork
from cbir_lite.methods.quantizers import CompositeMethod, add_words, class_shares


class Sphere(HashNetwork):
    """Outputs z of length one, and a classifier that reads them scaled by ``scale``."""

    def __init__(
        self, x: NDArray[Any], width: int, R: int, dropout: float, n_classes: int, scale: float
    ):
        super().__init__(x, width, R, dropout)
        self.scale = scale
        self.classifier = nn.Linear(R, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """z of a batch."""
        return F.normalize(super().forward(x), dim=1)

    def logits(self, z: Tensor) -> Tensor:
        """Class scores (n, C) of outputs z."""
        scores: Tensor = self.classifier(self.scale * z)
        return scores


@dataclass(kw_only=True, eq=False)
class DSQ(CompositeMethod):
    r"""Features and their codes lie on the unit sphere, and both gather around class centres.

    All features have length one, so no codeword is spent on lengths. A softmax keeps classes apart,
    a centre loss draws features to the centre of their class, and the quantizer is supervised too:
    it describes the feature and the centre at once, so the words and codes are those of a point
    between the two. Codes are sums of one word of each codebook, found by iterated conditional
    modes; words follow by least squares. Queries stay real-valued.

    :survey: Sections III.7, IV-A; Tables II, III
    :cite: eghbali2019dsq
    :source: the paper's abstract and a later survey of deep hashing, which prints all four terms;
        the centre update is that of the centre-loss literature
    :objective: \min\ \mathrm{mean}_i\Big(\mathrm{CE}(y_i,\hat y_i)
        +\lambda_1\|z_i-\textstyle\sum_mC_mb_{im}\|_2^2+\lambda_2\|z_i-\varphi_{y_i}\|_2^2
        +\lambda_3\|\varphi_{y_i}-\sum_mC_mb_{im}\|_2^2\Big),\quad\|z_i\|_2=1
    :shapes: x (n, d), labels (n, C); z (n, R), centres (C, R); codebooks (M, 2^(bits/M), R);
        database uint8 (n, M), queries float32 (n, R)
    :defaults: M = bits / 8 rounded up, R = 64 (cut to a multiple of M), centres move by the centre
        loss's step with alpha = 0.5 (n members: 0.5 n / (1 + n) of the way to their mean), the
        terms with codes start with the second epoch, softmax scale 16; lambda_1 = lambda_3 = 0.5,
        lambda_2 = 2 chosen on a held-out part of the training images
    :departures: weights, R and softmax scale are this package's, since the paper's were not at
        hand; the centre of a row with several labels is the mean of theirs; ranked by inner
        product; a hidden layer on frozen features instead of a network trained end to end, Adam
        with cosine decay; the sparse variant is left out
    :fidelity: simplified
    """

    dim: int = 64
    lam1: float = 0.5
    lam2: float = 2.0
    lam3: float = 0.5
    alpha: float = 0.5
    scale: float = 16.0

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Trunk, unit outputs and classifier."""
        assert n_classes is not None
        return Sphere(x, self.width, self.R, self.dropout, n_classes, self.scale)

    def start_fit(self, data: TrainingData) -> None:
        """Centres start as the means of the first outputs."""
        assert data.y is not None
        share = class_shares(data.y)
        sums = share.T @ self.outputs(data.x)
        self.memory_ = {"phi": sums / share.sum(0)[:, None].clamp_min(1)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Softmax, centre, quantization and (constant for the network) discriminative terms."""
        z, share, phi = self.network_(batch.x), class_shares(batch.labels), self.memory_["phi"]
        logits: Any = self.network_.logits
        centre = share @ phi
        terms = {
            "softmax": F.cross_entropy(logits(z), share),
            "centre": self.lam2 * (z - centre).square().sum(1).mean(),
        }
        if "C" in self.memory_:
            c = add_words(self.codes(batch, z), self.memory_["C"])
            terms["quantization"] = self.lam1 * (z - c).square().sum(1).mean()
            terms["discriminative"] = self.lam3 * (centre - c).square().sum(1).mean()
        if self.network_.training:
            self.memory_["phi"] = moved_centres(phi, z.detach(), share, self.alpha)
        return terms

    def targets(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The point between z and its centre whose quantization minimises both terms."""
        assert y is not None
        centre = class_shares(y) @ self.memory_["phi"]
        return (self.lam1 * z + self.lam3 * centre) / (self.lam1 + self.lam3)


def moved_centres(phi: Tensor, z: Tensor, share: Tensor, alpha: float) -> Tensor:
    """Centres (C, R) moved by alpha towards their members z in a batch, no member no move."""
    steps = share.T @ (z - share @ phi)
    return phi + alpha * steps / (1 + share.sum(0))[:, None]
