"""BGAN+: every loss term against explicit loops; two codes for two purposes; the adversaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.base import NotFitted, load
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.bgan_plus import BGANPlus


def fitted(x: np.ndarray, **params) -> BGANPlus:
    scale = {"epochs": 1, "batch_size": 40, "width": 16, "K1": 5, "K2": 4, "dropout": 0.0}
    method = BGANPlus(seed=0, **{"bits": 8, **scale, **params})
    return method.fit(Split(x, supervision="unsupervised"))


def test_every_loss_term_is_that_of_explicit_sums(digits):
    method = fitted(digits.train.pooled[:80], omega_N=0.7, omega_C=0.3, omega_A=0.2)
    index = np.array([3, 50, 9, 77, 20])
    batch = Batch(torch.from_numpy(digits.train.pooled[index]), None, torch.from_numpy(index))
    net = method.network_.train()
    method.beta_ = 2.5
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        terms["discriminator"] = float(method.discriminator_loss(*method._real_and_fake))
        net.double()
        real, hidden = net.target(batch.x.double()), net.trunk(batch.x.double())
        b = np.tanh(2.5 * net.retrieval(hidden).numpy())
        fake = net.generator(torch.tanh(2.5 * net.compression(hidden)))
        (judged, seen), (told, wanted) = net.discriminator(fake), net.discriminator(real)
    rows = [set(r) for r in method.memory_["neighbours"].tolist()]
    neighbourhood = 0.0
    for i in range(5):
        for j in range(5):
            s = 1 if index[j] in rows[index[i]] or index[i] in rows[index[j]] else -1
            neighbourhood += 0.5 * (sum(b[i, k] * b[j, k] for k in range(8)) / 8 - s) ** 2
    cells = [(i, d) for i in range(5) for d in range(64)]
    content = sum((float(real[i, d]) - float(fake[i, d])) ** 2 for i, d in cells)
    D, D_real = (1 / (1 + np.exp(-v.numpy())) for v in (judged, told))
    expected = {
        "neighbourhood": 0.7 * neighbourhood / 25,
        "content": 0.3 * content / len(cells),
        "perceptual": 0.3 * np.mean((seen - wanted).numpy() ** 2),
        "adversarial": -0.2 * np.mean(np.log(D)),
        "discriminator": -np.mean(np.log(D_real)) - np.mean(np.log(1 - D)),
    }
    assert terms == pytest.approx(expected, rel=1e-4)


def test_each_optimiser_moves_its_own_networks_only(digits):
    method = fitted(digits.train.pooled[:80])
    e_and_g, d = method.optimisers()
    names = ("trunk", "retrieval", "compression", "generator", "discriminator")
    parts = {k: {id(p) for p in getattr(method.network_, k).parameters()} for k in names}

    def owned(optimiser):
        return {id(p) for group in optimiser.param_groups for p in group["params"]}

    assert owned(d) == parts.pop("discriminator")
    assert owned(e_and_g) == set().union(*parts.values())


def test_each_code_learns_from_its_own_terms(digits):
    method = fitted(digits.train.pooled[:80])
    net = method.network_.train()
    batch = Batch(torch.from_numpy(digits.train.pooled[:20]), None, torch.arange(20))
    for term, learns in {"neighbourhood": "retrieval", "content": "compression"}.items():
        net.zero_grad()
        method.loss(batch)[term].backward()
        for name in ("retrieval", "compression"):
            gradient = getattr(net, name).weight.grad
            assert (gradient is not None and bool(gradient.any())) is (name == learns)
        assert net.trunk[2].weight.grad.any()


def test_the_discriminator_learns_against_a_generator_that_stands_still(digits):
    method = fitted(digits.train.pooled[:128], width=64)
    net = method.network_.train()
    batch = Batch(torch.from_numpy(digits.train.pooled[:100]), None, torch.arange(100))
    with torch.no_grad():
        method.loss(batch)
    optimiser = method.optimisers()[1]
    losses = []
    for _ in range(300):
        told = method.discriminator_loss(*method._real_and_fake)
        losses.append(told.item())
        method._descend(told, optimiser)
    # 2 log 2 is the loss of a discriminator that cannot tell.
    assert losses[0] > math.log(2) > losses[-1] > 0
    assert net.discriminator(method._real_and_fake[0])[0].mean() > 0


def test_digits_are_drawn_from_their_compressed_codes_and_better_from_longer_ones(lab, digits):
    def error(times):
        method = lab.create("bgan_plus", lab.SMOKE, bits=16, times=times)
        method.fit(lab.make_split(method))
        x = digits.query.pooled
        codes = method.compress(x)
        assert codes.shape == (150, times * 16)
        assert set(np.unique(codes)) == {-1, 1}
        return np.square(method.draw(codes) - x).mean() / np.square(x - x.mean(0)).mean()

    short, long = error(1), error(6)
    # Against the mean image; the retrieval code has no part in it.
    assert long < short < 1
    assert long < 0.75


def test_compression_survives_disk_and_needs_a_fit(digits, tmp_path):
    x = digits.train.images[:64]
    method = fitted(x, bits=12, epochs=2)
    method.save(tmp_path / "plus.pt")
    again = load(tmp_path / "plus.pt")
    np.testing.assert_array_equal(method.compress(x), again.compress(x))
    assert again.draw(again.compress(x)).shape == x.shape
    with pytest.raises(NotFitted):
        BGANPlus().compress(x)


def test_validation_uses_the_neighbours_among_the_held_out_rows(digits):
    method = fitted(digits.train.pooled[:100], epochs=2, validation=0.3)
    assert all(math.isfinite(epoch["validation"]) for epoch in method.history_)
