"""SBS-CNN [124]: the experts' opinions and the loss by hand, and what the network takes over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create
from cbir_lite.methods.siamese.rs_transfer_liu import similarity_loss


def fit(lab, rows=200, **params):
    method = create("rs_transfer_liu", **{"bits": 16, "epochs": 2, "width": 128, **params})
    split = lab.make_split(method, rows)
    return method.fit(split), split


def seen(split):
    return np.concatenate([split.x[:, None], split.views], 1).astype(float)


def naive_opinions(features, centre):
    c = features - centre
    return np.array(
        [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in c] for a in c], dtype=float
    )


def test_consensus_puts_every_expert_on_one_scale_and_averages(lab):
    method, split = fit(lab)
    features = seen(split)
    means, deviations, cut = [], [], []
    for k in range(5):
        s = naive_opinions(features[:, k], features[:, k].mean(0))
        apart = s[~np.eye(200, dtype=bool)]
        means.append(apart.mean())
        deviations.append(apart.std(ddof=1))
        cut.append((s[:6, :6] - means[-1]) / deviations[-1])
    expected = np.mean(cut, 0) * np.mean(deviations) + np.mean(means)
    x, views = torch.from_numpy(split.x[:6]), torch.from_numpy(split.views[:6])
    found = method.consensus(Batch(x, None, torch.arange(6), views))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_loss_pair_by_pair():
    rng = np.random.default_rng(0)
    f, target = rng.standard_normal((6, 3)), rng.standard_normal((6, 6))
    pairs = [(f[i] @ f[j] - target[i, j]) ** 2 for i in range(6) for j in range(6) if i != j]
    found = similarity_loss(torch.from_numpy(f), torch.from_numpy(target))
    assert float(found) == pytest.approx(np.mean(pairs))


def test_the_network_takes_over_the_experts_similarities(lab):
    def correlation(epochs, lr):
        method, split = fit(lab, 400, epochs=epochs, lr=lr, batch_size=64)
        features = seen(lab.make_split(method, 500))[400:]
        expert = naive_opinions(features[:, 0], seen(split)[:, 0].mean(0))
        f = method.embed(features[:, 0].astype(np.float32))
        apart = ~np.eye(100, dtype=bool)
        return np.corrcoef((f @ f.T)[apart], expert[apart])[0, 1]

    trained = correlation(30, 1e-3)
    assert trained > 0.8
    assert trained > correlation(1, 1e-12) + 0.05


def test_agreement_is_the_correlation_of_opinions(lab):
    method, split = fit(lab)
    features = seen(split)
    apart = ~np.eye(200, dtype=bool)
    s = [naive_opinions(features[:, k], features[:, k].mean(0))[apart] for k in range(5)]
    c = method.agreement(split.x, split.views)
    np.testing.assert_allclose(c, np.corrcoef(s), atol=1e-3)
    # Pixels in another order have the same cosines; a crop shows something else.
    assert c[0, 3] > 0.999
    assert c[0, 4] < 0.6
