"""SSGAH: every term with explicit loops over triplets; what is drawn; the players."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.gan.ssgah_wang import SSGAHWang, real_triplets


def fitted(lab, **params):
    scale = {"epochs": 2, "batch_size": 64, "width": 24, "dropout": 0.0, "labelled": 10}
    method = SSGAHWang(seed=0, **{"bits": 6, **scale, **params})
    return method.fit(lab.make_split(method, 100))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Share of bits in which codes differ, for codes of signs; else relaxed."""
    return sum((1 - p * q) / 2 for p, q in zip(a, b, strict=True)) / len(a)


def test_ranking_is_the_mean_hinge_of_all_triplets():
    h = np.tanh(np.random.default_rng(0).standard_normal((7, 5)))
    y = [0, 1, 0, 2, 1, 0, 3]
    hinges = [
        max(0.0, 0.4 + distance(h[q], h[p]) - distance(h[q], h[n]))
        for q in range(7)
        for p in range(7)
        for n in range(7)
        if p != q and y[p] == y[q] and y[n] != y[q]
    ]
    s = torch.tensor([[float(a == b) for b in y] for a in y]).double()
    assert float(SSGAHWang(m=0.4).ranking(torch.from_numpy(h), s)) == pytest.approx(np.mean(hinges))
    assert float(SSGAHWang().ranking(torch.ones(3, 2), torch.ones(3, 3))) == 0


def test_terms_of_all_networks_are_those_of_explicit_sums(lab, monkeypatch):
    method = fitted(lab, lambda_R=0.7, eta=0.3, m=0.5)
    order = torch.randperm(len(method._known), generator=torch.Generator().manual_seed(2))
    noise = torch.randn(6, method.noise, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    monkeypatch.setattr(torch, "randn", lambda *shape: noise)
    monkeypatch.setattr(torch, "multinomial", lambda m, k: m.argmax(1, keepdim=True))
    net = method.network_.train()
    batch = method._data.batch(torch.tensor([3, 50, 9, 77, 5, 6]))
    known = method._data.rows(method._known[order[:10]])
    with torch.no_grad():
        terms = {k: float(v) for k, v in {**method.loss(batch), **method.answer(batch)}.items()}
        net.double()
        x, k = net.flat(batch.x.double()), net.flat(known.x.double())
        p, n = net.generator(x, noise.double())
        h, h_x, h_p, h_n = (torch.tanh(net.hash(v)).numpy() for v in (k, x, p, n))
        y = known.y.argmax(1).tolist()
        rows = range(10)
        triplets = []
        for q in rows:
            positives = [j for j in rows if j != q and y[j] == y[q]]
            negatives = [j for j in rows if y[j] != y[q]]
            if positives and negatives:
                triplets.append(torch.cat([k[q], k[positives[0]], k[negatives[0]]]))
        D = torch.sigmoid(net.discriminator(torch.stack(triplets))).squeeze(1).numpy()
        D_made = torch.sigmoid(net.discriminator(torch.cat([x, p, n], 1))).squeeze(1).numpy()
    made = [max(0.0, 0.5 + distance(h_x[i], h_p[i]) - distance(h_x[i], h_n[i])) for i in range(6)]
    s = torch.tensor([[float(a == b) for b in y] for a in y]).double()
    cells = [(i, j) for i in rows for j in range(6)]
    expected = {
        "ranking": float(method.ranking(torch.from_numpy(h), s)),
        "made": 0.7 * np.mean(made),
        "quantization": 0.3 * np.mean([(h[c] - (1 if h[c] >= 0 else -1)) ** 2 for c in cells]),
        "discriminator": -np.mean(np.log(D)) - np.mean(np.log(1 - D_made)),
        "adversarial": -np.mean(np.log(D_made)),
        "adversary ranking": -0.7 * np.mean(made),
    }
    assert 0 < len(triplets) < 10
    assert terms == pytest.approx(expected, rel=1e-4)


def test_real_triplets_hold_what_labels_say_and_leave_lonely_queries_out():
    y = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0.0]])
    s = (y @ y.T > 0).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(20):
            q, p, n = real_triplets(s)
            assert q.tolist() == [0, 1, 2, 4]
            assert all(s[a, b] == 1 and a != b for a, b in zip(q, p, strict=True))
            assert all(s[a, b] == 0 for a, b in zip(q, n, strict=True))
    assert [len(rows) for rows in real_triplets(torch.eye(3))] == [0, 0, 0]


def test_each_player_moves_its_own_networks_and_the_discriminator_learns(lab):
    method = fitted(lab, width=64, labelled=50)
    net, batch = method.network_.train(), method._data.batch(torch.arange(90))
    first, second = method.optimisers()
    names = ("hash", "discriminator", "generator")
    parts = {k: {id(p) for p in getattr(net, k).parameters()} for k in names}

    def owned(optimiser):
        return {id(p) for group in optimiser.param_groups for p in group["params"]}

    assert owned(first) == parts["hash"] | parts["discriminator"]
    assert owned(second) == parts["generator"]
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(150):
            told = method.loss(batch)["discriminator"]
            losses.append(told.item())
            method._descend(told, first)
    # 2 log 2 is the loss of a discriminator that cannot tell.
    assert losses[-1] < 0.5 * math.log(2) < losses[0]


def test_made_triplets_say_for_unlabelled_images_what_labels_would(lab, digits):
    method = lab.smoke_fit("ssgah_wang").method
    net, part = method.network_.eval(), digits.query
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = net.flat(torch.from_numpy(part.pooled))
        positive, negative = method.draw(x)
        b, b_p, b_n = (torch.where(net.hash(v) >= 0, 1.0, -1.0) for v in (x, positive, negative))
    near, far = ((b * other).mean(1).mean() for other in (b_p, b_n))
    assert near > far + 0.4
    # Positives are not the queries themselves.
    assert (positive - x).square().mean() > 0.01
