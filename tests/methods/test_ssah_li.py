"""SSAH of reference 146: terms against explicit pairs; LabNet, judges and codes do their part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import TrainingData
from tests.methods.few_pairs import few_pairs

RANDOM = np.random.default_rng(1)
X, T, Y, BATCH = few_pairs(RANDOM, n=8)


def fitted(**params):
    size = {"bits": 4, "epochs": 1, "width": 8, "dropout": 0.0, "features": 6}
    method = registry.create("ssah_li", **{**size, **params})
    method.fit(Split(X, Y, other=T))
    method.start_epoch(0, TrainingData(BATCH.x, BATCH.y, other=BATCH.other))
    return method


def parts(method) -> dict[str, list[np.ndarray]]:
    inputs = {"label": BATCH.labels, "image": BATCH.x, "other": BATCH.other}
    with torch.no_grad():
        return {k: [p.double().numpy() for p in method.parts(k, v)] for k, v in inputs.items()}


def naive_likelihood(a, b) -> float:
    total = 0.0
    for i in range(8):
        for j in range(8):
            theta = sum(a[i] * b[j]) / 2
            s = bool((Y[i] & Y[j]).any())
            total += math.log1p(math.exp(theta)) - s * theta
    return total / 64


def test_every_term_of_both_modalities():
    method = fitted(alpha=0.5, gamma=2.0, eta=0.25, beta=3.0, delta=0.1)
    p = parts(method)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    summed = sum(p[k][1] for k in p)
    B = np.where(summed >= 0, 1, -1)
    for name in ("image", "other"):
        f, h, labels = p[name]
        judge = method.network_.get_submodule(f"{name}_judge")
        with torch.no_grad():
            logits = judge(torch.from_numpy(f).float()).numpy().astype(float)
        expected = {
            "features": 0.5 * naive_likelihood(p["label"][0], f),
            "codes": 2 * naive_likelihood(p["label"][1], h),
            "quantization": 0.25 * ((h - B) ** 2).mean(),
            "labels": 3 * ((labels - Y) ** 2).mean(),
            "passes": 0.1 * np.mean([math.log1p(math.exp(-v)) for v in logits]),
        }
        for k, v in expected.items():
            assert found[f"{name} {k}"] == pytest.approx(v, rel=1e-4), k


def test_judges_take_the_features_of_the_label_network_for_real():
    method = fitted()
    p = parts(method)
    total = 0.0
    for name in ("image", "other"):
        judge = method.network_.get_submodule(f"{name}_judge")
        with torch.no_grad():
            real, fake = (judge(torch.from_numpy(p[k][0]).float()) for k in ("label", name))
        total += np.mean([math.log1p(math.exp(-v)) for v in real.tolist()]) / 4
        total += np.mean([math.log1p(math.exp(v)) for v in fake.tolist()]) / 4
    assert method.judges(method.players(BATCH)).item() == pytest.approx(total, rel=1e-4)


def test_the_label_network_learns_codes_that_tell_labels_apart_and_both_sides_follow():
    y = np.eye(4, dtype=np.uint8)[np.arange(40) % 4]
    x, t = (RANDOM.standard_normal((40, d)).astype(np.float32) + 6 * y[:, [0, 1, 2, 3, 0]][:, :d]
            for d in (5, 4))  # fmt: skip
    method = registry.create(
        "ssah_li", bits=8, epochs=40, batch_size=10, width=32, features=32, lr=5e-3
    )
    method.fit(Split(x, y, other=t))
    with torch.no_grad():
        lab = method.parts("label", torch.from_numpy(y).float())[1].numpy()
    same = (y.astype(int) @ y.T) > 0
    for codes in (np.sign(lab), method.encode(x), method.encode_other(t)):
        inner = np.sign(lab) @ codes.T
        assert inner[same].mean() > inner[~same].mean() + 3
    assert method.history_[-1]["label network"] < 0.7 * method.history_[0]["label network"]
