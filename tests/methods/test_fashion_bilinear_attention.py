"""AHBN [180]: the sketch of products, landmarks and attention by hand, and what is located."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.attention.fashion_bilinear_attention import (
    compact_bilinear,
    count_sketch,
    landmark_loss,
)
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create


def fit(digits, rows=120, **params):
    method = create(
        "fashion_bilinear_attention",
        **{"bits": 8, "epochs": 2, "width": 32, **params},
    )
    return method.fit(Split(digits.train.maps[:rows], digits.train.y[:rows], "supervised"))


def test_a_sketch_of_products_is_a_sum_over_pairs_of_channels():
    torch.manual_seed(0)
    size = 7
    sketches = count_sketch(4, size), count_sketch(3, size)
    a, b = torch.rand(2, 5, 4), torch.rand(2, 5, 3)
    found = compact_bilinear(a, b, sketches)
    naive = np.zeros((2, size))
    for n in range(2):
        for p in range(5):
            for i in range(4):
                for j in range(3):
                    hi, hj = int(sketches[0][i].abs().argmax()), int(sketches[1][j].abs().argmax())
                    sign = float(sketches[0][i, hi] * sketches[1][j, hj])
                    naive[n, (hi + hj) % size] += sign * float(a[n, p, i] * b[n, p, j])
    np.testing.assert_allclose(found, naive, atol=1e-5)


def test_sketches_keep_inner_products_on_average():
    torch.manual_seed(1)
    a, b, c, d = (torch.rand(1, 1, 6) for _ in range(4))
    kept = []
    for _ in range(3000):
        s = count_sketch(6, 32), count_sketch(6, 32)
        kept.append(float((compact_bilinear(a, b, s) * compact_bilinear(c, d, s)).sum()))
    exact = float((a * c).sum() * (b * d).sum())
    assert np.mean(kept) == pytest.approx(exact, rel=0.05)


def test_landmarks_that_fire_are_to_be_found():
    rng = np.random.default_rng(0)
    logits, fired = rng.standard_normal((3, 4, 2)), rng.random((3, 4, 2))
    fired[1, :, 0] = 0
    total, count = 0.0, 0
    for n in range(3):
        for k in range(2):
            if fired[n, :, k].sum() == 0:
                continue
            q = np.exp(logits[n, :, k]) / np.exp(logits[n, :, k]).sum()
            total -= np.log(q[fired[n, :, k].argmax()])
            count += 1
    found = landmark_loss(torch.from_numpy(logits), torch.from_numpy(fired))
    assert float(found) == pytest.approx(total / count)


def test_classification_terms_row_by_row(digits):
    method = fit(digits, beta=0.3)
    network = method.network_
    x = torch.from_numpy(digits.query.maps[:5])
    y = torch.from_numpy(digits.query.y[:5].astype(np.float32))
    whole, parts = 0.0, 0.0
    with torch.no_grad():
        a, b = network.branches(x)
        for i in range(5):
            gate = network.attention(torch.cat([a[i].mean(0), b[i].mean(0)]))
            pooled = sum(
                compact_bilinear(
                    (a[i, p] * gate[:16])[None, None],
                    (b[i, p] * gate[16:])[None, None],
                    (network.sketch_a, network.sketch_l),
                )[0]
                for p in range(16)
            )
            size = pooled.abs()
            root = pooled / (size + 0.01 * size.mean()).sqrt()
            z = network.project(root / root.norm() * 8)
            whole -= network.classifier(z).log_softmax(0)[y[i].argmax()].item()
            parts -= network.attributes(a[i].mean(0)).log_softmax(0)[y[i].argmax()].item()
    found = method.loss(Batch(x, y, torch.arange(5)))
    assert found["classification"].item() == pytest.approx(whole / 5, rel=1e-4)
    assert found["attributes"].item() == pytest.approx(0.3 * parts / 5, rel=1e-4)


def test_landmarks_of_unseen_images_are_located(digits):
    method = fit(digits, 400, epochs=20, batch_size=64, width=128, lr=3e-3)
    x = digits.query.maps
    fired = x[..., method.network_.detectors.numpy()]
    share = method.landmarks(x)
    np.testing.assert_allclose(share.sum((1, 2)), 1, rtol=1e-4)
    visible = fired.sum((1, 2)) > 0
    hit = (share * (fired > 0)).sum((1, 2))[visible].mean()
    assert hit > 0.5
