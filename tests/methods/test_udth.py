"""UDTH: pseudo triplets and terms by explicit loops; positives are nearer in the codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn._pseudo import directions, nearest_rows
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.udth import UDTH, neighbourhoods

X = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
INDEX = torch.tensor([4, 0, 7, 2, 8, 1])


def fitted():
    method = UDTH(bits=12, epochs=2, width=8, neighbours=2, near=0.4, beta=0.3, lam=0.6)
    method.fit(Split(X, supervision="unsupervised"))
    method._x = torch.from_numpy(X)
    return method


def batch():
    return Batch(torch.from_numpy(X)[INDEX], None, INDEX)


def ranks():
    """For each row the others, nearest first, by brute force."""
    u = directions(torch.from_numpy(X)).double().numpy()
    return [
        sorted((j for j in range(9) if j != i), key=lambda j: -float(u[i] @ u[j])) for i in range(9)
    ]


def test_positives_are_among_the_nearest_and_negatives_beyond_the_near_ones():
    method, order = fitted(), ranks()
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        positive, negative = method.pseudo_triplets(batch())
        for a, i in enumerate(INDEX.tolist()):
            partner = next(j for j in range(9) if np.array_equal(X[j], positive[a].numpy()))
            assert partner in order[i][:2]
            drawn.add((i, partner))
            for b, j in enumerate(INDEX.tolist()):
                # round(0.4 * 8) = 3 near ones.
                assert bool(negative[a, b]) == (j in order[i][3:])
    assert len(drawn) == 12


def test_neighbourhoods_are_those_of_whole_rows(monkeypatch):
    x = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
    u = directions(torch.from_numpy(x))
    monkeypatch.setattr("cbir_lite.methods.triplet.udth._BLOCK", 16)
    positives, radius = neighbourhoods(u, 5, 0.3)
    assert torch.equal(positives, nearest_rows(u, 5))
    # round(0.3 * 49) = 15 near ones.
    assert torch.allclose(radius, (u @ u.T).kthvalue(35, dim=1).values)


def test_terms_are_those_of_explicit_triplets():
    method = fitted()
    torch.manual_seed(3)
    terms = method.loss(batch())
    torch.manual_seed(3)
    positive, negative = method.pseudo_triplets(batch())
    h = np.asarray(method.embed(X[INDEX]), np.float64)
    hp = np.asarray(method.embed(positive.numpy()), np.float64)

    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    hinges = [
        max(0, 12 / 4 + squared(h[a], hp[a]) - squared(h[a], h[n])) / 12
        for a in range(6)
        for n in range(6)
        if negative[a, n]
    ]
    decoder = method.network_.decoder
    W, c = decoder.weight.detach().double().numpy(), decoder.bias.detach().double().numpy()
    x = (X - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64)
    errors = [
        (x[i, k] - W[k] @ h[a] - c[k]) ** 2 for a, i in enumerate(INDEX.tolist()) for k in range(5)
    ]
    away = [(v - (1 if v >= 0 else -1)) ** 2 for v in h.ravel()]
    assert max(hinges) > 0
    assert terms["triplet"].item() == pytest.approx(np.mean(hinges), rel=1e-4)
    assert terms["reconstruction"].item() == pytest.approx(0.3 * np.mean(errors), rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.6 * np.mean(away), rel=1e-4)


def test_neighbours_share_more_bits_than_remote_rows(lab):
    method = lab.smoke_fit("udth").method
    split = lab.make_split(method)
    codes = method.encode(split.x).astype(int)
    u = directions(torch.from_numpy(split.x)).numpy()
    order = np.argsort(-(u @ u.T), axis=1)
    distance = (32 - codes @ codes.T) / 2
    near = np.take_along_axis(distance, order[:, 1:11], axis=1).mean()
    remote = np.take_along_axis(distance, order[:, 200:], axis=1).mean()
    assert near + method.m / 4 < remote


def test_codes_rebuild_most_of_the_features(lab, digits):
    method = lab.smoke_fit("udth").method
    x = torch.from_numpy(digits.database.pooled)
    with torch.no_grad():
        rebuilt = method.network_.decoder(method.network_(x))
        target = method.network_.standardise(x)
    varies = target.var(0) > 0.1
    error = (rebuilt - target)[:, varies].square().mean() / target[:, varies].var(0).mean()
    assert error < 0.8


def test_embeddings_are_relaxed_codes():
    method = fitted()
    h = method.embed(X)
    assert np.abs(h).max() <= 1
    assert (method.encode(X) == np.where(h >= 0, 1, -1)).all()
