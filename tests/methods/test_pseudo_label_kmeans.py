"""K-means pseudo labels: clustering against brute force, both terms, clusters in the codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn._pseudo import directions, k_means, nearest_centres, nearest_rows
from cbir_lite.methods.cnn.pseudo_label_kmeans import PseudoLabelKMeans
from cbir_lite.methods.deep import Batch

X = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_k_means_ends_where_every_centre_is_the_mean_of_its_nearest_rows():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((200, 3))).float()
    C = k_means(x, 7, generator(), rounds=200)
    member = [min(range(7), key=lambda k: float((row - C[k]).square().sum())) for row in x]
    assert nearest_centres(x, C).tolist() == member
    for k in range(7):
        rows = x[[i for i, c in enumerate(member) if c == k]]
        assert torch.allclose(C[k], rows.mean(0), atol=1e-5)


def test_a_centre_without_rows_finds_new_ones():
    # Two of the three starting rows are equal, so that one centre loses all its rows.
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [5.0], [9.0]])
    for seed in range(20):
        assert len(nearest_centres(x, k_means(x, 3, generator(seed))).unique()) == 3
    with pytest.raises(ValueError, match="7 clusters of 6 rows"):
        k_means(x, 7, generator())


def test_nearest_rows_are_those_of_all_pairs(monkeypatch):
    x = torch.from_numpy(X)
    expected = []
    for i in range(9):
        others = [j for j in range(9) if j != i]
        expected.append(sorted(others, key=lambda j: float((x[i] - x[j]).square().sum()))[:4])
    assert nearest_rows(x, 4).tolist() == expected
    monkeypatch.setattr("cbir_lite.methods.cnn._pseudo._BLOCK_ELEMENTS", 20)
    assert nearest_rows(x, 4).tolist() == expected


def test_directions_are_centred_and_of_unit_length():
    u = directions(torch.from_numpy(X))
    for row, found in zip(X.astype(np.float64), u, strict=True):
        centred = row - X.astype(np.float64).mean(0)
        assert np.allclose(found.numpy(), centred / math.sqrt(sum(centred**2)), atol=1e-6)


def test_terms_are_those_of_explicit_codes():
    method = PseudoLabelKMeans(bits=12, epochs=2, width=8, clusters=3, lam=0.7)
    method.fit(Split(X, supervision="pseudo-supervised"))
    h = np.tanh(method.embed(X).astype(np.float64))
    W = method.network_.classifier.weight.detach().double().numpy()
    a = method.network_.classifier.bias.detach().double().numpy()
    u = directions(torch.from_numpy(X)).double().numpy()
    centres = method.memory_["centres"].double().numpy()
    losses, away = [], []
    for i in range(9):
        c = min(range(3), key=lambda k: sum((u[i] - centres[k]) ** 2))
        logits = [float(W[k] @ h[i] + a[k]) for k in range(3)]
        losses.append(math.log(sum(map(math.exp, logits))) - logits[c])
        away += [(v - (1 if v >= 0 else -1)) ** 2 for v in h[i]]
    terms = method.loss(Batch(torch.from_numpy(X), None, torch.arange(9)))
    assert terms["classification"].item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.7 * np.mean(away), rel=1e-4)


def test_codes_tell_the_clusters_of_new_images(lab, digits):
    method = lab.smoke_fit("pseudo_label_kmeans").method
    x = torch.from_numpy(digits.database.pooled)
    codes = torch.from_numpy(method.encode(digits.database.pooled)).float()
    with torch.no_grad():
        guess = method.network_.classifier(codes).argmax(1)
    assert (guess == method.pseudo_labels(x)).float().mean() > 0.7
