"""DSH: the contrastive loss against explicit pairs, and training end to end on images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.networks import ConvTrunk
from cbir_lite.methods.siamese.dsh_liu2016 import DSH

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [12, 24])
@pytest.mark.parametrize("scale", [0.5, 6.0], ids=["inside the margin", "around the margin"])
def test_terms_are_those_of_explicit_pairs(bits, scale):
    x = RANDOM.standard_normal((8, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (8, 3)).astype(np.uint8)
    method = DSH(bits=bits, epochs=1, width=8, alpha=0.7).fit(Split(x, y))
    with torch.no_grad():
        method.network_.hash_layer.weight *= scale
    terms = method.loss(Batch(torch.from_numpy(x), torch.from_numpy(y).float(), torch.arange(8)))

    b = method.embed(x).astype(np.float64)
    similar, dissimilar, regulariser = [], [], []
    for i in range(8):
        for j in range(i + 1, 8):
            apart = 0 if any(y[i] & y[j]) else 1
            d2 = sum((b[i] - b[j]) ** 2)
            similar.append(0.5 * (1 - apart) * d2)
            dissimilar.append(0.5 * apart * max(2 * bits - d2, 0))
            regulariser.append(0.7 * sum(abs(abs(v) - 1) for row in (b[i], b[j]) for v in row))
    assert terms["similar"].item() == pytest.approx(np.mean(similar), rel=1e-4)
    assert terms["dissimilar"].item() == pytest.approx(np.mean(dissimilar), rel=1e-4, abs=1e-6)
    assert terms["regulariser"].item() == pytest.approx(np.mean(regulariser), rel=1e-4)


def test_a_dissimilar_pair_beyond_the_margin_has_no_gradient():
    method = DSH(bits=12, alpha=0.0)
    z = torch.tensor([[9.0] * 12, [-9.0] * 12], requires_grad=True)
    method.network_ = torch.nn.Identity()
    terms = method.loss(Batch(z, torch.eye(2), torch.arange(2)))
    sum(terms.values()).backward()
    assert not z.grad.any()


def test_on_images_every_weight_down_to_the_first_convolution_learns(lab, digits):
    started = {}

    class Watched(DSH):
        def start_fit(self, data):
            started.update({k: v.detach().clone() for k, v in self.network_.named_parameters()})

    split = Split(digits.train.images, digits.train.y)
    method = Watched(bits=24, epochs=8, batch_size=64, width=64)
    fit = lab.watch(method, split)
    assert isinstance(method.network_.trunk, ConvTrunk)
    convolutions = [k for k in started if "convolutions" in k and started[k].ndim == 4]
    assert len(convolutions) == 3
    assert fit.without_gradient == []
    moved = dict(method.network_.named_parameters())
    assert all((moved[k] - v).abs().max() > 0 for k, v in started.items())

    codes = [method.encode(p.images).astype(int) for p in (digits.query, digits.database)]
    distances = (24 - codes[0] @ codes[1].T) / 2
    assert lab.mean_ap(distances, lab.relevance()) > lab.lsh_map(24) + 0.1
