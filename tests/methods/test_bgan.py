"""BGAN: neighbourhood structure and every loss term against explicit loops; the adversaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.gan.bgan import BETAS, BGAN, expand, nearest, structure


def naive_structure(x: np.ndarray, K1: int, K2: int) -> np.ndarray:
    """S of the two-step neighbours with sets, row by row."""
    n = len(x)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ unit.T
    sets = []
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -cosine[i, j])
        sets.append({i, *others[:K1]})
    S = -np.ones((n, n))
    for i in range(n):
        alike = sorted(range(n), key=lambda j: (-len(sets[i] & sets[j]), j))[:K2]
        for j in set().union(*(sets[k] for k in alike)):
            S[i, j] = S[j, i] = 1
    return S


def some_features(n: int = 60) -> torch.Tensor:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(3))


def test_structure_of_a_set_and_of_a_batch_is_that_of_explicit_neighbour_sets():
    x = some_features()
    S = naive_structure(x.numpy(), K1=4, K2=3)
    neighbours = expand(nearest(x, 4), 3)
    np.testing.assert_array_equal(structure(neighbours, torch.arange(60)).numpy(), S)
    index = torch.tensor([7, 3, 59, 20, 21, 0])
    np.testing.assert_array_equal(structure(neighbours, index).numpy(), S[np.ix_(index, index)])
    assert -1 in S
    assert (S == 1).sum() > 60 * 5


def test_blocks_and_copies_of_a_row_change_nothing(monkeypatch):
    x = some_features()
    x[10:14] = x[9]
    whole = expand(nearest(x, 4), 3)
    monkeypatch.setattr("cbir_lite.methods.gan.bgan._BLOCK", 7)
    near = nearest(x, 4)
    assert (near == torch.arange(60)[:, None]).any(1).all()
    np.testing.assert_array_equal(expand(near, 3), whole)


def test_every_loss_term_is_that_of_explicit_sums(lab, digits):
    x = digits.train.pooled[:80]
    method = BGAN(bits=12, seed=0, epochs=1, batch_size=40, width=16, K1=5, K2=4, dropout=0.0)
    method.fit(Split(x, supervision="unsupervised"))
    index = np.array([3, 50, 9, 77, 20])
    net = method.network_.train()
    method.beta_ = 2.5
    batch = Batch(torch.from_numpy(x[index]), None, torch.from_numpy(index))
    with torch.no_grad():
        terms = {k: float(v) for k, v in method.loss(batch).items()}
        terms["discriminator"] = float(method.discriminator_loss(*method._real_and_fake))
        real, z = net.target(batch.x), net(batch.x).double().numpy()
        net.double()
        real = real.double()
    b = np.tanh(2.5 * z)
    S = naive_structure(x, 5, 4)[np.ix_(index, index)]
    neighbourhood = sum(
        0.5 * (sum(b[i, k] * b[j, k] for k in range(12)) / 12 - S[i, j]) ** 2
        for i in range(5)
        for j in range(5)
    )
    with torch.no_grad():
        fake = net.generator(torch.from_numpy(b))
        seen, real_seen = (net.discriminator.hidden(v).numpy() for v in (fake, real))
        logit = net.discriminator.logit(torch.from_numpy(seen)).numpy()[:, 0]
        real_logit = net.discriminator.logit(torch.from_numpy(real_seen)).numpy()[:, 0]
    content = sum((float(real[i, d]) - float(fake[i, d])) ** 2 for i in range(5) for d in range(64))
    D = [1 / (1 + math.exp(-v)) for v in logit]
    D_real = [1 / (1 + math.exp(-v)) for v in real_logit]
    assert terms["neighbourhood"] == pytest.approx(neighbourhood / 25, rel=1e-4)
    assert terms["content"] == pytest.approx(0.1 * content / (5 * 64), rel=1e-4)
    assert terms["perceptual"] == pytest.approx(0.1 * np.mean((seen - real_seen) ** 2), rel=1e-4)
    assert terms["adversarial"] == pytest.approx(-0.1 * np.mean(np.log(D)), rel=1e-4)
    against = -np.mean(np.log(D_real)) - np.mean(np.log(1 - np.array(D)))
    assert terms["discriminator"] == pytest.approx(against, rel=1e-4)


def test_each_optimiser_moves_its_own_networks_only(lab):
    method = lab.smoke_fit("bgan").method
    e_and_g, d = method.optimisers()
    names = ("encoder", "generator", "discriminator")
    parts = {k: {id(p) for p in getattr(method.network_, k).parameters()} for k in names}
    own = {id(p) for group in e_and_g.param_groups for p in group["params"]}
    against = {id(p) for group in d.param_groups for p in group["params"]}
    assert own == parts["encoder"] | parts["generator"]
    assert against == parts["discriminator"]


def test_the_discriminator_learns_against_a_generator_that_stands_still(lab, digits):
    method = lab.create("bgan", lab.SHORT, bits=16)
    method.fit(lab.make_split(method, 128))
    net = method.network_.train()
    x = torch.from_numpy(digits.train.pooled[:128])
    with torch.no_grad():
        real, fake = net.target(x), net.generator(torch.tanh(net(x)))
    optimiser = method.optimisers()[1]
    before = method.discriminator_loss(real, fake).item()
    for _ in range(300):
        method._descend(method.discriminator_loss(real, fake), optimiser)
    after = method.discriminator_loss(real, fake).item()
    # 2 log 2 is the loss of a discriminator that cannot tell.
    assert before > math.log(2)
    assert 0 < after < math.log(2)


def test_reconstruction_and_neighbourhood_improve_and_beta_grows_to_the_sign(lab, digits):
    method = lab.smoke_fit("bgan").method
    first, last = method.history_[0], method.history_[-1]
    assert last["content"] < 0.9 * first["content"]
    assert last["neighbourhood"] < 0.9 * first["neighbourhood"]
    assert method.beta_ == BETAS[-1] == max(BETAS)
    z = method.embed(digits.query.pooled)
    b = np.tanh(BETAS[-1] * z)
    assert (np.abs(b) > 0.9).mean() > 0.8
    np.testing.assert_array_equal(np.where(b >= 0, 1, -1), method.encode(digits.query.pooled))


def test_beta_passes_through_all_stages_in_order():
    method = BGAN(epochs=10)
    betas = []
    for epoch in range(10):
        method.start_epoch(epoch, None)
        betas.append(method.beta_)
    assert betas == [b for b in BETAS for _ in range(2)]


def test_images_are_reconstructed_by_pixels_and_come_back_from_disk(digits, tmp_path):
    from cbir_lite.methods.base import load

    x = digits.train.images[:64]
    method = registry.create("bgan", bits=12, epochs=2, batch_size=32, width=32)
    method.fit(Split(x, supervision="unsupervised"))
    assert method.network_.generator[-1].out_features == 8 * 8
    method.save(tmp_path / "bgan.pt")
    again = load(tmp_path / "bgan.pt")
    np.testing.assert_array_equal(method.encode(x), again.encode(x))
    assert np.isfinite([v for e in method.history_ for v in e.values()]).all()


def test_a_training_set_smaller_than_the_neighbourhood_still_fits(digits):
    method = registry.create("bgan", bits=12, epochs=1, batch_size=8, width=16)
    method.fit(Split(digits.train.pooled[:9], supervision="unsupervised"))
    assert method.encode(digits.query.pooled).shape == (150, 12)


def test_validation_uses_the_neighbours_among_the_held_out_rows(digits):
    method = registry.create("bgan", bits=12, epochs=2, width=16, validation=0.3)
    method.fit(Split(digits.train.pooled[:200], supervision="unsupervised"))
    assert all(math.isfinite(epoch["validation"]) for epoch in method.history_)
