"""The sketch-conditioned generator: flows with their determinant, and every term by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.sketch.sketch_gan_159 import Flow
from tests.methods.eight_pairs import BATCH, CLASS, T, X, Y


def fitted(**params):
    settings = {"bits": 6, "width": 16, "epochs": 1, "dropout": 0.0, "latent": 3, **params}
    return registry.create("sketch_gan_159", **settings).fit(Split(X, Y, other=T))


def test_a_flow_has_the_determinant_it_says_and_is_autoregressive():
    torch.manual_seed(0)
    flow, h, z = Flow(4, 3), torch.randn(1, 3), torch.randn(4)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None], h)[0][0], z)
    assert torch.equal(torch.triu(jacobian, 1), torch.zeros(4, 4))
    _, log_det = flow(z[None], h)
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), rel=1e-4)


def test_the_density_ratio_is_that_of_the_change_of_variables():
    method = fitted()
    x, s, noise = torch.randn(1, 6), torch.randn(1, 4), torch.randn(1, 3)
    z, ratio = method.posterior(x, s, noise)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: method.posterior(x, s, e[None])[0][0], noise[0]
    )
    log_normal = [-0.5 * (v**2).sum().item() - 1.5 * math.log(2 * math.pi) for v in (noise, z)]
    log_q = log_normal[0] - torch.linalg.slogdet(jacobian)[1].item()
    assert ratio.item() == pytest.approx(log_q - log_normal[1], rel=1e-3, abs=1e-4)


def test_terms_over_explicit_rows():
    method = fitted(beta=0.3, lam=0.7)
    torch.manual_seed(5)
    found = {k: v.item() for k, v in method.loss(BATCH).items()}
    torch.manual_seed(5)
    noise = torch.randn(8, 3)
    net, s = method.network_, torch.from_numpy((T - T.mean(0)) / T.std(0))
    x = torch.from_numpy(method.embed(X))
    terms = dict.fromkeys(found, 0.0)
    with torch.no_grad():
        for i, c in enumerate(CLASS):
            row = slice(i, i + 1)
            z, ratio = method.posterior(x[row], s[row], noise[row])
            made = net.other.generator(z, s[row])
            logits = net.classifier(10 * x[i]).numpy().astype(float)
            terms["class"] += (math.log(np.exp(logits).sum()) - logits[c]) / 8
            terms["reconstruction"] += sum((x[i] - made[0]).numpy() ** 2) / 8
            terms["divergence"] += 0.3 * ratio.item() / 8
            terms["feedback"] += 0.7 * ((net.feedback(made)[0] - s[i]).numpy() ** 2).mean() / 8
    for name, value in terms.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


def test_the_generator_takes_photo_features_as_they_are_and_classes_teach_them():
    method = fitted()
    net = method.network_.train()
    terms = method.loss(BATCH)
    parts = {k: list(net.get_submodule(k).parameters()) for k in ("image", "other.generator")}
    for name, moved in (
        ("class", {"image"}),
        ("reconstruction", {"other.generator"}),
        ("divergence", set()),
        ("feedback", {"other.generator"}),
    ):
        for part, parameters in parts.items():
            slopes = torch.autograd.grad(
                terms[name], parameters, retain_graph=True, allow_unused=True
            )
            reached = any(slope is not None and bool(slope.any()) for slope in slopes)
            assert reached == (part in moved), (name, part)


def test_a_sketch_is_the_mean_of_what_is_generated_from_it():
    method = fitted(draws=5)
    tower = method.network_.other
    s = torch.from_numpy((T - T.mean(0)) / T.std(0))
    with torch.no_grad():
        for i in range(8):
            made = [tower.generator(z[None], s[i : i + 1])[0].numpy() for z in tower.draws]
            assert len(made) == 5
            mean = np.mean(made, axis=0)
            expected = mean / np.linalg.norm(mean)
            np.testing.assert_allclose(method.embed_other(T)[i], expected, rtol=1e-3, atol=1e-5)


def test_generated_features_come_to_lie_at_the_photos_of_the_class():
    method = fitted(epochs=150, lr=5e-3, width=32)
    assert method.history_[-1]["reconstruction"] < 0.3 * method.history_[0]["reconstruction"]
    found = method.distance(method.embed_other(T), method.embed(X))
    same = np.equal.outer(CLASS, CLASS)
    assert found[same].mean() < 0.5 * found[~same].mean()
