"""The loop of the deep systems, on small systems whose losses are scripted here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cbir_lite.datasets import Split
from cbir_lite.methods import deep, registry
from cbir_lite.methods.base import NotFitted, as_float32, load, require_finite
from cbir_lite.methods.deep import Batch, DeepMethod, TrainingData, shares_label


@dataclass(kw_only=True, eq=False)
class Noisy(DeepMethod):
    """Regression of labels from noisy outputs, with memory and a running weight of its own."""

    fail_at: int = -1
    """Epoch in which the run is interrupted; not a hyper-parameter of interest."""

    epochs: int = 6
    batch_size: int = 32
    width: int = 16
    bits: int = 10

    @property
    def params(self):
        return {k: v for k, v in super().params.items() if k != "fail_at"}

    def start_fit(self, data: TrainingData) -> None:
        self.memory_ = {"seen": torch.zeros(len(data))}
        self.batches: list[Tensor] = []
        self.rates: list[float] = []

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        if epoch == self.fail_at:
            raise KeyboardInterrupt
        self.rates.append(self._optimisers[0].param_groups[0]["lr"])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        z = self.network_(batch.x)
        if not self.network_.training:
            return {"fit": (z - batch.labels).square().mean()}
        self.memory_["seen"][batch.index] += 1
        self.batches.append(batch.index)
        noise = torch.randn_like(z) * self.memory_["seen"][batch.index, None]
        return {"fit": (z + noise - batch.labels).square().mean(), "size": 0.01 * z.square().mean()}


def split(digits, rows=200):
    return Split(digits.train.pooled[:rows], digits.train.y[:rows])


def weights(method):
    return {k: v.clone() for k, v in method.network_.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert torch.equal(a[k], b[k]), k


# -- interruption ----------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_a_run_interrupted_after_any_epoch_continues_to_the_same_network(
    digits, tmp_path, monkeypatch, validation
):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", -1.0)
    whole = Noisy(validation=validation).fit(split(digits))
    for k in (1, 3, 5):
        path = tmp_path / f"{k}.pt"
        with pytest.raises(KeyboardInterrupt):
            Noisy(validation=validation, fail_at=k).fit(split(digits), checkpoint=path)
        assert path.exists()
        resumed = Noisy(validation=validation).fit(split(digits), checkpoint=path)
        assert len(resumed.rates) == 6 - k
        assert resumed.rates == whole.rates[k:]
        assert_same(weights(resumed), weights(whole))
        assert_same(resumed.memory_, whole.memory_)
        assert resumed.history_ == whole.history_
        x = digits.query.pooled
        np.testing.assert_array_equal(resumed.encode(x), whole.encode(x))
        assert not path.exists()


def test_the_best_network_before_an_interruption_is_not_forgotten(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", -1.0)
    losses = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0]

    def validate(self, held_out):
        return losses[len(self.history_)]

    monkeypatch.setattr(Noisy, "_validate", validate)
    whole = Noisy(validation=0.2, patience=9).fit(split(digits))
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        Noisy(validation=0.2, patience=9, fail_at=4).fit(split(digits), checkpoint=path)
    resumed = Noisy(validation=0.2, patience=9).fit(split(digits), checkpoint=path)
    assert_same(weights(resumed), weights(whole))
    assert_same(weights(whole), weights(Noisy(validation=0.2, patience=1).fit(split(digits))))


def test_checkpoints_are_written_only_when_the_time_has_come(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", 1e9)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        Noisy(fail_at=5).fit(split(digits), checkpoint=path)
    assert not path.exists()


def test_a_checkpoint_of_other_settings_is_refused_by_name(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        Noisy(fail_at=2).fit(split(digits), checkpoint=path)
    with pytest.raises(ValueError, match=r"run\.pt belongs to another run"):
        Noisy(lr=0.5).fit(split(digits), checkpoint=path)
    assert path.exists()


def test_a_checkpoint_of_other_data_is_refused(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        Noisy(fail_at=2).fit(split(digits), checkpoint=path)
    other = Split(digits.train.pooled[:200], digits.train.y[:200][::-1])
    with pytest.raises(ValueError, match="or to other training data"):
        Noisy().fit(other, checkpoint=path)
    Noisy().fit(split(digits), checkpoint=path)
    assert not path.exists()


def test_fitting_again_starts_afresh(digits):
    once = Noisy().fit(split(digits))
    twice = Noisy()
    twice.fit(split(digits, 100)).fit(split(digits))
    assert_same(weights(once), weights(twice))
    assert once.history_ == twice.history_


# -- validation ------------------------------------------------------------------------------------


def test_stopping_waits_for_patience_and_keeps_the_best_network(digits, monkeypatch):
    losses = [5.0, 4.0, 2.0, 3.0, 2.5, 2.0, 1.0]
    seen = []

    def validate(self, held_out):
        seen.append(weights(self))
        return losses[len(seen) - 1]

    monkeypatch.setattr(Noisy, "_validate", validate)
    method = Noisy(epochs=7, validation=0.25, patience=3).fit(split(digits))
    # Three epochs without a loss below 2.0: the 1.0 of epoch 6 is never reached.
    assert [e["validation"] for e in method.history_] == losses[:6]
    assert_same(weights(method), seen[2])
    assert not torch.equal(seen[2]["hash_layer.weight"], seen[5]["hash_layer.weight"])


def test_held_out_rows_take_no_part_in_training_and_are_judged_in_evaluation_mode(digits):
    held = []

    @dataclass(kw_only=True, eq=False)
    class Watched(Noisy):
        def _validate(self, held_out):
            held.append(held_out)
            return super()._validate(held_out)

    method = Watched(validation=0.25).fit(split(digits))
    assert len(held[0]) == 50
    assert len(method.memory_["seen"]) == 150
    rows = {r.tobytes() for r in held[0].x.numpy()}
    order = torch.randperm(200, generator=method._generator(-1))
    trained = {r.tobytes() for r in digits.train.pooled[:200][order[50:]]}
    assert not rows & trained
    x, y = held[0].x, held[0].y
    final = {k: v for k, v in enumerate(method.history_)}
    best = min(final, key=lambda k: final[k]["validation"])
    expected = float((method.outputs(x) - y).square().mean())
    assert final[best]["validation"] == pytest.approx(expected, rel=1e-5)


# -- epochs and batches ----------------------------------------------------------------------------


def test_every_epoch_sees_every_row_once_in_another_order(digits):
    method = Noisy(epochs=3, batch_size=64).fit(split(digits))
    assert [len(b) for b in method.batches] == [64, 64, 64, 8] * 3
    epochs = [torch.cat(method.batches[4 * e : 4 * e + 4]) for e in range(3)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(200))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


@pytest.mark.parametrize(("rows", "sizes"), [(65, [64]), (66, [64, 2]), (64, [64]), (3, [3])])
def test_a_last_batch_of_one_row_is_left_out(digits, rows, sizes):
    method = Noisy(epochs=1, batch_size=64).fit(split(digits, rows))
    assert [len(b) for b in method.batches] == sizes


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_size": 1}, r"batch_size=1 must be a whole number of at least 2"),
        ({"batch_size": 0}, r"batch_size=0 must"),
        ({"batch_size": 32.0}, r"batch_size=32\.0 must"),
        ({"batch_size": True}, r"batch_size=True must"),
        ({"epochs": -1}, r"epochs=-1 must be a whole number of at least 0"),
        ({"epochs": 1.5}, r"epochs=1\.5 must"),
        ({"validation": 1.0}, r"validation=1\.0 must be in \[0, 1\).*held out: use 0\.1"),
        ({"validation": 2.0}, r"validation=2\.0 must"),
        ({"validation": -0.1}, r"validation=-0\.1 must"),
        ({"validation": math.nan}, r"validation=nan must"),
    ],
)
def test_values_with_which_nothing_would_be_trained_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        Noisy(**params)


@pytest.mark.parametrize(("rows", "validation"), [(1, 0.0), (2, 0.5), (10, 0.99)])
def test_a_training_set_without_a_batch_is_refused(digits, rows, validation):
    message = (
        rf"Noisy: epoch 0 had no batch.*{1 if rows < 10 else 0} training rows after validation="
    )
    with pytest.raises(ValueError, match=message):
        Noisy(validation=validation).fit(split(digits, rows))


def test_no_epochs_leave_the_network_as_it_was_built(digits):
    method = Noisy(epochs=0).fit(split(digits, 40))
    assert method.history_ == []
    assert method.encode(digits.query.pooled).shape == (150, 10)


def test_the_optimiser_has_the_weight_decay_and_the_rate_of_the_system():
    weight = nn.Parameter(torch.ones(3))
    (group,) = Noisy(weight_decay=0.03, lr=0.02).adam([weight]).param_groups
    assert (group["weight_decay"], group["lr"]) == (0.03, 0.02)
    (group,) = Noisy(weight_decay=0.03).adam([weight], lr=0.5).param_groups
    assert (group["weight_decay"], group["lr"]) == (0.03, 0.5)


def test_history_holds_the_mean_of_each_term(digits):
    values = iter([1.0, 2.0, 6.0, 10.0])

    @dataclass(kw_only=True, eq=False)
    class Scripted(Noisy):
        def loss(self, batch):
            term = 0.0 * self.network_(batch.x).sum() + next(values)
            return {"a": term, "b": 10 * term}

    method = Scripted(epochs=2, batch_size=100).fit(split(digits))
    assert method.history_ == [{"a": 1.5, "b": 15.0}, {"a": 8.0, "b": 80.0}]


def test_learning_rate_falls_by_half_a_cosine_to_a_hundredth(digits):
    rates = Noisy(epochs=10, lr=0.02).fit(split(digits, 40)).rates
    expected = [0.02 * (0.01 + 0.99 * (1 + math.cos(math.pi * e / 10)) / 2) for e in range(10)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 0.02


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_by_name(digits, bad):
    @dataclass(kw_only=True, eq=False)
    class Exploding(Noisy):
        def loss(self, batch):
            terms = super().loss(batch)
            return {**terms, "quantization": terms["fit"] * (bad if len(self.history_) == 2 else 0)}

    with pytest.raises(FloatingPointError, match=r"'quantization' became (nan|inf) in epoch 2"):
        Exploding().fit(split(digits))


# -- what a system may see -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unsupervised", "self-supervised", "pseudo-supervised"])
def test_without_labels_batches_have_none(digits, kind):
    class Blind(Noisy):
        supervision = kind

        def loss(self, batch):
            with pytest.raises(ValueError, match="no labels"):
                batch.labels  # noqa: B018
            return {"size": self.network_(batch.x).square().mean()}

    method = Blind(epochs=1).fit(Split(digits.train.pooled[:64], supervision=kind))
    assert method.n_classes_ is None


def test_similarity_is_one_where_a_label_is_shared():
    y = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0.0]])
    s = shares_label(y, y)
    for i in range(4):
        for j in range(4):
            assert s[i, j] == float(any(y[i, c] and y[j, c] for c in range(3)))
    assert torch.equal(Batch(y, y, torch.arange(4)).similarity, s)


def test_prepare_is_applied_once_to_raw_inputs_and_never_to_training_data(digits):
    @dataclass(kw_only=True, eq=False)
    class Halves(Noisy):
        def prepare(self, x):
            return np.concatenate([x[:, :32], x[:, :1] * 0 + len(x[0])], axis=1)

        def start_epoch(self, epoch, data):
            super().start_epoch(epoch, data)
            assert data.x.shape == (100, 33)
            assert self.outputs(data.x).shape == (100, 10)

    method = Halves(epochs=2).fit(split(digits, 100))
    assert method.input_shape_ == [64]
    z = method.embed(digits.train.pooled[:100])
    prepared = torch.from_numpy(method.prepare(digits.train.pooled[:100]))
    torch.testing.assert_close(torch.from_numpy(z), method.outputs(prepared))
    with pytest.raises(ValueError, match="fitted on inputs"):
        method.encode(prepared.numpy())


def test_outputs_in_small_blocks_are_those_of_one_pass_and_leave_the_mode(digits):
    method = Noisy(epochs=1).fit(split(digits, 64))
    method.network_.train()
    whole = method.outputs(digits.query.pooled)
    torch.testing.assert_close(method.outputs(digits.query.pooled, batch_size=7), whole)
    assert method.network_.training
    assert not whole.requires_grad
    with pytest.raises(NotFitted, match="fit"):
        Noisy().outputs(digits.query.pooled)


def test_maps_go_through_a_network_in_blocks_of_their_own_size(digits, monkeypatch):
    monkeypatch.setattr(deep, "MAPS_AT_ONCE", 4)
    method = Noisy(epochs=1).fit(split(digits, 64))
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1)

    x = torch.arange(9 * 12.0).reshape(9, 2, 2, 3)
    assert torch.equal(method._in_blocks(Watched(), x), x.flatten(1))
    assert sizes == [4, 4, 1]
    sizes.clear()
    method._in_blocks(Watched(), x, batch_size=3)
    method._in_blocks(Watched(), x.flatten(1))
    assert sizes == [3, 3, 3, 9]


def test_not_finite_rows_are_counted_from_the_start_of_the_input(digits):
    method = Noisy(epochs=1).fit(split(digits, 64))
    x = digits.query.pooled.copy()
    x[23, 4] = np.inf
    with pytest.raises(ValueError, match=r"row 23$"):
        method.outputs(x, batch_size=10)


# -- images ----------------------------------------------------------------------------------------


def test_images_go_through_the_small_conv_net(digits, tmp_path):
    method = registry.create("dsh_liu2016", bits=12, epochs=2, batch_size=50, width=32)
    method.fit(Split(digits.train.images[:200], digits.train.y[:200]))
    convolutions = [m for m in method.network_.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 64, 128]
    codes = method.encode(digits.query.images)
    assert codes.shape == (150, 12)
    # Batch statistics are frozen: a code does not depend on the other images of the batch.
    np.testing.assert_array_equal(method.encode(digits.query.images[5:6])[0], codes[5])
    method.save(tmp_path / "conv.pt")
    np.testing.assert_array_equal(load(tmp_path / "conv.pt").encode(digits.query.images), codes)
    with pytest.raises(ValueError, match="fitted on inputs"):
        method.encode(digits.query.images[:, :6])


def test_a_file_that_is_no_system_is_refused_by_name(tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(b"not a system")
    with pytest.raises(ValueError, match=r"other\.pt is not a system"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.pt")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_of_any_precision_must_be_finite(dtype, bad):
    x = np.array([[0, -1], [65504, 1e-7], [2, 3]], dtype)
    require_finite(x, "System")
    x[2, 1] = bad
    with pytest.raises(ValueError, match="System: the input holds NaN or infinity, first in row 7"):
        require_finite(x, "System", 5)


def test_every_half_precision_number_is_converted_exactly_into_a_copy():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 4)
    x.flags.writeable = False
    found = as_float32(x[:, ::2])
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, x[:, ::2].astype(np.float32))
    own = np.ones((2, 3), np.float32)
    as_float32(own)[:] = 0
    assert own.all()
