"""Online multimodal deep similarity learning [60] (survey Sections III.1, V-B)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData
from cbir_lite.methods.networks import Standardise

_TRIPLETS = 16


def triplets(labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (a, p, n), up to ``count`` random ones an anchor: p shares a label with a, n does not.

    ``labels`` (B, C) are multi-hot. Anchors without a positive or a negative are left out.
    """
    s = labels @ labels.T > 0
    s.fill_diagonal_(False)
    different = ~s
    different.fill_diagonal_(False)
    a = (s.any(1) & different.any(1)).nonzero()[:, 0]
    if not len(a):
        return a, a, a
    p = s[a].float().multinomial(count, replacement=True).flatten()
    n = different[a].float().multinomial(count, replacement=True).flatten()
    return a.repeat_interleave(count), p, n


def passive_aggressive(
    W: Tensor, h: Tensor, a: Tensor, p: Tensor, n: Tensor, C: float
) -> tuple[Tensor, Tensor]:
    """Mean update of W (k, k) over the triplets that lose, and their losses (T,).

    One triplet alone asks for W + tau h_a (h_p - h_n)^T with tau = min(C, loss / |V|^2), the
    smallest change that makes its loss zero, up to C.
    """
    gap = h[p] - h[n]
    loss = (1 - ((h[a] @ W) * gap).sum(1)).clamp_min(0)
    norm2 = h[a].square().sum(1) * gap.square().sum(1)
    tau = (loss / norm2.clamp_min(1e-12)).clamp_max(C)
    active = (loss > 0).sum().clamp_min(1)
    return (h[a] * tau[:, None]).T @ gap / active, loss


class Modality(nn.Module):
    """Stacked denoising autoencoder of one kind of feature: (B, d_m) to h_m (B, k_m)."""

    def __init__(self, d: int, width: int, k: int):
        super().__init__()
        sizes = [d, width, k]
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """The code of this kind of feature, in (-1, 1)."""
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Networks(nn.Module):
    """All modalities; calling it gives their codes side by side (B, bits)."""

    similarity: Tensor
    theta: Tensor

    def __init__(self, x: NDArray[Any], width: int, bits: int, modalities: int):
        super().__init__()
        d = int(x[0].size)
        M = min(modalities, bits, d)
        self.standardise = Standardise(x)
        self.inputs = [len(p) for p in np.array_split(np.arange(d), M)]
        self.sizes = [len(p) for p in np.array_split(np.arange(bits), M)]
        self.modalities = nn.ModuleList(
            Modality(m, width, k) for m, k in zip(self.inputs, self.sizes, strict=True)
        )
        self.register_buffer("similarity", torch.eye(bits))
        self.register_buffer("theta", torch.full((M,), 1 / M))

    def split(self, x: Tensor) -> list[Tensor]:
        """Standardised inputs of each modality."""
        return list(self.standardise(x).flatten(1).split(self.inputs, 1))

    def blocks(self) -> list[Tensor]:
        """W_m (k_m, k_m): the blocks on the diagonal of ``similarity``, as views of it."""
        ends = np.cumsum(self.sizes).tolist()
        return [
            self.similarity[e - k : e, e - k : e] for e, k in zip(ends, self.sizes, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Codes of all modalities."""
        parts = zip(self.modalities, self.split(x), strict=True)
        return torch.cat([m(v) for m, v in parts], 1)


@dataclass(kw_only=True, eq=False)
class WuSDA2013(DeepMethod):
    r"""One denoising autoencoder for each kind of feature, and a similarity learned on top of them.

    The autoencoders are pretrained to rebuild their features from inputs with gaps. Then labelled
    triplets arrive in a stream. For each kind of feature a bilinear similarity takes the smallest
    step that ranks the triplet right, and the network below is fine-tuned by the same loss. The
    weight of a kind of feature in the total shrinks when it ranked the triplet wrong.

    :survey: Sections III.1 (2011-2013), V-B
    :cite: wu2013omdsl
    :source: the survey's sentences and the abstract of the authors' journal paper on the linear
        version (two levels of online learning); the passive-aggressive step and the
        multiplicative weights are the standard ones of that field
    :objective: \min\ \sum_{(q,p,n)}\sum_m\max\big(0,1-S_m(q,p)+S_m(q,n)\big),\quad
        S=\sum_m\theta_mS_m,\ S_m(q,p)=h_m(q)^\top W_mh_m(p),\
        \theta_m\leftarrow\theta_m\rho^{\,\mathbb 1[S_m(q,p)\le S_m(q,n)]}
    :shapes: x (n, d) cut into M kinds of feature, labels (n, C); h_m (B, k_m), k_1 + ... + k_M
        = bits; descriptors float32 (n, bits), ranked by -S
    :defaults: M = 3, hidden layers of width / 2, 3 of 10 inputs masked in pretraining, at most
        C = 0.1 a step, rho = 0.99; all chosen here
    :departures: the kinds of feature are parts of one frozen descriptor, more alike than colour,
        texture and bags of words; steps are means over the triplets of a batch instead of one
        triplet at a time; tanh instead of logistic units, Adam fine-tunes; constants are not the
        paper's
    :fidelity: simplified
    """

    descriptor = "real"

    dropout: float = 0.0
    modalities: int = 3
    pretraining: int = 10
    masking: float = 0.3
    C: float = 0.1
    rho: float = 0.99

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Autoencoders and similarities."""
        return Networks(x, self.width // 2, self.bits, self.modalities)

    def start_fit(self, data: TrainingData) -> None:
        """Pretrain each layer of each modality as a denoising autoencoder.

        ``memory_["pretraining"]`` (modalities, layers, 2) holds the first and last epoch's error.
        """
        net: Any = self.network_
        with torch.no_grad():
            inputs = net.split(data.x)
        errors = []
        for modality, v in zip(net.modalities, inputs, strict=True):
            for layer in modality.layers:
                errors.append(self._denoise(layer, v))
                with torch.no_grad():
                    v = layer(v).tanh()
        self.memory_ = {"pretraining": torch.tensor(errors).view(len(inputs), -1, 2)}

    def _denoise(self, layer: nn.Module, v: Tensor) -> list[float]:
        decoder = nn.Linear(layer.out_features, layer.in_features)  # type: ignore[arg-type]
        optimiser = self.adam([*layer.parameters(), *decoder.parameters()])
        errors = []
        for _ in range(self.pretraining):
            batches = torch.randperm(len(v)).split(self.batch_size)
            total = 0.0
            for index in batches:
                kept = torch.rand(len(index), v.shape[1]) >= self.masking
                loss = F.mse_loss(decoder(layer(v[index] * kept).tanh()), v[index])
                self._descend(loss, optimiser)
                total += loss.item() / len(batches)
            errors.append(total)
        return [errors[0], errors[-1]] if errors else [0.0, 0.0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hinge of each modality on random triplets of the batch."""
        net: Any = self.network_
        self._triplets = a, p, n = triplets(batch.labels, _TRIPLETS)
        self._codes = [m(v) for m, v in zip(net.modalities, net.split(batch.x), strict=True)]
        terms = {}
        for i, (h, W) in enumerate(zip(self._codes, net.blocks(), strict=True), 1):
            margin = ((h[a] @ W.clone()) * (h[p] - h[n])).sum(1)
            terms[f"hinge {i}"] = (1 - margin).clamp_min(0).sum() / max(1, len(a))
        return terms

    def training_step(self, batch: Batch) -> dict[str, float]:
        """Fine-tune the networks, then step the similarities and weights on the same triplets."""
        terms = super().training_step(batch)
        net: Any = self.network_
        with torch.no_grad():
            for i, (h, W) in enumerate(zip(self._codes, net.blocks(), strict=True)):
                step, loss = passive_aggressive(W, h.detach(), *self._triplets, self.C)
                W += step
                wrong = (loss >= 1).float().mean() if len(loss) else torch.tensor(0.0)
                net.theta[i] *= self.rho**wrong
            net.theta /= net.theta.sum()
        return terms

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """-S float32 (n_queries, n_database): the most similar first."""
        net: Any = self.network_
        theta = net.theta.repeat_interleave(torch.tensor(net.sizes))
        W = (theta[:, None] * net.similarity).numpy()
        d: NDArray[np.float32] = -(queries @ W) @ database.T
        return d
