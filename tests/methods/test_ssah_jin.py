"""SSAH (Jin): hard samples and terms of both players with explicit loops; pace; the adversary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.gan.ssah_jin import SSAHJin


def fitted(lab, **params):
    scale = {"epochs": 3, "batch_size": 64, "width": 24, "dropout": 0.0, "labelled": 8}
    method = SSAHJin(seed=0, **{"bits": 6, **scale, **params})
    return method.fit(lab.make_split(method, 100))


def softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max())
    return e / e.sum()


def test_hard_samples_are_mixed_views_with_a_share_of_their_features_covered(lab):
    net = fitted(lab).network_.double()
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(5, 6, 64, generator=generator).double()
    x = torch.rand(5, 64, generator=generator).double()
    with torch.no_grad():
        hard = net.harder(x, views, 0.3).numpy()
        plan = net.adversary(x)
        turn, occlude = net.turn(plan).numpy(), net.occlude(plan).numpy()
        seen = np.stack([net.flat(views[:, v]).numpy() for v in range(6)], 1)
        # Nothing is covered at pace zero, and all of what is mixed is there.
        whole = net.harder(x, views, 0.0).numpy()
    for i in range(5):
        p, o = softmax(turn[i]), np.minimum(1, 0.3 * 64 * softmax(occlude[i]))
        mixed = sum(p[v] * seen[i, v] for v in range(6))
        np.testing.assert_allclose(whole[i], mixed, atol=1e-9)
        np.testing.assert_allclose(hard[i], [mixed[k] * (1 - o[k]) for k in range(64)], atol=1e-9)
        assert o.mean() <= 0.3 + 1e-9
        assert o.mean() > 0.2


def test_pairs_of_both_kinds_weigh_the_same_in_total():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((5, 4)), generator.standard_normal((5, 4))
    y = [0, 0, 1, 2, 2]
    similar, dissimilar = [], []
    for i in range(5):
        for j in range(5):
            inner = sum(a[i, k] * b[j, k] for k in range(4)) / 4
            if y[i] == y[j]:
                similar.append((inner - 1) ** 2)
            else:
                dissimilar.append((inner + 1) ** 2)
    s = torch.tensor([[float(p == q) for p in y] for q in y]).double()
    actual = SSAHJin(bits=4).pairs(torch.from_numpy(a), torch.from_numpy(b), s)
    assert float(actual) == pytest.approx(0.5 * np.mean(similar) + 0.5 * np.mean(dissimilar))


def test_terms_of_both_players_are_those_of_explicit_sums(lab, monkeypatch):
    method = fitted(lab, nu=0.5, mu=0.7, eta=0.3)
    method.pace_ = 0.25
    order = torch.randperm(len(method._known), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    net, batch = method.network_.train(), method._data.batch(torch.tensor([3, 50, 9, 77]))
    known = method._data.rows(method._known[order[:8]])
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        answer = {k: float(v) for k, v in method.answer(batch).items()}
        net.double()
        x = net.flat(torch.cat([known.x, batch.x]).double())
        hard = net.harder(x, torch.cat([known.views, batch.views]).double(), 0.25)
        h, h_hard = (torch.tanh(net.hash(v)) for v in (x, hard))
        y = known.y.numpy()
        s = torch.from_numpy(((y @ y.T) > 0).astype(float))
        similarity = float(method.pairs(h[:8], h[:8], s))
        deformed = 0.5 * float(method.pairs(h_hard[:8], h[:8], s))
    h, h_hard = h.numpy(), h_hard.numpy()
    rest = [(i, k) for i in range(8, 12) for k in range(6)]
    cells = [(i, k) for i in range(12) for k in range(6)]
    expected = {
        "similarity": similarity,
        "hard": deformed,
        "consistency": 0.7 * sum((h_hard[i, k] - h[i, k]) ** 2 for i, k in rest) / len(rest),
        "quantization": 0.3
        * sum((h[i, k] - (1 if h[i, k] >= 0 else -1)) ** 2 for i, k in cells)
        / len(cells),
    }
    assert terms == pytest.approx(expected, rel=1e-4)
    against = {f"against {k}": -terms[k] for k in ("hard", "consistency")}
    assert answer == pytest.approx(against, rel=1e-4)


def test_only_labelled_rows_are_drawn_and_all_differ(lab):
    method = fitted(lab)
    split = lab.make_split(method, 100)
    assert set(method._known.tolist()) == set(np.flatnonzero(split.labelled).tolist())
    known = method.draw_labelled()
    assert known.y.sum(1).min() == 1
    assert len(torch.unique(known.x, dim=0)) == len(known) == 8


def test_the_pace_grows_from_nothing_to_rho():
    method = SSAHJin(epochs=5, rho=0.4)
    paces = []
    for epoch in range(5):
        method.start_epoch(epoch, None)
        paces.append(method.pace_)
    assert paces == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_the_adversary_learns_to_make_hashing_harder_and_moves_nothing_else(lab):
    method = fitted(lab, epochs=20, width=64)
    net = method.network_.eval()
    batch = method._data.batch(torch.arange(90))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method.loss(batch)
        for layer in (net.adversary[0], net.turn, net.occlude):
            layer.reset_parameters()
    before = [p.clone() for p in net.hash.parameters()]
    second = method.optimisers()[1]
    losses = []
    for _ in range(200):
        against = sum(method.answer(batch).values())
        losses.append(against.item())
        method._descend(against, second)
    assert losses[-1] < 1.15 * losses[0] < 0
    assert all((p == q).all() for p, q in zip(net.hash.parameters(), before, strict=True))


def test_without_any_label_it_says_so(lab):
    method = SSAHJin(bits=6, epochs=1)
    split = lab.make_split(method, 40)
    bare = Split(
        split.x,
        split.labels,
        "semi-supervised",
        labelled=np.zeros(40, bool),
        views=split.views,
    )
    with pytest.raises(ValueError, match="no training row is labelled"):
        method.fit(bare)
