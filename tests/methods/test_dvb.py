"""DVB: KL, graph, clusters and every loss term against explicit sums; what the parts achieve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.autoencoder.dvb import LOG_VARIANCE, Gaussian, kl, neighbour_graph
from cbir_lite.methods.deep import TrainingData
from cbir_lite.methods.registry import create


def naive_kl(m, lv, pm, plv):
    """One dimension after the other, with standard deviations."""
    total = 0.0
    for a, b, c, d in zip(m, lv, pm, plv, strict=True):
        s, t = math.exp(b / 2), math.exp(d / 2)
        total += math.log(t / s) + (s**2 + (a - c) ** 2) / (2 * t**2) - 0.5
    return total / len(m)


def naive_graph(x, k):
    n = len(x)
    C = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: ((x[i] - x[j]) ** 2).sum())
        for j in others[:k]:
            C[i, j] = C[j, i] = 1
    degree = C.sum(1)
    return np.array(
        [[C[i, j] / math.sqrt(degree[i] * degree[j]) for j in range(n)] for i in range(n)]
    )


def test_log_variances_of_far_inputs_are_cut_and_others_are_not():
    torch.manual_seed(0)
    network = Gaussian(5, 8, 4)
    x = torch.randn(6, 5)
    near, far = network(x)[1], network(1e6 * x)
    torch.testing.assert_close(near, network.log_variance(network.hidden(x)))
    assert set(far[1].unique().tolist()) == {-LOG_VARIANCE, LOG_VARIANCE}
    mean = torch.zeros(6, 4)
    assert kl(mean, far[1], mean, -far[1]).isfinite().all()


def test_kl_is_zero_for_equals_and_that_of_explicit_dimensions():
    rng = np.random.default_rng(0)
    q = [torch.from_numpy(rng.standard_normal((7, 4))) for _ in range(4)]
    expected = [naive_kl(*(v[i].tolist() for v in q)) for i in range(7)]
    np.testing.assert_allclose(kl(*q), expected, atol=1e-12)
    np.testing.assert_allclose(kl(q[0], q[1], q[0], q[1]), 0, atol=1e-12)


def test_graph_is_that_of_explicit_neighbours():
    x = np.random.default_rng(1).standard_normal((9, 3))
    found = neighbour_graph(torch.from_numpy(x).float(), 3).numpy()
    np.testing.assert_allclose(found, naive_graph(x, 3), atol=1e-6)
    assert np.diag(found).max() == 0
    assert neighbour_graph(torch.from_numpy(x).float(), 50).shape == (9, 9)


def test_every_term_is_that_of_explicit_sums(digits):
    x = digits.train.pooled[:80]
    method = create(
        "dvb", bits=12, epochs=1, width=16, latent=6, clusters=9, neighbours=2, beta=0.7
    )
    method.fit(Split(x, supervision="unsupervised"))
    net = method.network_
    rows = net.standardise(torch.from_numpy(x[[3, 50, 9, 77, 20, 41]]))
    rng = np.random.default_rng(2)
    z, c = rng.random((6, 6)).astype(np.float32), rng.random((6, 6)).astype(np.float32)
    with torch.no_grad():
        terms = method.terms(rows, torch.from_numpy(z), torch.from_numpy(c))
        f = net.coder(torch.cat([rows, torch.from_numpy(z)], 1)).tanh()
        posterior = net.posterior(torch.cat([rows, f], 1))
        both = [v.double().tolist() for v in (*posterior, *net.prior(rows))]
    f = f.double().numpy()
    b = np.where(f >= 0, 1, -1)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    W = naive_graph(rows.double().numpy(), 2)
    correlation = sum(
        (sum(f[i, k] * f[i, m] for i in range(6)) / 6 - (k == m)) ** 2
        for k in range(12)
        for m in range(12)
    )
    expected = {
        "kl": np.mean([naive_kl(*(v[i] for v in both)) for i in range(6)]),
        "quantization": 0.8 * 0.5 * ((f - b) ** 2).sum() / 6,
        "decorrelation": 0.5 * correlation,
        "graph": -0.7 * sum(W[i, j] * unit[i] @ unit[j] for i in range(6) for j in range(6)) / 6,
        "centre": 0.5 * ((z - c) ** 2).sum() / 6,
    }
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_centres_are_those_of_the_nearest_cluster_at_unit_variance(digits):
    x = torch.from_numpy(digits.train.pooled[:200])
    method = create("dvb", bits=12, epochs=0, latent=6, clusters=9)
    method.fit(Split(x.numpy(), supervision="unsupervised"))
    net, m = method.network_, method.memory_
    rows = net.standardise(x)
    c = method.centres(rows)
    assert len(c.unique(dim=0)) == 9
    assert c.var(0, unbiased=False).mean().item() == pytest.approx(1, rel=1e-3)
    places = ((rows - m["mean"]) @ m["V"]).numpy()
    for i in range(0, 200, 17):
        near = min(range(9), key=lambda k: ((places[i] - m["places"][k].numpy()) ** 2).sum())
        torch.testing.assert_close(c[i], m["c"][near])


def test_latent_variable_learns_its_cluster_and_bits_become_uncorrelated(lab, digits):
    method = lab.smoke_fit("dvb").method
    first, last = method.history_[0], method.history_[-1]
    assert last["centre"] < 0.7 * first["centre"]
    assert last["decorrelation"] < 0.7 * first["decorrelation"]
    f = np.tanh(method.embed(digits.train.pooled))
    correlation = f.T @ f / len(f)
    assert np.abs(correlation - np.diag(np.diag(correlation))).mean() < 0.1
    assert last["quantization"] < first["quantization"]


def test_codes_follow_the_latent_variable(lab, digits):
    method = lab.smoke_fit("dvb").method
    net = method.network_
    with torch.no_grad():
        x = net.standardise(torch.from_numpy(digits.query.pooled))
        z = net.prior(x)[0]
        own = net.coder(torch.cat([x, z], 1)) >= 0
        foreign = net.coder(torch.cat([x, z.flip(0)], 1)) >= 0
    assert (own != foreign).float().mean() > 0.05


def test_held_out_rows_get_centres_of_their_own(digits):
    method = create("dvb", bits=12, epochs=2, width=16, validation=0.3)
    method.fit(Split(digits.train.pooled[:200], supervision="unsupervised"))
    assert all(math.isfinite(epoch["validation"]) for epoch in method.history_)
    data = TrainingData(torch.from_numpy(digits.query.pooled), None)
    assert len(method.loss(data.batch(torch.arange(150)))) == 5
