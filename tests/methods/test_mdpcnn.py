"""MDPCNN [165]: its two losses by hand, the join of views, and the draw of hard objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.mdpcnn import contrastive, contrastive_center
from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.registry import create


def some(rows=7, d=4, classes=3):
    rng = np.random.default_rng(0)
    y = np.eye(classes)[rng.integers(0, classes, rows)]
    y[0] = [1, 1, 0]
    return rng.standard_normal((rows, d)), y, rng.standard_normal((classes, d))


def naive_center(f, y, c, delta):
    """Half of the own over the other centres' squared distances, row by row."""
    total = 0.0
    for row, labels in zip(f, y, strict=True):
        d = [float(((row - centre) ** 2).sum()) for centre in c]
        own = np.mean([v for v, label in zip(d, labels, strict=True) if label])
        others = sum(v for v, label in zip(d, labels, strict=True) if not label)
        total += 0.5 * own / (others + delta)
    return total / len(f)


def naive_contrastive(f, y, margin):
    """Squares of similar pairs and squared hinges of others, pair by pair."""
    total, count = 0.0, 0
    for i in range(len(f)):
        for j in range(len(f)):
            if i == j:
                continue
            d = np.linalg.norm(f[i] - f[j])
            same = bool((y[i] * y[j]).sum())
            total += d**2 if same else max(0, margin - d) ** 2
            count += 1
    return total / count


def test_own_centre_over_other_centres():
    f, y, c = some()
    found = contrastive_center(*(torch.from_numpy(v) for v in (f, y, c)), 1.5)
    assert float(found) == pytest.approx(naive_center(f, y, c, 1.5))


def test_contrastive_loss_pair_by_pair():
    f, y, _ = some()
    s = torch.from_numpy((y @ y.T > 0).astype(float))
    found = contrastive(torch.from_numpy(f), s, 3.0)
    assert float(found) == pytest.approx(naive_contrastive(f, y, 3.0), rel=1e-5)


@pytest.mark.parametrize("drawn", [[], [2], [3, 0, 1]])
def test_both_terms_of_objects_made_of_the_picture_and_the_views_drawn(lab, monkeypatch, drawn):
    method = create(
        "mdpcnn", bits=6, epochs=1, width=32, dropout=0.0, lam=0.3, margin=1.3, delta=0.5
    )
    split = lab.make_split(method, 120)
    method.fit(split)
    x, views = (torch.from_numpy(v[:9].copy()) for v in (split.x, split.views))
    y = torch.from_numpy(split.labels[:9].astype(np.float32))
    y[0, :2] = 1
    order = drawn + [v for v in range(4) if v not in drawn]
    # From no view up to all four.
    monkeypatch.setattr(torch, "randint", lambda high, _: {5: torch.tensor(len(drawn))}[high])
    monkeypatch.setattr(torch, "randperm", lambda n: {4: torch.tensor(order)}[n])
    network = method.network_
    with torch.no_grad():
        terms = method.loss(Batch(x, y, torch.arange(9), views))
        found = {k: float(v) for k, v in terms.items()}
        f = []
        for i in range(9):
            seen = [x[i], *(views[i, v] for v in drawn)]
            z = sum(network.hash_layer(network.trunk(v[None]))[0] for v in seen)
            f.append((z / z.norm()).double().numpy())
    f, y, c = np.array(f), y.numpy(), network.centers.detach().double().numpy()
    expected = {
        "contrastive": naive_contrastive(f, y, 1.3),
        "contrastive_center": 0.3 * naive_center(f, y, c, 0.5),
    }
    assert found == pytest.approx(expected, rel=1e-4)


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
