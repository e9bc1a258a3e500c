"""Listwise AP: soft histograms and AP against loops, and against the AP of a sorted list."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.cnn.listwise_ap import ListwiseAP, average_precision, soft_histogram
from cbir_lite.methods.deep import Batch


def naive_ap(cosines, relevant, bins):
    """AP of one row from triangular memberships, as the formula says it."""
    step = 2 / (bins - 1)
    centres = [1 - m * step for m in range(bins)]
    member = [[max(0.0, 1 - abs(s - b) / step) for s in cosines] for b in centres]
    hits = [sum(v * y for v, y in zip(row, relevant, strict=True)) for row in member]
    items = [sum(row) for row in member]
    ap = 0.0
    for m in range(bins):
        if sum(items[: m + 1]) > 0:
            ap += sum(hits[: m + 1]) / sum(items[: m + 1]) * hits[m] / sum(relevant)
    return ap


@pytest.mark.parametrize("bins", [2, 7, 20])
def test_average_precision_equals_the_loop(bins):
    rng = np.random.default_rng(bins)
    S = rng.uniform(-1, 1, (6, 9))
    S[0, :2] = -1, 1
    relevant = (rng.random((6, 9)) < 0.4).astype(float)
    relevant[:, 0] = 1
    got = average_precision(
        torch.from_numpy(S).float(), torch.from_numpy(relevant).float(), torch.ones(6, 9), bins
    )
    expected = [naive_ap(s, y, bins) for s, y in zip(S, relevant, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_histogram_shares_an_item_between_two_bins_and_loses_none():
    S = torch.tensor([[1.0, 0.5, 0.25, -1.0]])
    counts = soft_histogram(S, torch.ones(1, 4), 5)  # centres 1, .5, 0, -.5, -1
    np.testing.assert_allclose(counts, [[1, 1.5, 0.5, 0, 1]])
    total = soft_histogram(2 * torch.rand(3, 50) - 1, torch.ones(3, 50), 20).sum()
    assert total.item() == pytest.approx(150)


def test_many_bins_give_the_average_precision_of_the_sorted_list():
    rng = np.random.default_rng(3)
    S = np.linspace(-0.95, 0.95, 20)[None].repeat(5, 0)
    relevant = (rng.random((5, 20)) < 0.4).astype(float)
    relevant[:, 3] = 1
    order = np.argsort(-S, 1)
    exact = []
    for row, o in zip(relevant, order, strict=True):
        y = row[o]
        exact.append(((np.cumsum(y) / np.arange(1, 21)) * y).sum() / y.sum())
    got = average_precision(
        torch.from_numpy(S).float(), torch.from_numpy(relevant).float(), torch.ones(5, 20), 2001
    )
    np.testing.assert_allclose(got, exact, atol=1e-4)


def test_a_step_along_the_gradient_raises_the_average_precision():
    S = torch.tensor([[0.6, 0.1, 0.35, -0.2]]).requires_grad_()
    relevant = torch.tensor([[0.0, 1, 0, 1]])
    ap = average_precision(S, relevant, torch.ones(1, 4), 8)
    ap.backward()
    assert average_precision(S + 0.02 * S.grad, relevant, torch.ones(1, 4), 8) > ap


def test_loss_leaves_out_the_query_itself_and_images_without_company():
    rng = np.random.default_rng(5)
    f = rng.standard_normal((7, 12))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 2]]
    method = ListwiseAP(bits=12)
    method.network_ = lambda x: torch.from_numpy(f).float()
    batch = Batch(torch.zeros(7, 1), torch.from_numpy(labels), torch.arange(7))
    aps = []
    for q in range(6):
        others = [i for i in range(7) if i != q]
        relevant = [float(labels[q] @ labels[i]) for i in others]
        aps.append(naive_ap([float(f[q] @ f[i]) for i in others], relevant, 20))
    assert method.loss(batch)["1 - mAP"].item() == pytest.approx(1 - np.mean(aps), rel=1e-5)


def test_what_is_minimised_is_what_new_images_are_ranked_by(lab):
    fit = lab.smoke_fit("listwise_ap")
    assert fit.method.history_[-1]["1 - mAP"] < 0.2
    assert lab.mean_ap(lab.distances(fit.method), lab.relevance()) > 0.7
