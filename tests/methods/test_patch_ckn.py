"""Patch-CKN: the kernel's approximation, its learning, pooled maps and the choice of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn import patch_ckn as module
from cbir_lite.methods.cnn.patch_ckn import (
    PatchCKN,
    gaussian_pooling,
    kernel_error,
    spherical_words,
    starting_eta,
)


def images(n: int = 40, side: int = 12) -> np.ndarray:
    """Coloured bars on grey with a little noise, uint8 (n, side, side, 3)."""
    rng = np.random.default_rng(0)
    out = rng.integers(118, 122, (n, side, side, 3))
    for image in out:
        a = rng.integers(0, side - 3)
        colour = rng.integers(0, 256, 3)
        if rng.random() < 0.5:
            image[a : a + 3] = colour
        else:
            image[:, a : a + 3] = colour
    return out.astype(np.uint8)


@pytest.fixture(scope="module")
def fitted() -> PatchCKN:
    method = PatchCKN(bits=8, words=4, patches=6)
    return method.fit(Split(images(), supervision="unsupervised"))


def units(n: int, d: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def test_the_error_over_explicit_pairs_and_filters() -> None:
    x, y, w = units(7, 4, 0), units(7, 4, 1), units(3, 4, 2)
    eta, sigma = torch.tensor([0.5, 1.0, 2.0]), 0.8
    total = 0.0
    for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True):
        found = 0.0
        for weight, f in zip(eta.tolist(), w.double().numpy(), strict=True):
            near = sum((a - f) ** 2) / sigma**2 + sum((b - f) ** 2) / sigma**2
            found += weight * np.exp(-near)
        total += (np.exp(-sum((a - b) ** 2) / (2 * sigma**2)) - found) ** 2
    assert float(kernel_error(x, y, w, eta, sigma)) == pytest.approx(total / 7, rel=1e-4)


def test_the_starting_weight_is_the_best_one_for_all_filters() -> None:
    x, y, w = units(500, 4, 0), units(500, 4, 1), units(12, 4, 2)
    eta = starting_eta(x, y, w, 0.8)
    assert eta.unique().numel() == 1
    best = kernel_error(x, y, w, eta, 0.8)
    assert all(best < kernel_error(x, y, w, eta * s, 0.8) for s in (0.5, 0.95, 1.05, 2.0))


def test_spherical_words_are_unit_and_come_nearer_with_every_step() -> None:
    x = units(300, 5, 0)
    nearness = []
    for steps in range(5):
        w = spherical_words(x, 6, torch.Generator().manual_seed(1), steps)
        torch.testing.assert_close(w.norm(dim=1), torch.ones(6))
        nearness.append(float((x @ w.T).amax(1).mean()))
    assert (np.diff(nearness) >= -1e-6).all()
    assert nearness[-1] > nearness[0] + 0.01


def test_learned_filters_give_the_kernel_of_pairs_they_have_not_seen(fitted: PatchCKN) -> None:
    other = torch.from_numpy(np.asarray(images(80)[40:], np.float32)).permute(0, 3, 1, 2) / 255
    p = fitted._sub_patches(other).flatten(0, 2)
    p = (p - p.mean(1, keepdim=True)) @ torch.from_numpy(fitted.whiten_)
    p = p[p.norm(dim=1) > 0.1]
    p = p / p.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(3)
    x, y = (p[torch.randint(len(p), (2000,), generator=generator)] for _ in range(2))
    w, eta = torch.from_numpy(fitted.filters_), torch.from_numpy(fitted.eta_)
    exact = (-(x - y).square().sum(1) / (2 * fitted.sigma_**2)).exp()
    error = kernel_error(x, y, w, eta, fitted.sigma_)
    assert error < 0.3 * exact.var()
    assert np.mean(fitted.errors_[-20:]) < 0.7 * np.mean(fitted.errors_[:20])
    # The filters have not run into one place.
    assert torch.cdist(w, w).max() > fitted.sigma_


def test_the_kernels_width_is_a_quantile_of_distances_that_occur() -> None:
    split = Split(images(), supervision="unsupervised")
    narrow, wide = (PatchCKN(bits=8, quantile=q, steps=1, words=4).fit(split) for q in (0.1, 0.5))
    assert 0 < narrow.sigma_ < wide.sigma_ < 2


def test_pooling_weights_by_hand() -> None:
    weight = gaussian_pooling(4, 2)
    # Two cells around 0.5 and 2.5; squares of distances over the square of the stride.
    first = np.exp(-np.array([0.25, 0.25, 2.25, 6.25]) / 4)
    np.testing.assert_allclose(weight[0], first / first.sum(), rtol=1e-5)
    np.testing.assert_allclose(weight[1], weight[0].flip(0), rtol=1e-5)
    torch.testing.assert_close(gaussian_pooling(11, 3).sum(1), torch.ones(3))
    assert gaussian_pooling(1, 3).tolist() == [[1.0]]


def test_pooled_maps_by_loops(fitted: PatchCKN) -> None:
    image = images(1).astype(np.float32)
    xi = fitted.pooled_maps(image)[0].numpy()
    side = 3
    x = image[0].astype(np.float64) / 255
    rows = 12 - side + 1
    psi = np.zeros((rows, rows, 64))
    for i in range(rows):
        for j in range(rows):
            # PyTorch unfolds channel by channel.
            p = x[i : i + side, j : j + side].transpose(2, 0, 1).ravel()
            p = (p - p.mean()) @ fitted.whiten_
            length = np.linalg.norm(p)
            for k, (w, eta) in enumerate(zip(fitted.filters_, fitted.eta_, strict=True)):
                near = ((p / max(length, 1e-6) - w) ** 2).sum() / fitted.sigma_**2
                psi[i, j, k] = length * np.sqrt(eta) * np.exp(-near)
    weight = gaussian_pooling(rows, 1).numpy()
    expected = np.zeros_like(psi)
    for u in range(rows):
        for v in range(rows):
            for i in range(rows):
                for j in range(rows):
                    expected[u, v] += weight[u, i] * weight[v, j] * psi[i, j]
    np.testing.assert_allclose(xi, expected, rtol=2e-3, atol=1e-4)


def test_brightness_does_not_matter(fitted: PatchCKN) -> None:
    x = images(5) // 2
    np.testing.assert_allclose(fitted.embed(x + 40), fitted.embed(x), atol=1e-3)


def test_an_image_keeps_its_patches_of_most_contrast(fitted: PatchCKN) -> None:
    x = images(3).astype(np.float32)
    found = fitted.described(x)
    xi = fitted.pooled_maps(x)
    n = xi.shape[1] - fitted.cells + 1
    for one, kept in zip(xi, found, strict=True):
        energy = [
            float(one[i : i + fitted.cells, j : j + fitted.cells].square().sum())
            for i in range(n)
            for j in range(n)
        ]
        most = sorted(np.argsort(energy)[-fitted.patches :])
        np.testing.assert_allclose(kept.square().sum((1, 2)), np.array(energy)[most], rtol=1e-4)
    assert found.shape == (3, 6, 1, 9 * 64)


def test_images_are_described_in_blocks_and_shrunk(
    fitted: PatchCKN, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(7)
    whole = fitted.embed(x)
    seen: list[int] = []
    inner = PatchCKN.pooled_maps

    def watched(self: PatchCKN, block: np.ndarray) -> torch.Tensor:
        seen.append(len(block))
        return inner(self, block)

    monkeypatch.setattr(module, "_IMAGES", 3)
    monkeypatch.setattr(PatchCKN, "pooled_maps", watched)
    np.testing.assert_allclose(fitted.embed(x), whole, atol=1e-5)
    assert seen == [3, 3, 1]
    large = np.zeros((2, 96, 60, 3), np.float32)
    assert fitted._small(large).shape == (2, 3, 48, 30)
    doubled = np.repeat(np.repeat(images(2, 48), 2, 1), 2, 2).astype(np.float32)
    np.testing.assert_allclose(
        fitted._small(doubled), fitted._small(images(2, 48).astype(np.float32)), atol=1e-5
    )


def test_what_is_no_image_is_named(fitted: PatchCKN) -> None:
    with pytest.raises(ValueError, match=r"reads images \(n, h, w, c\) and got \(5, 64\)"):
        fitted.embed(np.zeros((5, 64), np.float32))
