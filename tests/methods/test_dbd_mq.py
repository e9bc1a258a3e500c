"""DBD-MQ: errors and terms by explicit loops; assignments follow the better autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dbd_mq import DBDMQ, KAutoEncoders
from cbir_lite.methods.deep import Batch

X = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)


def fitted():
    method = DBDMQ(bits=6, epochs=6, lam1=0.3, lam2=0.7)
    return method.fit(Split(X, supervision="unsupervised"))


def descriptors(method, x=X):
    with torch.no_grad():
        return method.network_.descriptor(torch.from_numpy(x)).double().numpy()


def rebuilt(method, z, k):
    """Every element of z by autoencoder k, from its weights."""
    first, _, last = method.network_.autoencoders[k]
    W1, c1, W2, c2 = (
        t.detach().double().numpy() for t in (first.weight, first.bias, last.weight, last.bias)
    )
    return np.array([W2 @ np.tanh(W1 @ row + c1) + c2 for row in z])


def test_a_bit_is_the_autoencoder_that_rebuilds_the_element_better():
    method = fitted()
    z = descriptors(method)
    both = [rebuilt(method, z, k) for k in (0, 1)]
    codes = method.encode(X)
    for i in range(9):
        for j in range(6):
            errors = [(z[i, j] - both[k][i, j]) ** 2 for k in (0, 1)]
            assert codes[i, j] == (1 if errors[1] <= errors[0] else -1)


def test_terms_are_those_of_explicit_elements():
    method = fitted()
    k = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (9, 6)))
    method.memory_ = {"k": k}
    index = torch.tensor([4, 0, 7, 2])
    terms = method.loss(Batch(torch.from_numpy(X)[index], None, index))
    z = descriptors(method, X[index])
    both = [rebuilt(method, z, a) for a in (0, 1)]
    error, even, spread = 0.0, 0.0, 0.0
    for a, i in enumerate(index.tolist()):
        for j in range(6):
            error += (z[a, j] - both[int(k[i, j])][a, j]) ** 2 / 4
    for j in range(6):
        even += (sum(v >= 0 for v in z[:, j]) / 4 - 0.5) ** 2
        mean = sum(z[:, j]) / 4
        spread += (1 - (sum((v - mean) ** 2 for v in z[:, j]) / 4) ** 0.5) ** 2
    assert terms["reconstruction"].item() == pytest.approx(error, rel=1e-4)
    assert terms["even"].item() == pytest.approx(0.3 * even, rel=1e-4)
    assert terms["spread"].item() == pytest.approx(0.7 * spread, rel=1e-4)


def test_before_training_the_code_is_the_sign_of_turned_components():
    torch.manual_seed(0)
    network = KAutoEncoders(X, 4, 2)
    z = network.descriptor(torch.from_numpy(X))
    # A small random part of the autoencoders may decide for elements next to zero.
    clear = z.abs() > 0.1
    assert clear.float().mean() > 0.7
    assert ((network(torch.from_numpy(X)) >= 0) == (z >= 0))[clear].all()
    # Distances of the rows are those between their principal components.
    centred = X - X.mean(0)
    V = np.linalg.svd(centred, full_matrices=False)[2][:4]
    expected = np.linalg.norm((centred @ V.T)[:, None] - (centred @ V.T)[None], axis=2)
    found = torch.cdist(z, z).detach().numpy()
    ratio = found[expected > 0] / expected[expected > 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_the_autoencoders_learn_quantizers_that_rebuild_better_than_the_sign(lab):
    method = DBDMQ(bits=16, epochs=40)
    split = lab.make_split(method, 300)
    method.fit(split)
    x = torch.from_numpy(np.asarray(split.x, np.float32))
    with torch.no_grad():
        z = method.network_.descriptor(x)
        best = method.network_.errors(z).amin(2).mean()
        by_sign = (z - torch.where(z >= 0, 1.0, -1.0)).square().mean()
    assert best < 0.9 * by_sign
