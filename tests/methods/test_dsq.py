"""DSQ: four terms by loops, the point that is quantized, centres that move, unit lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dsq import DSQ, moved_centres
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.quantizers import add_words, class_shares

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return torch.from_numpy(RANDOM.standard_normal(shape).astype(np.float32))


def centre(labels, phi):
    own = [phi[c] for c in range(len(phi)) if labels[c]]
    return sum(own) / len(own)


@pytest.fixture(scope="module")
def small():
    x = RANDOM.standard_normal((9, 5)).astype(np.float32)
    y = RANDOM.integers(0, 2, (9, 4)).astype(np.uint8)
    y[:, 0] |= y.sum(1) == 0
    method = DSQ(bits=12, dim=6, epochs=1, width=8, dropout=0.0, lam1=0.3, lam2=0.7, lam3=1.1)
    method.fit(Split(x, y))
    return method, x, y


def test_terms_are_those_of_explicit_rows(small):
    method, x, y = small
    phi, C, b = normal(4, 6), normal(2, 64, 6), torch.from_numpy(RANDOM.integers(0, 64, (9, 2)))
    method.memory_ = {"phi": phi.clone(), "C": C, "b": b}
    rows = torch.tensor([3, 1, 8, 0, 5])
    method.network_.train()
    terms = method.loss(Batch(torch.from_numpy(x)[rows], torch.from_numpy(y).float()[rows], rows))
    method.network_.eval()

    z, phi, C = (t.astype(np.float64) for t in (method.embed(x), phi.numpy(), C.numpy()))
    W, bias = (p.detach().numpy() for p in method.network_.classifier.parameters())
    naive = {"softmax": [], "centre": [], "quantization": [], "discriminative": []}
    for i in rows.tolist():
        logits = W @ (16 * z[i]) + bias
        log_sum = math.log(sum(math.exp(t) for t in logits))
        naive["softmax"].append(sum(log_sum - logits[c] for c in range(4) if y[i, c]) / sum(y[i]))
        word, middle = C[0, b[i, 0]] + C[1, b[i, 1]], centre(y[i], phi)
        naive["centre"].append(0.7 * sum((z[i] - middle) ** 2))
        naive["quantization"].append(0.3 * sum((z[i] - word) ** 2))
        naive["discriminative"].append(1.1 * sum((middle - word) ** 2))
    assert set(terms) == set(naive)
    for name, values in naive.items():
        assert terms[name].item() == pytest.approx(np.mean(values), rel=1e-4), name


def test_quantizing_the_target_minimises_both_terms_of_codes(small):
    method, _, y = small
    phi, z, labels = normal(4, 6), normal(9, 6), torch.from_numpy(y).float()
    method.memory_ = {"phi": phi}
    target = method.targets(z, labels)
    middles = torch.stack([centre(row, phi) for row in y])

    def objective(c):
        return 0.3 * (z - c).square().sum(1) + 1.1 * (middles - c).square().sum(1)

    for _ in range(4):
        c = normal(9, 6)
        gap = objective(c) - objective(target)
        torch.testing.assert_close(gap, 1.4 * (target - c).square().sum(1), rtol=1e-4, atol=1e-4)


def test_centres_move_half_way_to_members_damped_by_one():
    phi, z = torch.zeros(3, 2), torch.tensor([[4.0, 0.0], [8.0, 0.0], [0.0, 6.0]])
    y = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    moved = moved_centres(phi, z, class_shares(y), 0.5)
    assert moved.tolist() == [[0.5 * 12 / 3, 0.0], [0.0, 0.5 * 6 / 2], [0.0, 0.0]]


def test_outputs_have_length_one_and_codes_keep_it(lab, digits):
    method = lab.smoke_fit("dsq").method
    z = method.outputs(digits.database.pooled)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    rebuilt = add_words(method.find_words(z), torch.from_numpy(method.codebooks_))
    assert (rebuilt.norm(dim=1) - 1).abs().mean() < 0.1


def test_every_term_falls_while_training(lab):
    history = lab.smoke_fit("dsq").method.history_
    assert set(history[0]) == {"softmax", "centre"}
    for name in ("softmax", "centre"):
        assert history[-1][name] < 0.5 * history[0][name]
    for name in ("quantization", "discriminative"):
        assert history[-1][name] < 0.5 * history[1][name]


def test_supervised_words_are_nearer_to_the_centres_than_features_are(lab, digits):
    method = lab.smoke_fit("dsq").method
    z = method.outputs(digits.train.pooled)
    middles = torch.stack([z[digits.train.y[:, c] > 0].mean(0) for c in range(10)])
    middles = middles[digits.train.y.argmax(1)]
    rebuilt = add_words(method.find_words(z), torch.from_numpy(method.codebooks_))
    assert (rebuilt - middles).square().sum() < 0.9 * (z - middles).square().sum()
