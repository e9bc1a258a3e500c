"""MAC [138]: saliency, losses and fusion by hand, and an auxiliary stream that learns to look."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.attention.mac_two_stream import contrast_saliency
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create


def fit(digits, rows=120, **params):
    method = create("mac_two_stream", **{"bits": 8, "epochs": 2, "width": 32, **params})
    return method.fit(Split(digits.train.maps[:rows], digits.train.y[:rows], "supervised"))


def naive_saliency(m):
    h, w = m.shape[:2]
    mean = m.mean((0, 1))
    s = np.empty((h, w))
    for r in range(h):
        for c in range(w):
            far = ((r - (h - 1) / 2) / (h / 3)) ** 2 + ((c - (w - 1) / 2) / (w / 3)) ** 2
            s[r, c] = np.linalg.norm(m[r, c] - mean) * np.exp(-far / 2) + 1e-6
    return s / s.sum()


def test_what_stands_out_near_the_centre_is_salient():
    x = np.random.default_rng(0).random((3, 4, 5, 6))
    x[0, 2, 2] += 5
    found = contrast_saliency(torch.from_numpy(x))
    for m, s in zip(x, found, strict=True):
        np.testing.assert_allclose(s, naive_saliency(m))
    assert found[0].argmax() == 2 * 5 + 2


def test_losses_and_fusion_place_by_place(digits):
    method = fit(digits)
    network = method.network_.double()
    x = torch.from_numpy(digits.query.maps[:5].astype(float))
    y = torch.from_numpy(digits.query.y[:5].astype(float))
    standard = ((x - network.standardise.mean) / network.standardise.scale).numpy()
    network.standardise.forward = lambda t: torch.from_numpy(standard)
    classification, divergence = 0.0, 0.0
    with torch.no_grad():
        for i in range(5):
            places = torch.from_numpy(standard[i]).flatten(0, 1)
            h = [network.main(p) for p in places]
            logits = [
                float(network.score(network.auxiliary(p)) + network.location[k])
                for k, p in enumerate(places)
            ]
            a = np.exp(logits) / np.sum(np.exp(logits))
            mean = sum(h) / 16
            f = network.join(torch.cat([mean, sum(float(a[p]) * h[p] for p in range(16))]))
            classification -= float(network.classifier(f).log_softmax(0)[y[i].argmax()])
            s = naive_saliency(standard[i]).ravel()
            divergence += sum(s[p] * np.log(s[p] / a[p]) for p in range(16))
    found = method.loss(Batch(x, y, torch.arange(5)))
    assert found["classification"].item() == pytest.approx(classification / 5)
    assert found["saliency"].item() == pytest.approx(divergence / 5)


def test_the_auxiliary_stream_learns_saliency_of_unseen_images(digits):
    def divergence(lam):
        method = fit(digits, 400, epochs=10, batch_size=64, lam=lam)
        x = digits.query.maps
        standard = method.network_.standardise(torch.from_numpy(x))
        s = contrast_saliency(standard).numpy()
        return float((s * np.log(s / method.attention(x))).sum((1, 2)).mean())

    learned = divergence(1.0)
    assert learned < 0.7 * divergence(1e-9)


def test_attention_is_a_share(digits):
    a = fit(digits).attention(digits.query.maps[:6])
    assert a.shape == (6, 4, 4)
    np.testing.assert_allclose(a.sum((1, 2)), 1, rtol=1e-5)
