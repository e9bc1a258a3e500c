"""Cross-modal systems: every term against explicit pairs and triplets in 64-bit Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.cross_modal import _shared as shared
from cbir_lite.methods.cross_modal.prdh import decorrelation
from cbir_lite.methods.deep import Batch

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((9, 5)).astype(np.float32)
T = RANDOM.random((9, 4)).astype(np.float32)
Y = RANDOM.integers(0, 2, (9, 3)).astype(np.uint8)
Y[0] = [1, 0, 0]
S = (Y.astype(int) @ Y.T > 0).astype(float)
BATCH = Batch(
    torch.from_numpy(X), torch.from_numpy(Y).float(), torch.arange(9), other=torch.from_numpy(T)
)


def fitted(name: str, **params):
    """A system fitted for one epoch on nine rows, in evaluation mode."""
    method = registry.create(name, bits=4, epochs=1, width=8, dropout=0.0, **params)
    cls = registry.get(name)
    return method.fit(Split(X, Y, cls.supervision, other=T))


def two_sides(method) -> tuple[np.ndarray, np.ndarray]:
    return method.outputs(X).numpy().astype(float), method.other_outputs(T).numpy().astype(float)


def likelihood(a, b) -> float:
    total = 0.0
    for i in range(9):
        for j in range(9):
            theta = sum(a[i] * b[j]) / 2
            total += math.log1p(math.exp(theta)) - S[i, j] * theta
    return total / 81


def softmax_ce(logits, y) -> float:
    total = 0.0
    for row, labels in zip(logits, y, strict=True):
        e = [math.exp(v) for v in row]
        share = max(1, int(labels.sum()))
        total -= sum(v * math.log(x / sum(e)) / share for v, x in zip(labels, e, strict=True))
    return total / len(y)


def test_triplets_across_modalities_are_all_that_exist():
    d = RANDOM.random((6, 9))
    expected, count = 0.0, 0
    for i in range(6):
        for p in range(9):
            for n in range(9):
                if S[i, p] and not S[i, n]:
                    expected += max(0.0, 0.3 + d[i, p] - d[i, n])
                    count += 1
    found = shared.cross_triplet(torch.from_numpy(d), torch.from_numpy(S[:6]), 0.3)
    assert found.item() == pytest.approx(expected / count)
    none = shared.cross_triplet(torch.from_numpy(d), torch.ones(6, 9, dtype=torch.float64), 0.3)
    assert none.item() == 0


def test_squared_distances_and_quantization():
    a, b = RANDOM.standard_normal((3, 4)), RANDOM.standard_normal((5, 4))
    found = shared.squared_distance(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found, [[sum((p - q) ** 2) for q in b] for p in a])
    naive = np.mean([np.mean((z - np.where(z >= 0, 1, -1)) ** 2) for z in (a, b)])
    q = shared.quantization(torch.from_numpy(a), torch.from_numpy(b))
    assert q.item() == pytest.approx(naive)


def test_prdh_counts_three_kinds_of_pairs():
    method = fitted("prdh", gamma=0.5, lam=2.0)
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    x, t = two_sides(method)
    assert terms["inter"] == pytest.approx(likelihood(x, t), rel=1e-4)
    assert terms["intra"] == pytest.approx(likelihood(x, x) + likelihood(t, t), rel=1e-4)
    correlated = 0.0
    for z in (x, t):
        c = np.corrcoef(z.T)
        correlated += sum(c[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 12
    assert terms["decorrelation"] == pytest.approx(0.5 * correlated, rel=1e-3)
    same = torch.from_numpy(np.repeat(x[:, :1], 4, 1))
    assert decorrelation(same).item() == pytest.approx(1)


def test_corr_ae_rebuilds_both_and_ties_the_codes():
    method = fitted("corr_ae", alpha=0.25)
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    x, t = two_sides(method)
    assert terms["correspondence"] == pytest.approx(0.25 * ((x - t) ** 2).mean(), rel=1e-4)
    rebuilt = 0.0
    for side, inputs, h in (("image", X, x), ("other", T, t)):
        tower = method.network_.get_submodule(side)
        scaled = (inputs - inputs.mean(0)) / inputs.std(0)
        with torch.no_grad():
            out = tower.decoder(torch.from_numpy(h.astype(np.float32))).numpy()
        rebuilt += ((out - scaled) ** 2).mean()
    assert terms["reconstruction"] == pytest.approx(0.75 * rebuilt, rel=1e-3)


def test_acmr_reads_labels_from_both_and_orders_across():
    method = fitted("acmr", alpha=2.0, margin=0.7, anchors=4)
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    x, t = two_sides(method)
    weight, bias = (
        p.detach().numpy().astype(float)
        for p in method.network_.get_submodule("classifier").parameters()
    )
    expected = sum(softmax_ce(z @ weight.T + bias, Y) for z in (x, t))
    assert terms["label"] == pytest.approx(expected, rel=1e-4)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, t)]
    triplet = 0.0
    for a, b in (unit, unit[::-1]):
        d = [[sum((p - q) ** 2) for q in b] for p in a]
        gaps = [
            max(0.0, 0.7 + d[i][p] - d[i][n])
            for i in range(4)
            for p in range(9)
            for n in range(9)
            if S[i, p] and not S[i, n]
        ]
        triplet += sum(gaps) / len(gaps)
    assert terms["triplet"] == pytest.approx(2 * triplet, rel=1e-4)


def test_the_judge_learns_to_tell_modalities_apart():
    torch.manual_seed(0)
    judge = shared.Judge(4)
    image, other = torch.randn(200, 4) + 1, torch.randn(200, 4) - 1
    optimiser = torch.optim.Adam(judge.parameters(), lr=0.01)
    first = shared.judgement(judge, image, other).item()
    for _ in range(60):
        optimiser.zero_grad()
        shared.judgement(judge, image, other).backward()
        optimiser.step()
    assert shared.judgement(judge, image, other).item() < 0.5 * first
    swapped = shared.judgement(judge, other, image).item()
    assert swapped > 2 * first


def test_towers_that_confuse_the_judge_are_told_apart_less():
    # The judge ends nearer to chance when the towers play against it.
    ends = {}
    for confusion in (0.0, 3.0):
        method = registry.create(
            "acmr", bits=4, epochs=60, width=16, dropout=0.0, confusion=confusion, lr=3e-3
        )
        method.fit(Split(X, Y, other=T))
        ends[confusion] = np.mean([h["judge"] for h in method.history_[-10:]])
    assert ends[3.0] > ends[0.0]


def test_semantic_matching_compares_class_probabilities():
    method = fitted("cnn_visual_cross_modal")
    x, t = two_sides(method)
    np.testing.assert_allclose(np.concatenate([x, t]).sum(1), 1, rtol=1e-5)
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    for name, p in (("image", x), ("text", t)):
        naive = -np.mean(
            [sum(v * math.log(q) / max(1, r.sum()) for v, q in zip(r, p[i], strict=True))
             for i, r in enumerate(Y)]
        )  # fmt: skip
        assert terms[name] == pytest.approx(naive, rel=1e-4)


def test_dvsh_wants_large_cosines_of_similar_pairs_and_sure_bits():
    method = fitted("dvsh", mu_c=0.4, mu_b=0.6, lam=0.5)
    terms = {k: v.item() for k, v in method.loss(BATCH).items()}
    x, t = (np.tanh(z) for z in two_sides(method))
    hinges = {0: [], 1: []}
    for i in range(9):
        for j in range(9):
            cosine = x[i] @ t[j] / np.linalg.norm(x[i]) / np.linalg.norm(t[j])
            hinges[int(S[i, j])].append(max(0.0, 0.4 - (2 * S[i, j] - 1) * cosine))
    expected = np.mean(hinges[0]) + np.mean(hinges[1])
    assert terms["cosine"] == pytest.approx(expected, rel=1e-4)
    sure = sum(np.maximum(0, 0.6 - np.abs(h)).mean() for h in (x, t))
    assert terms["bitwise"] == pytest.approx(0.5 * sure, rel=1e-4)
