"""The loop of every deep system, written once.

A system overrides few hooks: :meth:`DeepMethod.build` for its network, :meth:`DeepMethod.loss`
(named terms, each logged), and where its algorithm asks for it :meth:`DeepMethod.start_fit`,
:meth:`DeepMethod.start_epoch` (alternating and discrete optimisation) or
:meth:`DeepMethod.training_step` with :meth:`DeepMethod.optimisers` (adversarial training, policy
gradients).
"""

from __future__ import annotations

import hashlib
import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from cbir_lite._cache import atomic_write
from cbir_lite.datasets import Split
from cbir_lite.datasets.split import SHOWS
from cbir_lite.methods.base import Codes, Descriptors, Method, is_whole, require_finite, sign
from cbir_lite.methods.networks import HashNetwork

CHECKPOINT_SECONDS = 10.0
MAPS_AT_ONCE = 256
"""Rows of maps or images in one block, which are much larger than pooled features."""


@dataclass(frozen=True)
class Batch:
    """Some rows of the training split: x (B, ...), y multi-hot float (B, C) or None, index (B,).

    ``views`` (B, V, ...) are the rows seen through the augmentations the system declares, if any;
    ``other`` (B, ...) their second modality, if the system is cross-modal.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    views: Tensor | None = None
    other: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """Multi-hot float labels (B, C); only supervised systems have them."""
        if self.y is None:
            raise ValueError("this system is unsupervised: its batches carry no labels")
        return self.y

    @property
    def similarity(self) -> Tensor:
        """s (B, B): 1 where two rows share a label, else 0."""
        return shares_label(self.labels, self.labels)


def as_read(other: NDArray[Any]) -> NDArray[Any]:
    """Rows of the second modality as networks read them: float32, but maps in their own type."""
    return other if other.ndim == 4 else np.asarray(other, np.float32)


def shares_label(a: Tensor, b: Tensor) -> Tensor:
    """s (n, m) float: 1 where multi-hot rows of ``a`` (n, C) and ``b`` (m, C) share a label."""
    return (a @ b.T).sign_()


def _run_of(split: Split, labels: NDArray[Any] | None) -> str:
    """What tells the training data of two runs apart: rows, some of their values, labels shown."""
    some = np.linspace(0, len(split) - 1, min(64, len(split))).astype(int)
    digest = hashlib.sha256(str(split.x.shape).encode())
    for part in (split.indices, split.x[some], labels):
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainingData:
    """The whole training split as tensors: x (n, ...) and, where there are any, y (n, C), views
    (n, V, ...), other (n, ...) and the semantics of the classes (C, k).
    """

    x: Tensor
    y: Tensor | None
    views: Tensor | None = None
    other: Tensor | None = None
    semantics: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        """The rows of ``index``; its positions are those in this data."""
        rows = self.rows(index)
        return Batch(rows.x, rows.y, index, rows.views, rows.other)

    def rows(self, index: Tensor) -> TrainingData:
        """The data of the rows of ``index``."""
        parts = (self.y, self.views, self.other)
        y, views, other = (None if t is None else t[index] for t in parts)
        return TrainingData(self.x[index], y, views, other, self.semantics)


@dataclass(kw_only=True, eq=False)
class DeepMethod(Method):
    """A system trained by gradient descent in mini-batches.

    ``patience`` with ``validation`` > 0 stops when the loss on a held-out part of the training
    split (never the queries) has not fallen for that many epochs, and keeps the best network.
    ``history_`` holds the mean of every loss term of each epoch.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    width: int = 512
    dropout: float = 0.2
    validation: float = 0.0
    patience: int = 5

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values with which nothing would be trained."""
        super().__post_init__()
        if not is_whole(self.epochs) or self.epochs < 0:
            raise ValueError(f"epochs={self.epochs!r} must be a whole number of at least 0")
        if not is_whole(self.batch_size) or self.batch_size < 2:
            raise ValueError(
                f"batch_size={self.batch_size!r} must be a whole number of at least 2: one row has "
                "no pairs and no batch statistics"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"validation={self.validation!r} must be in [0, 1), the share of the training rows "
                "that is held out: use 0.1 or 0.2, or 0 to train on all"
            )

    # -- hooks ---------------------------------------------------------------------------------

    def prepare(self, x: NDArray[Any]) -> NDArray[Any]:
        """What the network reads instead of raw inputs (n, ...): a fixed function of each row.

        Applied once to the training rows before ``build``, and to each block of later inputs.
        """
        return x

    def build(self, x: NDArray[Any], n_classes: int | None) -> nn.Module:
        """The network for training inputs like ``x``; calling it on a batch gives z (B, bits)."""
        return HashNetwork(x, self.width, self.bits, self.dropout)

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms whose sum is minimised, weights included."""

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One Adam over all trainable parameters, unless the system's algorithm needs others."""
        return [self.adam(self.network_.parameters())]

    def start_fit(self, data: TrainingData) -> None:
        """Before the first epoch: prepare ``memory_`` (tensors that belong to the algorithm)."""

    def start_epoch(self, epoch: int, data: TrainingData) -> None:
        """Before each epoch: discrete steps, schedules, pseudo labels."""

    def training_step(self, batch: Batch) -> dict[str, float]:
        """One optimisation step; returns the values of the loss terms."""
        terms = self.loss(batch)
        self._descend(sum(terms.values()), self._optimisers[0])
        return {k: float(v.detach()) for k, v in terms.items()}

    # -- helpers for systems -------------------------------------------------------------------

    def adam(self, parameters: Any, lr: float | None = None) -> torch.optim.Optimizer:
        """Adam with this system's learning rate and weight decay."""
        return torch.optim.Adam(
            [p for p in parameters if p.requires_grad],
            lr=self.lr if lr is None else lr,
            weight_decay=self.weight_decay,
            fused=True,
        )

    @staticmethod
    def _descend(loss: Any, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def outputs(self, x: Tensor | NDArray[Any], batch_size: int = 2048) -> Tensor:
        """z (n, bits) of inputs (n, ...) in blocks, in evaluation mode, without gradients.

        Arrays are raw inputs; tensors are rows of the training data, which are prepared already.
        """
        self._require_fit()
        return self._in_blocks(self.network_, x, batch_size)

    def _in_blocks(
        self, module: nn.Module, x: Tensor | NDArray[Any], batch_size: int = 2048
    ) -> Tensor:
        self._require_fit()
        raw = isinstance(x, np.ndarray)
        if raw:
            self._check_input(x)
        was_training = self.network_.training
        self.network_.eval()
        if x.ndim == 4:
            batch_size = min(batch_size, MAPS_AT_ONCE)
        parts = []
        with torch.inference_mode():
            for a in range(0, len(x), batch_size):
                block = np.require(x[a : a + batch_size], requirements=["C", "W"])
                if raw:
                    require_finite(block, type(self).__name__, a)
                    block = self.prepare(block)
                parts.append(module(torch.as_tensor(block)))
        self.network_.train(was_training)
        return torch.cat(parts).clone()

    def _check_input(self, x: Tensor | NDArray[Any]) -> None:
        if tuple(x.shape[1:]) != tuple(self.input_shape_):
            raise ValueError(
                f"{type(self).__name__} was fitted on inputs (n, "
                f"{', '.join(map(str, self.input_shape_))}) and got {tuple(x.shape)}"
            )

    # -- the loop ------------------------------------------------------------------------------

    def fit(
        self,
        split: Split,
        *,
        progress: bool = False,
        checkpoint: str | Path | None = None,
        **_: Any,
    ) -> Self:
        """Train on ``split``; the same seed gives the same codes.

        ``checkpoint`` names a file that is written every few seconds and from which an
        interrupted run of the same settings continues; it is removed at the end. Raises
        ``FloatingPointError`` naming the epoch and the loss term that stopped being finite, and
        ``ValueError`` if an epoch has no batch.
        """
        self._require_parts(split)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            x = self.prepare(split.x)
            labels = None if SHOWS[self.sees] == "none" else split.labels
            self.input_shape_ = list(split.x.shape[1:])
            self.n_classes_ = None if labels is None else int(labels.shape[1])
            self._split, self._run = split, _run_of(split, labels)
            self.network_ = self.build(x, self.n_classes_)
            train, held_out = self._hold_out(self._tensors(x, labels, split))
            self.history_: list[dict[str, float]] = []
            self.memory_: dict[str, Tensor] = {}
            self.start_fit(train)
            self._optimisers = self.optimisers()
            self._loop(train, held_out, progress, None if checkpoint is None else Path(checkpoint))
            del self._split, self._run, self._optimisers, self._best
            self.network_.eval()
        return self

    def _require_parts(self, split: Split) -> None:
        name = type(self).__name__
        if self.views and split.views is None:
            raise ValueError(
                f"{name} learns from views of its training images: give Split(views=...) of "
                + ", ".join(self.views)
            )
        if self.modality is not None and split.other is None:
            raise ValueError(
                f"{name} learns from pairs of image and {self.modality}: give Split(other=...)"
            )

    def _tensors(
        self, x: NDArray[Any], labels: NDArray[np.uint8] | None, split: Split
    ) -> TrainingData:
        seen = other = None
        if self.views and split.views is not None:
            flat = self.prepare(split.views.reshape(-1, *split.views.shape[2:]))
            seen = torch.from_numpy(np.array(flat)).unflatten(0, split.views.shape[:2])
        if self.modality is not None and split.other is not None:
            other = torch.from_numpy(np.require(as_read(split.other), requirements=["C", "W"]))
        y = None if labels is None else torch.from_numpy(np.array(labels, np.float32))
        words = None if split.semantics is None else torch.from_numpy(split.semantics.copy())
        return TrainingData(torch.from_numpy(np.ascontiguousarray(x)), y, seen, other, words)

    def _hold_out(self, data: TrainingData) -> tuple[TrainingData, TrainingData | None]:
        if not self.validation:
            return data, None
        order = torch.randperm(len(data), generator=self._generator(-1))
        cut = max(1, round(self.validation * len(data)))
        return data.rows(order[cut:]), data.rows(order[:cut])

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 100_003 + epoch + 1)

    def _batches(self, data: TrainingData, epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(data), generator=self._generator(epoch))
        for a in range(0, len(data), self.batch_size):
            index = order[a : a + self.batch_size]
            # A rest of one row has no pairs and no batch statistics.
            if len(index) > 1:
                yield data.batch(index)

    def _loop(
        self,
        data: TrainingData,
        held_out: TrainingData | None,
        progress: bool,
        checkpoint: Path | None,
    ) -> None:
        self._best: dict[str, Any] = {"loss": float("inf"), "epoch": -1, "network": {}}
        first = self._resume(checkpoint)
        written = time.monotonic()
        name = type(self).__name__
        bar = tqdm(range(first, self.epochs), desc=f"{name} {self.bits} bits", disable=not progress)
        for epoch in bar:
            # Everything random in an epoch follows from seed and epoch, so a resumed run is the
            # same run.
            torch.manual_seed(self.seed * 100_003 + epoch)
            self.network_.train()
            self._anneal(epoch)
            self.start_epoch(epoch, data)
            self.network_.train()
            sums: dict[str, float] = {}
            count = 0
            for batch in self._batches(data, epoch):
                terms = self.training_step(batch)
                # At once: a step later every term would be infected.
                self._check_finite(epoch, terms)
                for k, v in terms.items():
                    sums[k] = sums.get(k, 0.0) + v
                count += 1
            if not count:
                raise ValueError(
                    f"{name}: epoch {epoch} had no batch, so nothing was trained. There are "
                    f"{len(data)} training rows after validation={self.validation}: give more "
                    "rows, of several labels, or a smaller validation"
                )
            means = {k: v / count for k, v in sums.items()}
            if held_out is not None:
                means["validation"] = self._validate(held_out)
                if means["validation"] < self._best["loss"]:
                    state = {k: v.clone() for k, v in self.network_.state_dict().items()}
                    self._best = {"loss": means["validation"], "epoch": epoch, "network": state}
            self.history_.append(means)
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()})
            if held_out is not None and epoch - self._best["epoch"] >= self.patience:
                break
            if checkpoint is not None and time.monotonic() - written > CHECKPOINT_SECONDS:
                self._write_checkpoint(checkpoint, epoch)
                written = time.monotonic()
        if self._best["network"]:
            self.network_.load_state_dict(self._best["network"])
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def _anneal(self, epoch: int) -> None:
        """Half a cosine from the learning rate of each optimiser to a hundredth of it."""
        # Plain floats: a checkpoint holds the rates, and is read back as plain values only.
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / max(1, self.epochs)))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def _check_finite(self, epoch: int, terms: dict[str, float]) -> None:
        for k, v in terms.items():
            if not np.isfinite(v):
                raise FloatingPointError(
                    f"{type(self).__name__}: loss term {k!r} became {v} in epoch {epoch}; "
                    f"lower lr (now {self.lr})"
                )

    def _validate(self, held_out: TrainingData) -> float:
        self.network_.eval()
        with torch.no_grad():
            index = torch.arange(len(held_out))
            return float(sum(self.loss(held_out.batch(index)).values()))

    def _write_checkpoint(self, path: Path, epoch: int) -> None:
        with atomic_write(path) as temporary:
            torch.save(
                {
                    "params": self.params,
                    "run": self._run,
                    "epoch": epoch,
                    "network": self.network_.state_dict(),
                    "optimisers": [o.state_dict() for o in self._optimisers],
                    "memory": self.memory_,
                    "history": self.history_,
                    "best": self._best,
                },
                temporary,
            )

    def _resume(self, path: Path | None) -> int:
        if path is None or not path.exists():
            return 0
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["params"] != self.params or saved.get("run", self._run) != self._run:
            raise ValueError(
                f"{path} belongs to another run ({saved['params']}), or to other training data: "
                "remove it or name another file"
            )
        self.network_.load_state_dict(saved["network"])
        for optimiser, state in zip(self._optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.memory_ = saved["memory"]
        self.history_ = saved["history"]
        self._best = saved["best"]
        return int(saved["epoch"]) + 1

    # -- after training ------------------------------------------------------------------------

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Relaxed codes z float32 (n, bits), before the sign."""
        return self.outputs(x).numpy()

    def encode(self, x: NDArray[Any]) -> Codes:
        """sign(z), int8 (n, bits)."""
        codes: Codes = sign(self.outputs(x)).numpy()
        return codes

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        network = state.pop("network_", None)
        if network is not None:
            state["network_"] = network.state_dict()
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        network = state.pop("network_")
        super()._restore(state)
        # Two rows are enough to rebuild the layers; the statistics come with the state.
        images = any("convolutions" in k for k in network)
        x = np.zeros((2, *self.input_shape_), np.uint8 if images else np.float32)
        self.network_ = self.build(self.prepare(x), self.n_classes_)
        self.network_.load_state_dict(network)
        self.network_.eval()
