"""DAR: clusters from the other half, both stages' losses by loops, clusters that mean something."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.methods.deep import Batch
from cbir_lite.methods.triplet.dar import DAR, strongest_rows


def fitted(lab, rows=40, **params):
    method = lab.create("dar", lab.SHORT, bits=12, clusters=4, **params)
    split = lab.make_split(method, rows)
    return method.fit(split), split


def test_a_cluster_keeps_its_strongest_rows_of_the_half():
    P = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.55, 0.45], [0.1, 0.9]])
    rows = torch.tensor([1, 2, 3, 4])
    # Cluster 0 keeps rows 3 and 1, cluster 1 rows 2 and 4.
    assert strongest_rows(P, rows, 2).tolist() == [-1, 0, 1, 0, 1, -1]
    # With three each, rows 1 and 4 are wanted by both and go to the stronger, cluster 0.
    assert strongest_rows(P, rows, 3).tolist() == [-1, 0, 1, 0, 0, -1]


def test_halves_change_roles_and_clusters_are_those_of_the_trained_network(lab):
    seen = []

    class Watched(DAR):
        def start_epoch(self, epoch, data):
            super().start_epoch(epoch, data)
            seen.append({k: v.clone() for k, v in self.memory_.items()})

    method = Watched(bits=12, epochs=12, width=16, clusters=4, period=2)
    method.fit(lab.make_split(method, 41))
    stages = ["cluster" in s for s in seen]
    assert stages == [True] * 6 + [False] * 6
    for state in seen[:6]:
        inside = state["cluster"] >= 0
        assert not (inside & ~state["half"]).any()
    assert torch.equal(seen[0]["half"], seen[1]["half"])
    assert torch.equal(seen[1]["half"], ~seen[2]["half"])
    assert torch.equal(seen[2]["half"], ~seen[4]["half"])
    assert (seen[0]["cluster"][seen[0]["half"]] >= 0).all()
    assert [set(e) for e in method.history_] == [{"clustering"}] * 6 + [
        {"triplet", "quantization"}
    ] * 6


def test_clustering_is_the_cross_entropy_of_members_only(lab):
    method, split = fitted(lab)
    cluster = torch.full((40,), -1)
    cluster[[3, 8, 21]] = torch.tensor([2, 0, 3])
    method.memory_ = {"cluster": cluster}
    index = torch.tensor([3, 5, 21, 8])
    x = torch.from_numpy(split.x)[index]
    with torch.no_grad():
        logits = method.network_.classifier(method.network_.trunk(x)).double().numpy()
    losses = []
    for a, i in enumerate(index.tolist()):
        if cluster[i] >= 0:
            total = sum(math.exp(v) for v in logits[a])
            losses.append(math.log(total) - logits[a][int(cluster[i])])
    value = method.loss(Batch(x, None, index))["clustering"].item()
    assert value == pytest.approx(np.mean(losses), rel=1e-5)


def test_triplets_are_weighted_by_the_probability_of_different_clusters(lab):
    method, split = fitted(lab, lam=0.7)
    P = torch.from_numpy(np.random.default_rng(2).dirichlet([0.5] * 4, 40)).float()
    method.memory_ = {"P": P}
    index = torch.tensor([3, 5, 21, 8, 30])
    torch.manual_seed(1)
    terms = method.loss(Batch(torch.from_numpy(split.x)[index], None, index))
    torch.manual_seed(1)
    partner = method.partners(P[index] @ P[index].T)[:, 0]
    h = np.tanh(method.embed(split.x[index]).astype(np.float64))
    p = P[index].double().numpy()
    total, weights = 0.0, 0.0
    for a in range(5):
        near = sum((h[a] - h[partner[a]]) ** 2)
        for n in range(5):
            w = 1 - sum(p[a] * p[n])
            total += w * max(0, 6 + near - sum((h[a] - h[n]) ** 2))
            weights += w
    away = [(v - (1 if v >= 0 else -1)) ** 2 for v in h.ravel()]
    assert terms["triplet"].item() == pytest.approx(total / weights / 12, rel=1e-4)
    assert terms["quantization"].item() == pytest.approx(0.7 * np.mean(away), rel=1e-4)


def test_partners_are_others_drawn_by_probability():
    together = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.0], [0.1, 0.0, 1.0]])
    torch.manual_seed(0)
    draws = torch.stack([DAR.partners(together)[:, 0] for _ in range(400)])
    assert not (draws == torch.arange(3)).any()
    assert 0.85 < (draws[:, 0] == 1).float().mean() < 0.95
    assert (draws[:, 1] == 0).all()


def test_clusters_group_the_digits_without_their_labels(lab, digits):
    method = lab.smoke_fit("dar").method
    cluster = method.memory_["P"].argmax(1).numpy()
    y = digits.train.y.argmax(1)
    purity = sum(np.bincount(y[cluster == k]).max() for k in np.unique(cluster)) / len(y)
    assert purity > 0.6
    assert len(np.unique(cluster)) > 10
