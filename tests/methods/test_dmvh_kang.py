"""Deep multi-view hashing: which unit sees which view, from the mask to the trained layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cbir_lite.datasets import Split
from cbir_lite.methods.cnn.dmvh_kang import parts, view_mask
from cbir_lite.methods.deep import Batch
from cbir_lite.methods.registry import create


def test_parts_are_as_equal_as_can_be():
    assert parts(10, 3) == [4, 3, 3]
    assert parts(4, 2) == [2, 2]


def test_mask_is_that_of_units_asked_one_by_one():
    inputs, outputs = [3, 2, 4], [2, 1, 3]
    owner = lambda sizes: [g for g, n in enumerate(sizes) for _ in range(n)]  # noqa: E731
    mask = view_mask(inputs, outputs)
    for i, a in enumerate(owner(inputs)):
        for j, b in enumerate(owner(outputs)):
            # Group 2 is the shared one, above as below.
            assert mask[i, j] == (b == 2 or a == b)
    first = view_mask([3, 2], outputs)
    torch.testing.assert_close(first, mask[:5])


def test_own_units_see_one_view_and_shared_units_all(lab, digits):
    method = lab.create("dmvh_kang", lab.SHORT)
    method.fit(lab.make_split(method, 128))
    net = method.network_
    x = torch.from_numpy(digits.query.pooled[:20])
    other = x.clone()
    # The first view is the upper half of the picture.
    other[:, :32] = x.flip(0)[:, :32]

    def hidden(v):
        h = net.standardise(v)
        found = []
        for layer in net.encoder[:-1]:
            h = layer(h).sigmoid()
            found.append(h)
        return found

    with torch.no_grad():
        for before, after in zip(hidden(x), hidden(other), strict=True):
            n = before.shape[1] // 4
            own = before[:, n : 2 * n], after[:, n : 2 * n]
            torch.testing.assert_close(*own)
            assert not torch.allclose(before[:, :n], after[:, :n])
            assert not torch.allclose(before[:, 2 * n :], after[:, 2 * n :])


def test_the_loss_is_the_sum_of_the_views_errors(lab, digits):
    method = lab.create("dmvh_kang", lab.SHORT)
    method.fit(lab.make_split(method, 128))
    net = method.network_
    x = torch.from_numpy(digits.train.pooled[[5, 60, 31, 8, 100, 77]])
    with torch.no_grad():
        found = float(method.loss(Batch(x, None, torch.arange(6)))["reconstruction"])
        target = net.standardise(x).double().numpy()
        rebuilt = net.rebuild((net(x) >= 0).float()).double().numpy()
    views = [sum((rebuilt[i, d] - target[i, d]) ** 2 for i in range(6) for d in v) for v in (
        range(32), range(32, 64)
    )]  # fmt: skip
    assert found == pytest.approx(sum(views) / (6 * 64), rel=1e-5)


def test_pretraining_teaches_every_layer_and_missing_connections_stay_so(lab):
    method = lab.smoke_fit("dmvh_kang").method
    before, after = method.memory_["pretraining"].T
    assert (after < 0.6 * before).all()
    assert method.history_[-1]["reconstruction"] < 0.95 * method.history_[0]["reconstruction"]
    for layer in method.network_.encoder[:-1]:
        assert (layer.mask == 0).any()
        assert (layer.W[layer.mask == 0] == 0).all()


def test_impossible_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="n_views=0"):
        create("dmvh_kang", n_views=0)
    with pytest.raises(ValueError, match="exceeds the 4 dimensions"):
        create("dmvh_kang", n_views=9).fit(
            Split(np.eye(4, dtype=np.float32), supervision="unsupervised")
        )
