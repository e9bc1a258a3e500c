"""DVSQ: margins and errors by loops, codes that are best for the class vectors, kept cosines."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dvsq import DVSQ, class_vectors
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import add_words, icm_codes

RANDOM = np.random.default_rng(0)


def cosine(a, b):
    return sum(a * b) / math.sqrt(sum(a**2) * sum(b**2))


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (9, 4)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    method = DVSQ(bits=12, dim=8, epochs=1, width=8, dropout=0.0, lam=0.25).fit(Split(x, y))
    C = torch.from_numpy(RANDOM.standard_normal((2, 64, 8)).astype(np.float32))
    method.memory_ = {"C": C, "b": torch.from_numpy(RANDOM.integers(0, 64, (9, 2)))}
    return method, x, y


def test_terms_are_those_of_explicit_triples_and_inner_products(small):
    method, x, y = small
    method.network_.train()
    rows = torch.tensor([3, 1, 8, 0, 5])
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows))
    method.network_.eval()

    V = method.network_.V.numpy().astype(np.float64)
    C, b = method.memory_["C"].numpy().astype(np.float64), method.memory_["b"].numpy()
    z = method.embed(x).astype(np.float64)
    margin, squares = 0.0, 0.0
    for i in rows.tolist():
        for j, k in itertools.product(range(4), range(4)):
            if y[i, j] and not y[i, k]:
                delta = 1 - cosine(V[j], V[k])
                margin += max(0, delta - cosine(V[j], z[i]) + cosine(V[k], z[i]))
        error = z[i] - C[0, b[i, 0]] - C[1, b[i, 1]]
        squares += sum(sum(v * error) ** 2 for v in V)
    assert terms["margin"].item() == pytest.approx(margin / (4 * y[rows].sum()), rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.25 * squares / 5, rel=1e-4)


def test_codes_are_chosen_for_inner_products_with_class_vectors_not_for_distance(small):
    method, x, _ = small
    z, C, V = method.outputs(x), method.memory_["C"], method.network_.V

    def semantic(b):
        return float(((z - add_words(b, C)) @ V.T).square().sum())

    def plain(b):
        return float((z - add_words(b, C)).square().sum())

    chosen, nearest = method.find_codes(z, C), icm_codes(z, C)
    assert semantic(chosen) < semantic(nearest)
    assert plain(nearest) < plain(chosen)


@pytest.mark.parametrize("R", [6, 20])
def test_class_vectors_keep_the_cosines_of_class_means(R):
    x = torch.from_numpy(RANDOM.standard_normal((40, 9)).astype(np.float32))
    y = torch.eye(5)[torch.arange(40) % 5]
    V = class_vectors(x, y, R, torch.Generator().manual_seed(0)).double().numpy()
    means = [x[k::5].double().mean(0).numpy() for k in range(5)]
    for j, k in itertools.product(range(5), range(5)):
        assert V[j] @ V[k] == pytest.approx(cosine(means[j], means[k]), abs=1e-5)


def test_more_classes_than_dimensions_get_vectors_of_length_one():
    x = torch.from_numpy(RANDOM.standard_normal((40, 9)).astype(np.float32))
    V = class_vectors(x, torch.eye(8)[torch.arange(40) % 8], 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(V.norm(dim=1), torch.ones(8))


def test_codes_rank_nearly_as_well_as_the_features_they_stand_for(lab, digits):
    method = lab.smoke_fit("dvsq").method
    q, z = method.outputs(digits.query.pooled), method.outputs(digits.database.pooled)
    real = lab.mean_ap(-(q @ z.T).numpy(), lab.relevance())
    assert lab.mean_ap(lab.distances(method), lab.relevance()) > real - 0.03


def test_each_class_is_nearest_to_its_own_vector(lab, digits):
    method = lab.smoke_fit("dvsq").method
    z = method.outputs(digits.train.pooled)
    nearest = (z @ method.network_.V.T).argmax(1).numpy()
    assert (nearest == digits.train.y.argmax(1)).mean() > 0.9


def test_distance_is_minus_the_inner_product_with_the_reconstruction(lab, digits):
    method = lab.short_fit("dvsq")
    q = method.encode_query(digits.query.pooled[:6]).astype(np.float64)
    words = method.encode_database(digits.database.pooled[:9])
    C = method.codebooks_.astype(np.float64)
    naive = [[-sum(a * (C[0, u] + C[1, v])) for u, v in words] for a in q]
    np.testing.assert_allclose(method.distance(q, words), naive, rtol=1e-4, atol=1e-4)
