"""DistillHash: noisy labels, posteriors and likelihood by loops; what is distilled is purer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn._pseudo import directions, nearest_rows
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.siamese import distillhash
from cbir_lite.methods.siamese.distillhash import DistillHash, distil, noisy_labels, similar_pairs

U = directions(torch.from_numpy(np.random.default_rng(0).standard_normal((9, 4))))


def test_noisy_labels_exceed_the_mean_cosine_by_so_many_deviations():
    u = U.double().numpy()
    cosines = {(i, j): float(u[i] @ u[j]) for i in range(9) for j in range(9)}
    others = [v for (i, j), v in cosines.items() if i != j]
    threshold = np.mean(others) + 0.8 * np.std(others)
    found = noisy_labels(U, 0.8)
    for (i, j), v in cosines.items():
        assert bool(found[i, j]) == (v > threshold)
    assert 0 < found.sum() - 9 < 36


def test_pairs_between_neighbourhoods_are_counted():
    noisy = noisy_labels(U, 0.3)
    near = nearest_rows(U, 3)
    counts = similar_pairs(noisy, near)
    for i in range(9):
        for j in range(9):
            pairs = [bool(noisy[k, m]) for k in near[i].tolist() for m in near[j].tolist()]
            assert counts[i, j].item() == sum(pairs)
    assert len(counts.unique()) > 3


@pytest.mark.parametrize("rho", [0.0, 0.2, 1 / 3, 0.4, 1.0])
def test_only_pairs_beyond_the_noise_bound_are_kept(monkeypatch, rho):
    noisy, near = noisy_labels(U, 0.3), nearest_rows(U, 3)
    eta = similar_pairs(noisy, near).float() / 9
    s = distil(noisy, near, rho)
    for i in range(9):
        for j in range(9):
            expected = 1 if eta[i, j] > (1 + rho) / 2 else -1 if eta[i, j] < (1 - rho) / 2 else 0
            assert s[i, j] == expected
    monkeypatch.setattr(distillhash, "_BLOCK_ELEMENTS", 20)
    assert torch.equal(distil(noisy_labels(U, 0.3), near, rho), s)


def test_likelihood_is_that_of_explicit_certain_pairs(lab):
    method = lab.create("distillhash", lab.SHORT, bits=12)
    split = lab.make_split(method, 9)
    method.fit(split)
    rng = np.random.default_rng(1)
    method._s = torch.from_numpy(rng.integers(-1, 2, (9, 9)).astype(np.int8))
    index = torch.tensor([4, 0, 7, 2, 8])
    value = method.loss(Batch(torch.from_numpy(split.x)[index], None, index))["likelihood"].item()
    h = np.tanh(method.embed(split.x).astype(np.float64))
    losses = []
    for a in range(5):
        for b in range(a + 1, 5):
            i, j = int(index[a]), int(index[b])
            if method._s[i, j]:
                theta = 0.5 * sum(p * q for p, q in zip(h[i], h[j], strict=True))
                losses.append(-math.log(1 / (1 + math.exp(-float(method._s[i, j]) * theta))))
    assert value == pytest.approx(np.mean(losses), rel=1e-5)


def test_distilled_pairs_are_purer_than_noisy_ones(digits):
    u = directions(torch.from_numpy(digits.train.pooled))
    same = torch.from_numpy(digits.train.y.argmax(1)[:, None] == digits.train.y.argmax(1))
    other = ~torch.eye(len(u), dtype=torch.bool)
    noisy = noisy_labels(u, 1.5)
    s = distil(noisy, nearest_rows(u, 10), 0.2)
    assert same[(s == 1) & other].float().mean() > same[noisy & other].float().mean() + 0.02
    assert same[(s == -1) & other].float().mean() < same[~noisy & other].float().mean()
    assert 0.5 < (s != 0).float().mean() < 1


def test_held_out_rows_have_no_pseudo_labels():
    with pytest.raises(ValueError, match="DistillHash derives its supervision from all"):
        DistillHash(validation=0.1)


def test_counts_must_fit_into_a_byte():
    with pytest.raises(ValueError, match="o must be from 1 to 15"):
        DistillHash(o=16)
