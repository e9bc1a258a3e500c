"""DPH: growing regions, the recurrent codes and the ranking loss, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.base import NotFitted, load
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.recurrent.dph_progressive import DPH, salient_regions

SMALL = {"bits": 16, "epochs": 10, "batch_size": 64, "width": 64}


def grown(n, seed, d=16, classes=4):
    """Maps (n, 3, 3, d) whose five brightest positions each tell a little of the class."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((classes, d)).astype(np.float32)
    y = np.arange(n) % classes
    maps = rng.random((n, 9, d)).astype(np.float32)
    bright = np.argsort(rng.random((n, 9)), axis=1)[:, :5]
    rows = np.arange(n)[:, None]
    maps[rows, bright] = 0.5 + 1.5 * rng.random((n, 5, d)) + 0.8 * patterns[y][:, None]
    return maps.reshape(n, 3, 3, d), np.eye(classes, dtype=np.uint8)[y]


@pytest.fixture(scope="module")
def fitted():
    return DPH(**SMALL).fit(Split(*grown(240, 0)))


@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_regions_equal_loops_over_positions(steps, dtype):
    x = np.random.default_rng(steps).random((5, 2, 5, 3)).astype(dtype)
    got = DPH(steps=steps).prepare(x)
    assert got.dtype == np.float32
    assert got.shape == (5, steps, 3)
    for i, image in enumerate(x.astype(np.float64)):
        cells = [image[r, c] for r in range(2) for c in range(5)]
        cells.sort(key=lambda v: -v.sum())
        for t in range(1, steps + 1):
            region = cells[: math.ceil(t / steps * 10)]
            wanted = [sum(v[k] for v in region) / len(region) for k in range(3)]
            np.testing.assert_allclose(got[i, t - 1], wanted, rtol=1e-5)


def test_regions_by_hand():
    # Saliences 1, 9, 3, 5; the better half is positions 1 and 3, the last region is everything.
    x = torch.tensor([[[[0.0, 1.0], [4.0, 5.0]], [[3.0, 0.0], [5.0, 0.0]]]])
    r = salient_regions(x, 2)
    torch.testing.assert_close(r, torch.tensor([[[4.5, 2.5], [3.0, 1.5]]]))


def test_more_steps_than_positions_repeat_regions():
    x = torch.rand(2, 1, 2, 3)
    r = salient_regions(x, 4)
    torch.testing.assert_close(r[:, 0], r[:, 1])
    torch.testing.assert_close(r[:, 3], x.mean(dim=(1, 2)))


def test_terms_equal_loops_over_triplets_of_every_step():
    rng = np.random.default_rng(1)
    r = rng.standard_normal((8, 3, 5)).astype(np.float32)
    labels = (rng.random((8, 4)) < 0.4).astype(np.uint8)
    method = DPH(bits=12, width=16, steps=3)
    method.network_ = method.build(r, 4).eval()
    y = torch.as_tensor(labels, dtype=torch.float32)
    got = method.loss(Batch(torch.from_numpy(r), y, torch.arange(8)))
    with torch.no_grad():
        h = method.network_.steps(torch.from_numpy(r)).double().numpy()

    assert list(got) == ["ranking 1", "ranking 2", "ranking 3"]
    for t in range(3):
        costs = []
        for a in range(8):
            for p in range(8):
                for n in range(8):
                    alike = (labels[a] & labels[p]).any()
                    unlike = not (labels[a] & labels[n]).any()
                    if a != p and alike and unlike:
                        near = ((h[a, t] - h[p, t]) ** 2).sum()
                        far = ((h[a, t] - h[n, t]) ** 2).sum()
                        costs.append(max(0.0, 12 / 4 + near - far))
        assert len(costs) > 20
        assert got[f"ranking {t + 1}"].item() == pytest.approx(np.mean(costs), rel=1e-4)


def test_gradient_reaches_every_parameter():
    maps, labels = grown(24, 2)
    method = DPH(**SMALL)
    r = method.prepare(maps)
    method.network_ = method.build(r, 4)
    batch = Batch(torch.from_numpy(r), torch.from_numpy(labels).float(), torch.arange(24))
    sum(method.loss(batch).values()).backward()
    for name, parameter in method.network_.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def test_codes_of_a_step_depend_on_its_own_and_earlier_regions_only(fitted):
    r = torch.from_numpy(fitted.prepare(grown(6, 3)[0]))
    changed = r.clone()
    changed[:, 2] += 5
    with torch.no_grad():
        before, after = fitted.network_.steps(r), fitted.network_.steps(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-3


def test_the_last_step_is_the_code(fitted):
    maps, _ = grown(30, 4)
    steps = fitted.encode_steps(maps)
    assert steps.shape == (30, 4, 16)
    assert steps.dtype == np.int8
    assert set(np.unique(steps)) == {-1, 1}
    np.testing.assert_array_equal(steps[:, -1], fitted.encode(maps))


def test_later_codes_rank_better_and_all_beat_random_projections(fitted, lab):
    queries, yq = grown(80, 5)
    database, yd = grown(240, 6)
    relevant = yq @ yd.T > 0
    centre = database.mean(0)
    w = np.random.default_rng(0).standard_normal((queries[0].size, 16))
    q, b = (np.where((m - centre).reshape(len(m), -1) @ w >= 0, 1, -1) for m in (queries, database))
    lsh = lab.mean_ap((16 - q @ b.T) / 2, relevant)
    q, b = (fitted.encode_steps(m).astype(int) for m in (queries, database))
    by_step = [lab.mean_ap((16 - q[:, t] @ b[:, t].T) / 2, relevant) for t in range(4)]
    assert min(by_step) > lsh
    assert by_step[-1] > by_step[0]


def test_save_and_load_reproduce_the_codes_of_every_step(fitted, tmp_path):
    maps, _ = grown(20, 7)
    fitted.save(tmp_path / "dph.pt")
    again = load(tmp_path / "dph.pt")
    np.testing.assert_array_equal(again.encode_steps(maps), fitted.encode_steps(maps))


def test_blocks_do_not_change_the_regions():
    maps, _ = grown(300, 8)
    method = DPH()
    np.testing.assert_allclose(method.prepare(maps)[280:], method.prepare(maps[280:]), rtol=1e-6)


def test_bad_input_is_refused_with_the_remedy(fitted):
    with pytest.raises(ValueError, match="steps=0"):
        DPH(steps=0)
    with pytest.raises(ValueError, match=r"\(8, 5\).*kind 'maps'"):
        DPH(bits=8).fit(Split(np.random.default_rng(0).random((8, 5)), np.arange(8) % 2))
    with pytest.raises(ValueError, match=r"3, 3, 16.*\(2, 3, 4, 16\)"):
        fitted.encode(np.zeros((2, 3, 4, 16), np.float32))
    with pytest.raises(NotFitted):
        DPH().encode_steps(np.zeros((2, 3, 3, 16), np.float32))
