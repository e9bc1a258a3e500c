"""Digits as features, maps and images; splits for any system; fits kept for the whole run."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cbir_lite.datasets import ImageSet, Split, as_multi_hot, labelled_mask
from cbir_lite.features import augment, handcrafted, widths
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method

SMOKE = {"epochs": 30, "batch_size": 64, "width": 128}
SHORT = {"epochs": 2, "batch_size": 64, "width": 32}
SHORT_ROWS = 128


@dataclass(frozen=True, eq=False)
class Part:
    """Some digits under every form a system may read: ``pooled``, ``maps``, ``stages``, ``images``;
    descriptors may stand beside them.
    """

    pooled: NDArray[np.float32]
    maps: NDArray[np.float32]
    images: NDArray[np.uint8]
    y: NDArray[np.uint8]

    @property
    def stages(self) -> NDArray[np.float32]:
        return handcrafted.pixel_stages(self.images)

    def other(self, modality: str, reads: str = "pooled") -> NDArray[np.float32]:
        """The second modality of each row: its dark strokes, or words that its class favours."""
        if modality == "sketch" and reads == "maps":
            return 16 * (self.maps > 8).astype(np.float32)
        if modality == "sketch":
            return (self.pooled > 0.5).astype(np.float32)
        random = np.random.default_rng(int(self.pooled.sum() * 1000) % 2**32)
        chance = np.random.default_rng(3).random((10, 40)) ** 3
        return (random.random((len(self.y), 40)) < chance[self.y.argmax(1)]).astype(np.float32)

    def x(self, reads: str) -> NDArray[Any]:
        first, *beside = reads.split("+")
        if not beside:
            return getattr(self, first)
        return np.concatenate([getattr(self, first), *(described(self, b) for b in beside)], 1)


@cache
def described(part: Part, name: str) -> NDArray[np.float32]:
    """A hand-crafted descriptor of the images of a part."""
    return handcrafted.describe(part.images, name, progress=False)


@dataclass(frozen=True)
class Digits:
    """500 training rows, 150 queries and a database of 600 rows, disjoint, in random order."""

    train: Part
    query: Part
    database: Part


@cache
def load() -> Digits:
    bunch = load_digits()
    images = bunch.images.astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(images))[:1250]

    def part(rows: NDArray[np.int64]) -> Part:
        square = images[rows]
        blocks = square.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
        # Like part detectors: the pixels of block p fire at position p, in channels of their own,
        # so the place matters and the mean over places is the picture.
        maps = np.zeros((len(rows), 16, 16, 4), np.float32)
        maps[:, np.arange(16), np.arange(16)] = 16 * blocks
        return Part(
            pooled=square.reshape(-1, 64),
            maps=maps.reshape(-1, 4, 4, 64),
            images=(square * 255).astype(np.uint8)[..., None],
            y=as_multi_hot(bunch.target[rows], 10),
        )

    return Digits(part(order[:500]), part(order[500:650]), part(order[650:]))


def seen_through(part: Part, method: Method) -> NDArray[Any]:
    """Views (n, V, 64) of the pixels of a part, for the augmentations ``method`` declares."""
    turned = [augment(part.images, view).reshape(-1, 64) for view in method.views]
    return np.stack(turned, 1).astype(np.float32) / 255


def make_split(method: Method, rows: int | None = None, *, shuffled: bool = False) -> Split:
    """What ``method`` learns from: it reads the form, the labels and the database it declares.

    ``rows`` cuts the training rows, ``shuffled`` gives every row the label of another.
    """

    def split(part: Part, rows: int | None = None, database: Split | None = None) -> Split:
        x, y = part.x(method.reads)[:rows], part.y[:rows]
        if shuffled:
            y = y[np.random.default_rng(5).permutation(len(y))]
        mask = labelled_mask(y, 0.5) if method.sees == "semi-supervised" else None
        seen = seen_through(part, method)[:rows] if method.views else None
        other = part.other(method.modality, method.other_reads)[:rows] if method.modality else None
        return Split(
            x.copy(), y, method.sees, labelled=mask, database=database, views=seen, other=other,
            parts=parts,
        )  # fmt: skip

    names = tuple(map(str, range(10)))
    digits = ImageSet("digits", load().query.images, load().query.y, names)
    parts = widths(digits, "pixels", method.reads)
    database = split(load().database) if method.learns_database else None
    return split(load().train, rows, database)


def create(name: str, scale: dict[str, Any], **params: Any) -> Method:
    """A system with the iterations and widths of ``scale``, as far as it has such parameters."""
    known = registry.get(name).parameters()
    return registry.create(name, **{k: v for k, v in scale.items() if k in known}, **params)


@dataclass
class Fit:
    """A fitted system and what was watched while it learned."""

    method: Method
    split: Split
    seconds: float
    touched: list[str]
    """Which global random states the fit changed."""
    changed_input: bool
    without_gradient: list[str] = field(default_factory=list)
    """Trainable parameters that never received a gradient different from zero."""


def random_states() -> dict[str, Any]:
    """The global random states a fit must leave alone."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy.random": (name, keys.tobytes(), tuple(rest)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def watch(method: Method, split: Split) -> Fit:
    """Fit under observation."""
    reached: set[int] = set()

    def note(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            for p in group["params"]:
                if id(p) not in reached and p.grad is not None and p.grad.count_nonzero():
                    reached.add(id(p))

    before, x = random_states(), split.x.copy()
    handle = register_optimizer_step_pre_hook(note)
    started = time.perf_counter()
    try:
        method.fit(split)
    finally:
        handle.remove()
    seconds = time.perf_counter() - started
    after = random_states()
    network = getattr(method, "network_", None)
    parameters = [] if network is None else list(network.named_parameters())
    return Fit(
        method,
        split,
        seconds,
        touched=[k for k in before if before[k] != after[k]],
        changed_input=not np.array_equal(x, split.x),
        without_gradient=[n for n, p in parameters if p.requires_grad and id(p) not in reached],
    )


@cache
def smoke_fit(name: str) -> Fit:
    """The system at 32 bits, trained long enough to be better than chance by far."""
    method = create(name, SMOKE, bits=32, seed=0)
    return watch(method, make_split(method))


@cache
def short_fit(name: str, bits: int = 16, seed: int = 0) -> Method:
    """The system trained for a moment on few rows."""
    method = create(name, SHORT, bits=bits, seed=seed)
    return method.fit(make_split(method, SHORT_ROWS))


def sides(method: Method) -> tuple[NDArray[Any], NDArray[Any]]:
    """Queries and database of digits as ``method`` represents them.

    The queries of a cross-modal system are of its second modality.
    """
    digits = load()
    if method.modality:
        queries = method.encode_other(digits.query.other(method.modality, method.other_reads))
        return queries, method.encode_database(digits.database.x(method.reads))
    return (
        method.encode_query(digits.query.x(method.reads)),
        method.encode_database(digits.database.x(method.reads)),
    )


def distances(method: Method) -> NDArray[Any]:
    """Distances (queries, database) by which ``method`` ranks digits."""
    queries, database = sides(method)
    if method.descriptor == "binary":
        return (method.bits - queries.astype(np.int32) @ database.T.astype(np.int32)) // 2
    return method.distance(queries, database)


def relevance() -> NDArray[np.bool_]:
    """Whether a query and a database row of digits share a label."""
    digits = load()
    return digits.query.y @ digits.database.y.T > 0


def expected_ap(distance: NDArray[Any], relevant: NDArray[np.bool_]) -> float:
    """AP over a whole ranking, in expectation over the order of equal distances.

    By linearity: a relevant item at place p of a group counts itself, the relevant items of
    nearer groups and, in expectation, its share of the relevant items before it in its own group.
    """
    order = np.argsort(distance, kind="stable")
    _, group, items = np.unique(distance[order], return_inverse=True, return_counts=True)
    hits = np.bincount(group, relevant[order])
    before, found = np.cumsum(items) - items, np.cumsum(hits) - hits
    n, r, N, R = (v[group] for v in (items, hits, before, found))
    place = np.arange(1, len(order) + 1) - N
    earlier = (place - 1) * (r - 1) / np.maximum(1, n - 1)
    return float((r / n * (R + 1 + earlier) / (N + place)).sum() / hits.sum())


def mean_ap(distance: NDArray[Any], relevant: NDArray[np.bool_]) -> float:
    """Mean of :func:`expected_ap` over the queries."""
    return float(np.mean([expected_ap(d, r) for d, r in zip(distance, relevant, strict=True)]))


@cache
def lsh_map(bits: int = 32) -> float:
    """mAP of signs of random projections of centred pixels: the mean of five draws."""
    digits = load()
    centre = digits.train.pooled.mean(0)
    values = []
    for seed in range(5):
        w = np.random.default_rng(seed).standard_normal((64, bits))
        q, b = (np.sign((p.pooled - centre) @ w) for p in (digits.query, digits.database))
        values.append(mean_ap((bits - q @ b.T) / 2, relevance()))
    return float(np.mean(values))


@pytest.fixture(scope="session")
def digits() -> Digits:
    return load()


@pytest.fixture(scope="session")
def lab() -> Any:
    """The functions of this file, for tests: ``lab.make_split``, ``lab.mean_ap`` and others."""

    class Lab:
        pass

    for f in (
        create, distances, expected_ap, load, lsh_map, make_split, mean_ap, relevance,
        short_fit, sides, smoke_fit, watch,
    ):  # fmt: skip
        setattr(Lab, f.__name__, staticmethod(f))
    Lab.SHORT, Lab.SMOKE, Lab.SHORT_ROWS = SHORT, SMOKE, SHORT_ROWS  # type: ignore[attr-defined]
    return Lab
