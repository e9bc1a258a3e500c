"""Triplet binary embedding: the quadratic form, exact cuts, inference that never loses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from cbir_lite.methods.deep import Batch, TrainingData
from cbir_lite.methods.triplet import binary_embedding_zhuang
from cbir_lite.methods.triplet.binary_embedding_zhuang import (
    ZhuangEmbedding,
    blocks_of,
    cut,
    infer_bit,
    pair_weights,
    sample_triplets,
)


@pytest.fixture
def few():
    """Labels of 8 rows in 4 classes, some in two, and triplets of them."""
    rng = np.random.default_rng(3)
    y = np.eye(4, dtype=np.int64)[[0, 0, 1, 1, 2, 3, 0, 1]]
    y[6, 1] = 1
    return y, sample_triplets(y, 5, rng)


def hinge_sum(codes, triplets, margin):
    total = 0.0
    for i, j, k in triplets:
        far = sum(a != b for a, b in zip(codes[i], codes[k], strict=True))
        near = sum(a != b for a, b in zip(codes[i], codes[j], strict=True))
        total += max(0.0, margin - (far - near))
    return total


def test_triplets_are_valid_and_every_possible_anchor_has_some(few):
    y, triplets = few
    for i, j, k in triplets:
        assert i != j
        assert (y[i] & y[j]).any()
        assert not (y[i] & y[k]).any()
    # Rows 4 and 5 are alone in their classes.
    assert set(triplets[:, 0]) == {0, 1, 2, 3, 6, 7}


def test_the_quadratic_form_is_the_triplet_loss_of_the_next_bit(few):
    _, triplets = few
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 1], (8, 5))
    i, j, k = triplets.T
    gaps = (codes[i] != codes[k]).sum(1) - (codes[i] != codes[j]).sum(1)
    A = pair_weights(gaps, triplets, 6 / 2, 8)
    differences = set()
    for bit in itertools.product([-1, 1], repeat=8):
        z = np.array(bit)
        loss = hinge_sum(np.concatenate([codes, z[:, None]], 1), triplets, 6 / 2)
        pairs = sum(A[a, b] * z[a] * z[b] for a in range(8) for b in range(a)) / 8
        differences.add(round(loss - pairs, 6))
    assert len(differences) == 1


def test_weights_within_a_block_are_never_positive(few):
    _, triplets = few
    rng = np.random.default_rng(1)
    blocks = blocks_of(triplets, 8, rng)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(8))
    assert max(map(len, blocks)) > 1
    for _ in range(20):
        gaps = rng.integers(-4, 5, len(triplets))
        A = pair_weights(gaps, triplets, 2.5, 8).toarray()
        assert A.max() > 0
        assert all(A[np.ix_(b, b)].max() <= 0 for b in blocks)


def test_a_cut_is_the_best_of_all_values():
    rng = np.random.default_rng(2)
    for _ in range(30):
        W = np.triu(rng.integers(0, 6, (7, 7)) * (rng.random((7, 7)) < 0.5), 1)
        W = W + W.T
        u = rng.integers(-8, 9, 7)

        def energy(z, W=W, u=u):
            return -(z @ W @ z) / 2 + u @ z

        best = min(energy(np.array(z)) for z in itertools.product([-1, 1], repeat=7))
        assert energy(cut(csr_array(W), u)) == best


def test_inference_never_raises_the_loss():
    rng = np.random.default_rng(4)
    y = np.eye(5, dtype=np.int64)[rng.integers(5, size=60)]
    triplets = sample_triplets(y, 6, rng)
    blocks = blocks_of(triplets, 60, rng)
    A = pair_weights(rng.integers(-3, 6, len(triplets)), triplets, 3.0, 60)
    z = rng.choice([-1, 1], 60)
    energies = [z @ A @ z]
    for _ in range(4):
        for block in blocks:
            z = infer_bit(A, [block], 1, z)
            energies.append(z @ A @ z)
    assert (np.diff(energies) <= 0).all()
    assert energies[-1] < energies[0]


def test_the_network_learns_the_inferred_bits_only():
    rng = np.random.default_rng(5)
    f, Z = rng.standard_normal((6, 12)).astype(np.float32), rng.choice([-1, 1], (6, 12))
    method = ZhuangEmbedding(bits=12)
    method.network_ = lambda x: torch.from_numpy(f)
    method.memory_ = {"Z": torch.from_numpy(Z).float(), "inferred": torch.tensor(8)}
    index = torch.tensor([4, 0, 5, 1, 3, 2])
    got = method.loss(Batch(torch.zeros(6, 1), None, index))["bits"].item()
    losses = [
        math.log1p(math.exp(-float(Z[i, r]) * float(f[row, r])))
        for row, i in enumerate(index.tolist()) for r in range(8)
    ]  # fmt: skip
    assert got == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_new_group_starts_from_what_the_network_predicts(monkeypatch):
    """Bits the network has learned count as predicted, later ones as inferred."""
    seen = []

    def spy(gaps, triplets, margin, n):
        seen.append((gaps, triplets, margin))
        return pair_weights(gaps, triplets, margin, n)

    monkeypatch.setattr(binary_embedding_zhuang, "pair_weights", spy)
    rng = np.random.default_rng(6)
    predicted, Z = rng.choice([-1, 1], (40, 12)), rng.choice([-1, 1], (40, 12))
    method = ZhuangEmbedding(bits=12, group=4, epochs=3)
    method.outputs = lambda x: torch.from_numpy(0.1 * predicted)
    data = TrainingData(torch.zeros(40, 1), torch.eye(2).repeat(20, 1))
    method.start_fit(data)
    method.memory_["Z"] = torch.from_numpy(Z).float()
    method._infer_group(2, data, fitted=4)

    gaps, triplets, _ = seen[0]
    codes = np.concatenate([predicted[:, :4], Z[:, 4:8]], 1)
    expected = [(codes[i] != codes[k]).sum() - (codes[i] != codes[j]).sum() for i, j, k in triplets]
    np.testing.assert_array_equal(gaps, expected)
    assert [margin for _, _, margin in seen] == [4.5, 5, 5.5, 6]
    np.testing.assert_array_equal(method.memory_["Z"][:, :8], Z[:, :8])
    assert method.memory_["inferred"].item() == 12


def test_held_out_rows_are_refused_because_they_have_no_codes():
    with pytest.raises(ValueError, match=r"validation=0\.1 must be 0"):
        ZhuangEmbedding(validation=0.1)


def test_fitted_codes_of_classes_are_far_apart(lab):
    fit = lab.smoke_fit("binary_embedding_zhuang")
    y = fit.split.labels.astype(int)
    Z = fit.method.memory_["Z"].numpy()
    i, j, k = sample_triplets(y, 20, np.random.default_rng(9)).T
    gaps = (Z[i] != Z[k]).sum(1) - (Z[i] != Z[j]).sum(1)
    assert (gaps >= 32 / 4).mean() > 0.99
