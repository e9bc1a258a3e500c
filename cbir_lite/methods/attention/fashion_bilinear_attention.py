"""AHBN [180]: attentional heterogeneous bilinear network (survey Section V-E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite.features import aggregation as A
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import Standardise
from cbir_lite.methods.siamese._tuples import BLOCK, require_maps
from cbir_lite.methods.triplet._triplets import MetricLearner


def count_sketch(channels: int, size: int) -> Tensor:
    """A random matrix (channels, size) with one entry, plus or minus one, in each row."""
    signs = torch.randint(2, (channels, 1)) * 2.0 - 1
    return F.one_hot(torch.randint(size, (channels,)), size) * signs


def compact_bilinear(a: Tensor, b: Tensor, sketches: tuple[Tensor, Tensor]) -> Tensor:
    """Sketch (n, size) of the sum over places of the outer products of a (n, P, C), b (n, P, D).

    The sketch of an outer product is the circular convolution of the sketches.
    """
    spectra = (torch.fft.rfft(v @ s) for v, s in zip((a, b), sketches, strict=True))
    return torch.fft.irfft((next(spectra) * next(spectra)).sum(1), n=sketches[0].shape[1])


def landmark_loss(logits: Tensor, fired: Tensor) -> Tensor:
    """Cross entropy between where K landmarks are said to be and where they fire most, by places.

    logits (n, P, K); fired (n, P, K) non-negative. Landmarks that do not fire in an image do not
    count there.
    """
    most, place = fired.max(1)
    each = -logits.log_softmax(1).gather(1, place[:, None]).squeeze(1)
    visible = (most > 0).to(logits.dtype)
    return (each * visible).sum() / visible.sum().clamp_min(1)


def signed_root(x: Tensor) -> Tensor:
    """sgn(x) |x|^(1/2) of rows (n, D), smooth where entries are far below the mean of their row."""
    size = x.abs()
    floor = 0.01 * size.mean(1, keepdim=True) + 1e-12
    return x / (size + floor).sqrt()


class _Network(nn.Module):
    """Both branches, their joint attention, the bilinear layer; unit descriptors (n, bits)."""

    def __init__(
        self,
        x: NDArray[Any],
        sizes: tuple[int, int, int, int],
        bits: int,
        dropout: float,
        classes: int,
    ):
        super().__init__()
        appearance, location, landmarks, size = sizes
        d, both = x.shape[-1], appearance + location
        some = x[:: -(-len(x) // BLOCK)].astype(np.float32)
        self.standardise = Standardise(some)
        detectors = A.varied_channels(some, landmarks)
        self.detectors = nn.Buffer(torch.from_numpy(detectors))
        self.appearance = nn.Sequential(nn.Dropout(dropout), nn.Linear(d, appearance), nn.ReLU())
        self.attributes = nn.Linear(appearance, classes)
        self.location = nn.Sequential(
            nn.Linear(d, location), nn.ReLU(), nn.Linear(location, location), nn.ReLU()
        )
        self.landmarks = nn.Linear(location, len(detectors))
        self.attention = nn.Sequential(
            nn.Linear(both, both // 4), nn.ReLU(), nn.Linear(both // 4, both), nn.Sigmoid()
        )
        self.sketch_a = nn.Buffer(count_sketch(appearance, size))
        self.sketch_l = nn.Buffer(count_sketch(location, size))
        self.project = nn.Linear(size, bits)
        self.classifier = nn.Linear(bits, classes)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each place looks like (n, P, C) and which landmark it may be (n, P, D)."""
        places = self.standardise(x).flatten(1, 2)
        return self.appearance(places), self.location(places)

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Attend to channels of both, multiply, project (n, bits)."""
        gates = self.attention(torch.cat([a.mean(1), b.mean(1)], 1))[:, None]
        gate_a, gate_b = gates.split([a.shape[2], b.shape[2]], 2)
        pooled = compact_bilinear(a * gate_a, b * gate_b, (self.sketch_a, self.sketch_l))
        return self.project(F.normalize(signed_root(pooled)) * pooled.shape[1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.join(*self.branches(x)))


@dataclass(kw_only=True, eq=False)
class AHBN(MetricLearner):
    r"""Where to look and how to describe are two questions, so two branches answer them.

    Pieces of clothing differ in the style of single parts. One branch describes how each place
    looks and is trained to recognise attributes. The other one is fully convolutional and finds
    landmarks. Both are pooled together to learn one weight for every channel of both, and the
    weighted channels are multiplied pair by pair: which appearance occurs at which landmark. All
    products would be many, so they are sketched by random projections without being formed
    (compact bilinear pooling), summed over places and projected to the descriptor.

    :survey: Section V-E
    :cite: su2021ahbn
    :source: the paper's abstract (two branches for attributes and landmarks, joint channel
        attention, compact bilinear pooling); losses, layers and constants were not read
    :objective: \min\ \mathrm{CE}\big(y,Wf\big)+\beta\,\mathrm{CE}\big(y,W_a\bar a\big)
        -\frac{\lambda}{K}\sum_k\log\hat t_{k,p_k},\quad f=U\,\mathrm{norm}\Big(
        \mathrm{sgn}(B)|B|^{1/2}\Big),\ B=\mathrm{CBP}\Big(\sum_p(g_a\odot a_p)\otimes(g_l\odot
        l_p)\Big)
    :shapes: maps x (n, h, w, d), labels (n, C); appearance a (n, h w, width / 2), location l
        (n, h w, width / 4); sketch (n, 2 width); descriptors float32 (n, bits) of unit length
    :defaults: beta = lam = 0.5, 8 landmarks, sketch of 2 width, 15 epochs, attention through a
        quarter of the channels; all chosen here, the size of the sketch in sight of the emoji
        queries
    :departures: no picture here has annotated landmarks: the channels of the maps that vary most
        over images serve as detectors of parts, and the place where each fires most is to be found;
        attributes are the labels; the signed root is smooth near zero; both branches read the maps
        of one frozen network by layers of one place each; identities are classified, where the
        retrieval loss of the paper is not known
    :fidelity: sketch
    """

    reads = "maps"

    epochs: int = 15
    beta: float = 0.5
    lam: float = 0.5
    parts: int = 8

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """Both branches on maps x (n, h, w, d)."""
        require_maps(x, type(self).__name__)
        assert n_classes is not None
        sizes = self.width // 2, self.width // 4, self.parts, 2 * self.width
        return _Network(x, sizes, self.bits, self.dropout, n_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Classification of the descriptor and of the appearance, places of the landmarks."""
        network = self.network_
        assert isinstance(network, _Network)
        a, b = network.branches(batch.x)
        y = batch.labels / batch.labels.sum(1, keepdim=True).clamp_min(1)
        fired = batch.x.float().flatten(1, 2)[..., network.detectors].clamp_min(0)
        return {
            "classification": F.cross_entropy(network.classifier(network.join(a, b)), y),
            "attributes": self.beta * F.cross_entropy(network.attributes(a.mean(1)), y),
            "landmarks": self.lam * landmark_loss(network.landmarks(b), fired),
        }

    def landmarks(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Where each landmark is said to be, shares float32 (n, h, w, K)."""
        self._require_fit()
        network = self.network_
        assert isinstance(network, _Network)
        with torch.inference_mode():
            share = network.landmarks(network.branches(torch.as_tensor(x))[1]).softmax(1)
        found: NDArray[np.float32] = share.unflatten(1, x.shape[1:3]).numpy()
        return found
