"""DSAH: the loss against loops, what the attention is and what it learns to look at."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.attention.dsah import DSAH
from cbir_lite.methods.base import load
from cbir_lite.methods.deep import Batch

SMALL = {
    "bits": 16, "epochs": 40, "batch_size": 64, "width": 64, "attention_width": 16, "lr": 1e-2,
    "attention_dropout": 0.0,
}  # fmt: skip


def planted(n, seed, side=4, d=24, classes=4):
    """Maps of noise where one position, anywhere, holds a mark and the pattern of the class."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).standard_normal((classes, d)).astype(np.float32)
    y = np.arange(n) % classes
    # Every position shows some class; only the marked one tells the truth.
    shown = rng.integers(classes, size=(n, side * side))
    where = rng.integers(side * side, size=n)
    shown[np.arange(n), where] = y
    maps = patterns[shown] + 0.3 * rng.standard_normal((n, side * side, d)).astype(np.float32)
    maps[..., 0] = 0
    maps[np.arange(n), where, 0] = 3
    return (
        maps.reshape(n, side, side, d).astype(np.float16),
        np.eye(classes, dtype=np.uint8)[y],
        where,
    )


@pytest.fixture(scope="module")
def fitted():
    maps, labels, _ = planted(640, 0)
    return DSAH(**SMALL).fit(Split(maps, labels))


def test_terms_equal_loops_over_pairs_and_rows():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, 2, 3, 5)).astype(np.float32)
    labels = (rng.random((6, 4)) < 0.5).astype(np.uint8)
    labels[0] = 0
    method = DSAH(bits=12, width=8, beta=0.7, lam=0.3)
    method.network_ = method.build(x, 4).eval()
    y = torch.as_tensor(labels, dtype=torch.float32)
    got = method.loss(Batch(torch.from_numpy(x), y, torch.arange(6)))
    with torch.no_grad():
        z = method.network_(torch.from_numpy(x))
        logits = method.network_.classifier(z).double().numpy()
        z = z.double().numpy()

    likelihood = 0.0
    for i in range(6):
        for j in range(6):
            if i != j:
                theta, s = 0.5 * float(z[i] @ z[j]), bool((labels[i] & labels[j]).any())
                likelihood -= s * theta - math.log1p(math.exp(theta))
    entropy = 0.0
    for row, wanted in zip(logits, labels, strict=True):
        total = sum(math.exp(v) for v in row)
        for c in np.flatnonzero(wanted):
            entropy -= math.log(math.exp(row[c]) / total) / wanted.sum()
    pull = sum((abs(v) - 1) ** 2 for v in z.ravel())

    assert got["likelihood"].item() == pytest.approx(likelihood / 30, rel=1e-5)
    assert got["classification"].item() == pytest.approx(0.7 * entropy / 6, rel=1e-5)
    assert got["quantization"].item() == pytest.approx(0.3 * pull / (6 * 12), rel=1e-5)


def test_network_equals_a_walk_over_positions():
    """Both sub-networks for one image, position by position, from the layers' own weights."""
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((5, 2, 3, 7)) * 3 + 1).astype(np.float32)
    net = DSAH(bits=8, width=6, attention_width=4).build(x, 3).eval()
    p = {k: v.double().numpy() for k, v in net.state_dict().items()}
    pooled = x.reshape(5, 6, 7).mean(1)
    even = pooled.mean(0), pooled.std(0)
    cell_statistics = x.reshape(-1, 7).mean(0), x.reshape(-1, 7).std(0)

    def affine(name, v):
        return p[f"{name}.weight"] @ v + p[f"{name}.bias"]

    def hidden(name, v, statistics):
        mean, scale = statistics
        return np.maximum(affine(f"{name}.2", (v - mean) / scale), 0)

    cells = x[2].reshape(6, 7).astype(np.float64)
    score = []
    for cell in cells:
        mean, scale = cell_statistics
        h = np.maximum(affine("attention.convolution", (cell - mean) / scale), 0)
        score.append(float(affine("attention.score", h)[0]))
    gates = [1 / (1 + math.exp(-v)) for v in score]
    weights = np.array(gates) / sum(gates)
    attended = sum(w * cell for w, cell in zip(weights, cells, strict=True))
    joined = np.concatenate(
        [hidden("main", cells.mean(0), even), hidden("local", attended, cell_statistics)]
    )

    with torch.no_grad():
        z = net(torch.from_numpy(x))[2].numpy()
        a = net.attention(torch.from_numpy(x))[2].numpy()
    np.testing.assert_allclose(a.ravel(), weights, rtol=1e-4)
    np.testing.assert_allclose(z, affine("hash_layer", joined), rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter():
    maps, labels, _ = planted(16, 5)
    method = DSAH(**SMALL)
    method.network_ = method.build(maps, 4)
    batch = Batch(torch.from_numpy(maps), torch.from_numpy(labels).float(), torch.arange(16))
    sum(method.loss(batch).values()).backward()
    for name, parameter in method.network_.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def test_attention_is_a_distribution_over_positions(fitted):
    maps, _, _ = planted(10, 6)
    a = fitted.attention(maps)
    assert a.shape == (10, 4, 4)
    assert a.dtype == np.float32
    assert (a >= 0).all()
    np.testing.assert_allclose(a.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_attention_finds_the_planted_position(fitted):
    maps, _, where = planted(200, 7)
    a = fitted.attention(maps).reshape(200, 16)
    before = DSAH(**{**SMALL, "lr": 0.0, "epochs": 1}).fit(Split(maps, np.ones((200, 1), np.uint8)))
    untrained = before.attention(maps).reshape(200, 16)
    rows = np.arange(200)
    # One class of four may do without: it is what the others are not.
    assert (a.argmax(1) == where).mean() > 0.7
    assert a[rows, where].mean() > 5 * untrained[rows, where].mean()


def test_codes_of_planted_maps_beat_random_projections_of_them(fitted, lab):
    queries, yq, _ = planted(80, 8)
    database, yd, _ = planted(300, 9)
    w = np.random.default_rng(0).standard_normal((queries[0].size, 16))
    q, b = (np.where(m.reshape(len(m), -1) @ w >= 0, 1, -1) for m in (queries, database))
    relevant = yq @ yd.T > 0
    lsh = lab.mean_ap((16 - q @ b.T) / 2, relevant)
    q, b = fitted.encode(queries).astype(int), fitted.encode(database).astype(int)
    assert lab.mean_ap((16 - q @ b.T) / 2, relevant) > max(0.7, lsh + 0.2)


def test_half_precision_maps_give_what_their_float32_copy_gives(fitted):
    maps, _, _ = planted(300, 10)
    np.testing.assert_allclose(
        fitted.embed(maps), fitted.embed(maps.astype(np.float32)), rtol=1e-4, atol=1e-4
    )


def test_save_and_load_reproduce_codes_and_attention(fitted, tmp_path):
    maps, _, _ = planted(20, 11)
    fitted.save(tmp_path / "dsah.pt")
    again = load(tmp_path / "dsah.pt")
    np.testing.assert_array_equal(again.encode(maps), fitted.encode(maps))
    np.testing.assert_array_equal(again.attention(maps), fitted.attention(maps))


def test_pooled_features_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"\(8, 5\).*kind 'maps'"):
        DSAH(bits=8).fit(Split(np.random.default_rng(0).random((8, 5)), np.arange(8) % 2))
