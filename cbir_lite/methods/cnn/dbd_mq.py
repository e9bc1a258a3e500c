"""DBD-MQ [114]: deep binary descriptor with multi-quantization (survey Sections IV-B, V-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cbir_lite.methods.cnn._pseudo import PseudoSupervised
from cbir_lite.methods.cnn.deepbit import evenness_loss
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.shallow._linear import principal_components


def descriptor_layer(x: NDArray[np.generic], bits: int) -> nn.Linear:
    """A linear layer that starts as principal components of x, turned at random.

    Components have unit variance in all, so a turn gives every element an equal share of it.
    Dimensions beyond the rank of x start at zero.
    """
    layer = nn.Linear(x.shape[1], bits)
    k = min(bits, *x.shape)
    mean, V, deviation = principal_components(np.asarray(x, np.float64), k)
    scale = max(float(np.sqrt(np.square(deviation).sum() / bits)), 1e-12)
    turn = torch.linalg.qr(torch.randn(bits, bits)).Q[:, :k]
    W = turn @ torch.from_numpy(V.T / scale).float()
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.copy_(-W @ torch.from_numpy(mean).float())
    return layer


class KAutoEncoders(nn.Module):
    """Real-valued descriptors z (n, bits), and two autoencoders of whole descriptors."""

    def __init__(self, x: NDArray[np.generic], bits: int, hidden: int):
        super().__init__()
        self.descriptor = descriptor_layer(x, bits)
        self.autoencoders = nn.ModuleList(
            nn.Sequential(nn.Linear(bits, hidden), nn.Tanh(), nn.Linear(hidden, bits))
            for _ in range(2)
        )
        for constant, rebuild in zip((-1.0, 1.0), self.autoencoders, strict=True):
            last = rebuild.get_submodule("2")
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, constant)

    def errors(self, z: Tensor) -> Tensor:
        """Squared error (n, bits, 2) with which each autoencoder rebuilds each element of z."""
        return torch.stack([(z - rebuild(z)).square() for rebuild in self.autoencoders], 2)

    def forward(self, x: Tensor) -> Tensor:
        """Error of the first autoencoder minus that of the second, (n, bits).

        Its sign is the code: one where the second rebuilds better.
        """
        errors = self.errors(self.descriptor(x))
        return errors[..., 0] - errors[..., 1]


@dataclass(kw_only=True, eq=False)
class DBDMQ(PseudoSupervised):
    r"""A bit says which of two autoencoders rebuilds an element of the descriptor better.

    The sign cuts every element at zero, whatever its distribution. Here the quantizers are learned:
    autoencoders that see the whole descriptor and specialise as the centres of k-means do. Two
    steps alternate: each element of each training image is assigned to the autoencoder with the
    smaller error, then network and autoencoders reduce the errors of their assignments. Elements
    are to be positive in half of the images and to keep their spread. The autoencoders start as the
    constants minus and plus one, so the first code is the sign.

    :survey: Sections IV-B, V-A; Table III
    :cite: duan2017dbdmq
    :source: the paper's abstract and two summaries of it (autoencoders that are assigned elements
        like the centres of k-means, two of them as the best number, joint learning with the
        network, even distribution)
    :objective: \min\ \mathrm{mean}_i\sum_j\min_k\big(z_{ij}-\mathrm{AE}_k(z_i)_j\big)^2
        +\lambda_1\sum_j(\mu_j-0.5)^2+\lambda_2\sum_j(1-\sigma_j)^2,
        \quad b_{ij}=\arg\min_k\big(z_{ij}-\mathrm{AE}_k(z_i)_j\big)^2,
        \ \mu_j=\mathrm{mean}_i[z_{ij}\ge0],\ \sigma_j=\mathrm{std}_i\,z_{ij}
    :shapes: x (n, d); z (n, bits); assignments (n, bits) of 2 autoencoders; codes int8 (n, bits)
    :defaults: two autoencoders (the paper's choice) with a quarter as many hidden units as bits;
        lam1 = lam2 = 1 (the paper's values were not available)
    :departures: the terms besides the reconstruction are this package's reading of an even and
        informative distribution; so is the start of the autoencoders as plus and minus one; VGG
        is replaced by one linear layer on frozen features, which starts as their principal
        components turned at random (from a random hidden layer nothing holds the descriptor to
        the features, and codes fall below random projections); Adam with cosine decay instead
        of SGD
    :fidelity: simplified
    """

    supervision = "unsupervised"

    lam1: float = 1.0
    lam2: float = 1.0

    @property
    def hidden(self) -> int:
        """Hidden units of an autoencoder, which grow with the code length."""
        return max(1, self.bits // 4)

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Descriptor and autoencoders."""
        return KAutoEncoders(x, self.bits, self.hidden)

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Assign every element of every training row to the autoencoder that rebuilds it better."""
        self.memory_ = {"k": (self._in_blocks(self.network_, data.x) >= 0).long()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction by the assigned autoencoders, and the distribution of z."""
        assert isinstance(self.network_, KAutoEncoders)
        z = self.network_.descriptor(batch.x)
        assigned = self.memory_["k"][batch.index][..., None]
        return {
            "reconstruction": self.network_.errors(z).gather(2, assigned).sum((1, 2)).mean(),
            "even": self.lam1 * evenness_loss(z),
            "spread": self.lam2 * (1 - z.std(0, correction=0)).square().sum(),
        }
