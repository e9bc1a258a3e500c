"""MDPCNN [165]: its two losses by hand, the join of views, and the draw of hard objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.mdpcnn import contrastive, contrastive_center
from cbir_lite.methods.deep import TrainingData
from cbir_lite.methods.registry import create


def some(rows=7, d=4, classes=3):
    rng = np.random.default_rng(0)
    y = np.eye(classes)[rng.integers(0, classes, rows)]
    y[0] = [1, 1, 0]
    return rng.standard_normal((rows, d)), y, rng.standard_normal((classes, d))


def test_own_centre_over_other_centres():
    f, y, c = some()
    total = 0.0
    for i in range(7):
        d = [float(((f[i] - c[k]) ** 2).sum()) for k in range(3)]
        own = np.mean([d[k] for k in range(3) if y[i, k]])
        total += 0.5 * own / (sum(d[k] for k in range(3) if not y[i, k]) + 1.5)
    found = contrastive_center(*(torch.from_numpy(v) for v in (f, y, c)), 1.5)
    assert float(found) == pytest.approx(total / 7)


def test_contrastive_loss_pair_by_pair():
    f, y, _ = some()
    total, count = 0.0, 0
    for i in range(7):
        for j in range(7):
            if i == j:
                continue
            d = np.linalg.norm(f[i] - f[j])
            same = bool((y[i] * y[j]).sum())
            total += d**2 if same else max(0, 3.0 - d) ** 2
            count += 1
    s = torch.from_numpy((y @ y.T > 0).astype(float))
    found = contrastive(torch.from_numpy(f), s, 3.0)
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_an_object_is_the_unit_mean_of_its_views(lab):
    method = create("mdpcnn", bits=6, epochs=2, width=32)
    split = lab.make_split(method, 120)
    method.fit(split)
    views = split.views[:5]
    found = method.embed_object(views)
    network = method.network_
    with torch.no_grad():
        for i in range(5):
            z = network.hash_layer(network.trunk(torch.from_numpy(views[i])))
            mean = sum(z[v] for v in range(4)) / 4
            np.testing.assert_allclose(found[i], mean / mean.norm(), atol=1e-5)
    np.testing.assert_allclose(method.embed(views[:, 0]), method.embed_object(views[:, :1]))


def test_rows_that_fall_among_another_class_are_drawn_more_often(lab):
    method = create("mdpcnn", bits=6, epochs=1, width=32, favour=4.0)
    split = lab.make_split(method, 200)
    method.fit(split)
    # Descriptors are given: two heaps, and three rows in the heap of the other class.
    y = torch.eye(2).repeat_interleave(50, 0)
    place = y.argmax(1)
    place[:3] = 1
    method.outputs = lambda x: torch.eye(6)[place] + 0.01 * torch.randn(100, 6)
    data = TrainingData(torch.zeros(100, 64), y)
    method.start_epoch(0, data)
    assert method.memory_["hard"].nonzero().flatten().tolist() == [0, 1, 2]
    drawn = torch.cat([b.index for e in range(200) for b in method._batches(data, e)])
    counts = torch.bincount(drawn, minlength=100).float()
    assert float(counts[:3].mean() / counts[3:].mean()) == pytest.approx(4, rel=0.15)
