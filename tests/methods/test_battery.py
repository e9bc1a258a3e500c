"""What every system must do, whatever it is. The registry finds the systems; none is named here.

``smoke`` fits (digits, 32 bits, enough epochs to learn) and ``short`` fits (a moment, for
determinism, code lengths and errors) are made once a run, see ``conftest.py``.
"""

from __future__ import annotations

import inspect
import itertools
import random

import numpy as np
import pytest
import torch

from cbir_lite.datasets import LabelsHidden, Split
from cbir_lite.datasets.split import SHOWS
from cbir_lite.methods import deep, registry
from cbir_lite.methods.base import NotFitted, load
from cbir_lite.methods.deep import DeepMethod

NAMES = registry.names()
DEEP = [n for n in NAMES if issubclass(registry.get(n), DeepMethod)]
REFERENCES = {n for n in NAMES if registry.cards()[n.split("/")[0]].tier == "baseline"}
"""Baselines are the yardstick (one is random codes), so they need not beat LSH."""

every_system = pytest.mark.parametrize("name", NAMES)


def is_random(name: str) -> bool:
    """Whether randomness goes into the system: deep ones always, others if they read a seed."""
    cls = registry.get(name)
    return issubclass(cls, DeepMethod) or ".seed" in inspect.getsource(inspect.getmodule(cls))


def as_floats(x: np.ndarray) -> np.ndarray:
    """A copy that can hold NaN: images, too, may come as numbers that are not finite."""
    return x.astype(np.float32 if x.dtype == np.uint8 else x.dtype)


# -- what comes out --------------------------------------------------------------------------------


@every_system
def test_codes_are_signs_and_descriptors_are_finite_floats(name, lab):
    method = lab.smoke_fit(name).method
    for side, n in zip(lab.sides(method), (150, 600), strict=True):
        assert len(side) == n
        if method.descriptor == "binary":
            assert side.dtype == np.int8
            assert side.shape == (n, 32)
            assert set(np.unique(side)) == {-1, 1}
        elif method.descriptor == "real":
            assert side.dtype == np.float32
            assert side.ndim == 2
            assert np.isfinite(side).all()
    distances = lab.distances(method)
    assert distances.shape == (150, 600)
    assert np.isfinite(distances).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in REFERENCES])
def test_ranks_better_than_random_projections(name, lab):
    fit = lab.smoke_fit(name)
    assert lab.mean_ap(lab.distances(fit.method), lab.relevance()) > lab.lsh_map()


@every_system
def test_one_row_at_a_time_gives_the_codes_of_the_batch(name, lab, digits):
    method = lab.smoke_fit(name).method
    x = digits.query.x(method.reads)[:4]
    together = method.encode_query(x)
    single = np.concatenate([method.encode_query(x[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(single, together, rtol=1e-4, atol=1e-5)


@every_system
def test_every_usual_code_length_works(name, lab):
    for bits in (12, 16, 24, 48, 64):
        method = lab.short_fit(name, bits)
        queries, _ = lab.sides(method)
        if method.descriptor == "binary":
            assert queries.shape == (150, bits)
        assert np.isfinite(lab.distances(method)).all()


# -- how it learns ---------------------------------------------------------------------------------


@every_system
def test_fit_leaves_global_random_states_and_its_input_alone(name, lab):
    fit = lab.smoke_fit(name)
    assert fit.touched == []
    assert not fit.changed_input


@pytest.mark.parametrize("name", DEEP)
def test_gradient_reaches_every_trainable_parameter(name, lab):
    assert lab.smoke_fit(name).without_gradient == []


@pytest.mark.parametrize("name", DEEP)
def test_every_epoch_logs_finite_terms(name, lab):
    method = lab.smoke_fit(name).method
    assert len(method.history_) == method.epochs
    assert all(epoch for epoch in method.history_)
    assert np.isfinite([v for epoch in method.history_ for v in epoch.values()]).all()


@every_system
def test_same_seed_same_codes_other_seed_other_codes(name, lab):
    first = lab.short_fit(name)
    # Only the method's own seed may count: the global ones differ from those of the first fit.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    try:
        again = lab.create(name, lab.SHORT, bits=16, seed=0)
        again.fit(lab.make_split(again, lab.SHORT_ROWS))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
    for a, b in zip(lab.sides(first), lab.sides(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = lab.short_fit(name, seed=1)
    same = all(
        np.array_equal(a, b) for a, b in zip(lab.sides(first), lab.sides(other), strict=True)
    )
    assert same is not is_random(name)


@every_system
def test_labels_matter_exactly_where_they_are_declared(name, lab):
    first = lab.short_fit(name)
    other = lab.create(name, lab.SHORT, bits=16, seed=0)
    split = lab.make_split(other, lab.SHORT_ROWS, shuffled=True)
    other.fit(split)
    same = np.array_equal(lab.sides(first)[0], lab.sides(other)[0])
    hidden = SHOWS[other.sees] == "none"
    assert same is hidden
    if hidden:
        with pytest.raises(LabelsHidden):
            split.labels  # noqa: B018


@pytest.mark.parametrize("name", [n for n in NAMES if registry.create(n).sees == "semi-supervised"])
def test_labels_of_rows_that_are_not_labelled_do_not_matter(name, lab):
    first = lab.short_fit(name)
    other = lab.create(name, lab.SHORT, bits=16, seed=0)
    split = lab.make_split(other, lab.SHORT_ROWS)
    labels = lab.load().train.y[: lab.SHORT_ROWS].copy()
    hidden = ~split.labelled
    labels[hidden] = np.roll(labels[hidden], 1, axis=1)
    other.fit(
        Split(
            split.x,
            labels,
            split.supervision,
            labelled=split.labelled,
            views=split.views,
            other=split.other,
            parts=split.parts,
        )
    )
    for a, b in zip(lab.sides(first), lab.sides(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if registry.get(n).views or registry.get(n).modality]
)
def test_a_system_says_which_views_or_pairs_it_misses(name, lab):
    method = lab.create(name, lab.SHORT)
    split = lab.make_split(method, 32)
    labels = None if split.n_classes is None else split.labels
    mask = split.labelled if split.supervision == "semi-supervised" else None
    needed = method.views[0] if method.views else "other"
    with pytest.raises(ValueError, match=needed):
        method.fit(Split(split.x, labels, split.supervision, labelled=mask))


@pytest.mark.parametrize("name", [n for n in NAMES if registry.get(n).modality])
def test_the_second_modality_is_checked_too(name, lab, digits):
    method = lab.short_fit(name)
    other = digits.query.other(method.modality, method.other_reads)[:5].copy()
    with pytest.raises(ValueError, match=r"\d"):
        method.encode_other(other[:, :-1])
    other[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity, first in row 3"):
        method.encode_other(other)


@pytest.mark.parametrize("name", DEEP)
def test_an_interrupted_run_continues_to_the_same_codes(name, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", -1.0)
    checkpoint = tmp_path / "run.pt"

    def create():
        return lab.create(name, {**lab.SHORT, "epochs": 4}, bits=16)

    split = lab.make_split(create(), lab.SHORT_ROWS)
    whole = create().fit(split)
    broken = create()
    start_epoch = broken.start_epoch

    def interrupt(epoch, data):
        if epoch == 2:
            raise KeyboardInterrupt
        start_epoch(epoch, data)

    broken.start_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        broken.fit(split, checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = create().fit(split, checkpoint=checkpoint)
    for a, b in zip(lab.sides(whole), lab.sides(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.history_ == whole.history_


# -- keeping it ------------------------------------------------------------------------------------


@every_system
def test_saved_and_loaded_it_represents_both_sides_the_same(name, lab, tmp_path):
    method = lab.smoke_fit(name).method
    method.save(tmp_path / "system.pt")
    loaded = load(tmp_path / "system.pt")
    assert type(loaded) is type(method)
    assert loaded.params == method.params
    for a, b in zip(lab.sides(method), lab.sides(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(lab.distances(method), lab.distances(loaded))


# -- wrong use -------------------------------------------------------------------------------------


@every_system
def test_wrong_width_and_not_finite_inputs_are_refused(name, lab, digits):
    method = lab.short_fit(name)
    x = digits.query.x(method.reads)[:5].copy()
    broken = [as_floats(x), as_floats(x)]
    broken[0][3, ..., 0] = np.nan
    broken[1][3, ..., 0] = np.inf
    with pytest.raises(ValueError, match=r"\d"):
        method.encode_query(x[..., :-1])
    for bad in broken:
        with pytest.raises(ValueError, match="NaN or infinity"):
            method.encode_query(bad)
    for bad in (x[..., :-1], *broken):
        with pytest.raises(ValueError, match=r"\d"):
            method.encode_database(bad)


@every_system
def test_training_data_that_is_not_finite_are_refused(name, lab):
    method = lab.create(name, lab.SHORT)
    split = lab.make_split(method, 32)
    x = as_floats(split.x)
    x[7, ..., 0] = np.nan
    labels = None if split.n_classes is None else split.labels
    mask = split.labelled if split.supervision == "semi-supervised" else None
    rest = {"labelled": mask, "database": split.database}
    rest |= {"views": split.views, "other": split.other, "parts": split.parts}
    with pytest.raises(ValueError, match="NaN or infinity, first in row 7"):
        method.fit(Split(x, labels, split.supervision, **rest))


@every_system
def test_before_fit_it_says_so(name, lab, digits, tmp_path):
    method = lab.create(name, lab.SHORT)
    x = digits.query.x(method.reads)[:5]
    with pytest.raises(NotFitted, match="fit"):
        method.encode_query(x)
    with pytest.raises(NotFitted, match="fit"):
        method.encode_database(x)
    with pytest.raises(NotFitted, match="fit"):
        method.save(tmp_path / "system.pt")
    assert not (tmp_path / "system.pt").exists()


@every_system
@pytest.mark.parametrize("bits", [0, -8, 2.5, 100_000])
def test_impossible_code_lengths_are_refused(name, bits):
    with pytest.raises(ValueError, match="bits"):
        registry.create(name, bits=bits)


# -- the yardstick itself --------------------------------------------------------------------------


def test_expected_ap_is_the_mean_over_all_orders_of_ties(lab):
    distance = np.array([0, 0, 1, 1, 1, 2])
    relevant = np.array([True, False, True, False, True, False])
    values = []
    for order in itertools.permutations(range(6)):
        if (np.diff(distance[list(order)]) < 0).any():
            continue
        hits = relevant[list(order)]
        values.append((np.cumsum(hits) / np.arange(1, 7))[hits].mean())
    assert len(values) == 2 * 6
    assert lab.expected_ap(distance, relevant) == pytest.approx(np.mean(values), abs=1e-12)


def test_the_registry_found_systems_in_several_folders():
    assert len({c.folder for c in registry.cards().values()}) >= 2
    assert 0.2 < len(DEEP) / len(NAMES) <= 1
