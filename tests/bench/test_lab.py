"""The lab of the chapters: what its runs share, and what can be replaced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cbir_lite.bench import Lab, Setting
from cbir_lite.datasets import Split
from cbir_lite.methods import registry


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(Setting("digits", "pixels"), bits=16, epochs=4, seeds=(0, 1))


def test_systems_get_the_labs_bits_and_epochs_unless_given(lab: Lab) -> None:
    assert lab.create("dpsh").params["epochs"] == 4
    assert lab.create("dpsh", epochs=2).params["epochs"] == 2
    assert lab.create("itq").bits == 16
    assert lab.create(registry.get("dpsh"), bits=8).bits == 8
    assert "4 epochs" in lab.describe()


def test_runs_are_one_a_seed_and_beat_chance(lab: Lab) -> None:
    ap = lab.runs("dsh_liu2016")
    assert ap.shape == (2, 200)
    assert (ap[0] != ap[1]).any()
    assert ap.mean() > 0.3


def test_labels_can_be_replaced(lab: Lab) -> None:
    n = len(lab.setting.frozen.train)
    random = np.eye(10, dtype=np.uint8)[np.random.default_rng(0).integers(0, 10, n)]
    told = lab.ap(lab.train("greedyhash")).mean()
    misled = lab.ap(lab.train("greedyhash", labels=random)).mean()
    assert misled < told - 0.2


def test_replaced_labels_reach_the_rows_that_show_theirs() -> None:
    class Semi(registry.get("dpsh")):  # type: ignore[misc]
        supervision = "semi-supervised"

        def fit(self, split: Split, **_: object) -> Semi:
            self.split = split
            return self

    lab = Lab(Setting("digits", "pixels"), bits=8)
    words = np.random.default_rng(0).random((10, 3))
    options = {"labelled_fraction": 0.5, "semantics": words}
    own = lab.train(Semi, options=options).split
    labels = np.roll(own.labels, 1, axis=1)
    split = lab.train(Semi, labels=np.roll(lab.setting.labels[own.indices], 1, axis=1),
                      options=options).split  # fmt: skip
    assert 0 < split.labelled.sum() < len(split)
    np.testing.assert_array_equal(split.labelled, own.labelled)
    np.testing.assert_array_equal(split.labels, labels)
    np.testing.assert_allclose(split.semantics, words, rtol=1e-6)


def test_relaxed_outputs_are_of_what_the_system_reads() -> None:
    class Darkness(registry.get("lsh")):  # type: ignore[misc]
        reads = "images"

        def embed(self, x: np.ndarray) -> np.ndarray:
            assert x.shape[1:] == (8, 8, 1)
            return x.reshape(len(x), -1).astype(np.float32)

    lab = Lab(Setting("digits", "hog"), bits=8)
    images = lab.setting.image_set.images.reshape(1797, -1).astype(np.float32)
    frozen = lab.setting.frozen
    expected = lab.ranked(images[frozen.query], images[frozen.database])
    np.testing.assert_array_equal(lab.relaxed(Darkness()), expected)


def test_real_valued_outputs_rank_by_cosine(lab: Lab) -> None:
    method = lab.train("dpsh")
    q, d = (method.embed(lab.setting.rows(p)) for p in ("query", "database"))
    cosine = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (
        d / np.linalg.norm(d, axis=1, keepdims=True)
    ).T
    labels = lab.setting.labels
    relevant = (
        labels[lab.setting.frozen.query].astype(int) @ labels[lab.setting.frozen.database].T > 0
    )
    for i in (0, 17):
        hits = relevant[i][np.argsort(-cosine[i])]
        naive = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
        assert lab.relaxed(method)[i] == pytest.approx(naive, abs=1e-4)


def test_chance_is_the_mean_over_random_orders(lab: Lab) -> None:
    labels, frozen = lab.setting.labels, lab.setting.frozen
    relevant = labels[frozen.query[:20]].astype(int) @ labels[frozen.database].T > 0
    rng, n = np.random.default_rng(0), len(frozen.database)
    drawn = []
    for _ in range(200):
        hits = relevant[:, rng.permutation(n)]
        precision = hits.cumsum(1) / np.arange(1, n + 1)
        drawn.append((precision * hits).sum(1) / hits.sum(1))
    assert lab.chance()[:20] == pytest.approx(np.mean(drawn, 0), abs=0.01)


def test_queries_without_anything_relevant_are_left_out() -> None:
    setting = Setting("digits", "pixels")
    labels, frozen = setting.labels, setting.frozen
    keep = frozen.database[labels[frozen.database, 0] == 0]  # no zeros are left to find
    lab = Lab(Setting(replace(frozen, database=keep), "pixels"), bits=16)
    expected = int((labels[frozen.query, 0] == 0).sum())
    assert len(lab.ap(lab.train("lsh"))) == len(lab.chance()) == expected < len(frozen.query)
