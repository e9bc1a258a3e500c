"""A setting: image set, protocol and features, from which splits are cut and systems measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cbir_lite import datasets, features
from cbir_lite.datasets import ImageSet, Protocol, Split
from cbir_lite.datasets.split import SHOWS
from cbir_lite.features import handcrafted
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import (
    Evaluation,
    cutoffs_within,
    distance_blocks,
    evaluate_codes,
    evaluate_distances,
)


@dataclass
class Setting:
    """One bench: the images of a protocol, their features, and the evaluation.

    Args:
        protocol: a frozen protocol, or its name.
        backbone: name of a backbone or hand-crafted descriptor (see :mod:`cbir_lite.features`).
        images: the image set; default: the protocol's own.
        progress: whether slow steps show a bar.
        parent: the setting this one is a part of and the rows it took (see :meth:`subset`).

    >>> setting = Setting("digits", "pixels")
    >>> from cbir_lite.methods.registry import create
    >>> lsh = create("lsh", bits=16)
    >>> evaluation = setting.evaluate(lsh.fit(setting.split(lsh)))
    """

    protocol: Protocol | str
    backbone: str
    images: ImageSet | None = None
    progress: bool = False
    parent: tuple[Setting, NDArray[np.int64]] | None = field(default=None, repr=False)
    _features: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    divisible: ClassVar[bool] = True
    """Whether rows of the set are all there is, so that some of them make a smaller bench."""

    def __post_init__(self) -> None:
        if isinstance(self.protocol, str):
            self.protocol = datasets.protocol(self.protocol)
        if self.images is None:
            self.images = datasets.load(self.protocol.dataset)

    @property
    def frozen(self) -> Protocol:
        """The protocol itself."""
        assert isinstance(self.protocol, Protocol)
        return self.protocol

    @property
    def image_set(self) -> ImageSet:
        """The image set itself."""
        assert self.images is not None
        return self.images

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """Multi-hot labels uint8 (n, C) of the whole set."""
        return np.asarray(self.image_set.labels)

    @property
    def taught(self) -> NDArray[np.uint8]:
        """Multi-hot labels uint8 (n, ...) that systems learn from; results are judged by others
        where only tags are to be had.
        """
        return self.labels

    def features(self, kind: str = "pooled") -> NDArray[Any]:
        """Features (n, ...) of the whole set; ``kind`` as a system's ``reads``."""
        if kind not in self._features:
            if self.parent is not None and not features.is_handcrafted(self.backbone):
                whole, rows = self.parent
                self._features[kind] = whole.features(kind)[rows]
            else:
                self._features[kind] = features.load(
                    self.image_set,
                    self.backbone,
                    kind,
                    train=self.frozen.train,
                    progress=self.progress,
                )
        return self._features[kind]

    def with_backbone(self, backbone: str) -> Setting:
        """The same images and protocol seen through other features."""
        parent = self.parent
        if parent is not None:
            parent = (parent[0].with_backbone(backbone), parent[1])
        return type(self)(self.protocol, backbone, self.images, self.progress, parent)

    def subset(
        self,
        query: int | None = None,
        train: int | None = None,
        database: int | None = None,
        *,
        inherit: bool = True,
    ) -> Setting:
        """A smaller, class-balanced setting with only its own images.

        Backbone features are rows of this setting's with ``inherit``, else (and hand-crafted
        descriptors always) computed for the smaller set alone.
        """
        sizes = (len(self.frozen.query), len(self.frozen.train), len(self.frozen.database))
        if all(a in (None, b) for a, b in zip((query, train, database), sizes, strict=True)):
            return self
        if not self.divisible:
            raise ValueError(f"{self.frozen.name}: a bench of pairs or words cannot be subsampled")
        small = datasets.subsample(
            self.frozen, query=query, train=train, database=database, labels=self.labels
        )
        used = np.unique(np.concatenate([small.query, small.train, small.database]))
        query_rows, train_rows, database_rows = (
            np.searchsorted(used, p) for p in (small.query, small.train, small.database)
        )
        whole = self.image_set
        if not isinstance(whole.images, np.ndarray):
            raise ValueError(f"{whole.name}: images of a folder cannot be subsampled")
        images = ImageSet(
            f"{whole.name}[{len(used)}]",
            np.ascontiguousarray(whole.images[used]),
            np.ascontiguousarray(whole.labels[used]),
            whole.class_names,
            whole.licence,
            whole.source,
        )
        protocol = Protocol(
            small.name,
            images.name,
            query_rows,
            train_rows,
            database_rows,
            len(used),
            small.description,
        )
        parent = (self, used) if inherit else None
        return Setting(protocol, self.backbone, images, self.progress, parent)

    def rows(self, part: str, kind: str = "pooled") -> NDArray[Any]:
        """Features of the ``query``, ``train`` or ``database`` part."""
        return self.features(kind)[getattr(self.frozen, part)]

    def views(self, names: tuple[str, ...], kind: str = "pooled") -> NDArray[Any]:
        """Features (n_train, V, ...) of the training images seen through augmentations."""
        missing = [v for v in names if f"{kind} {v}" not in self._features]
        images = self.image_set.images
        if not isinstance(images, np.ndarray):
            raise ValueError(f"{self.image_set.name}: images of a folder have no views yet")
        train = self.frozen.train
        for view in missing:
            seen = features.augment(images[train], view)
            if kind == "pooled" and features.learns_words(self.backbone):
                # The words are those of the images: others would make other axes.
                x = handcrafted.describe(
                    seen, self.backbone, vocabulary=images[train], progress=self.progress
                )
            else:
                classes = self.image_set.class_names
                turned = ImageSet(
                    f"{self.image_set.name} {view}", seen, self.labels[train], classes
                )
                x = features.load(turned, self.backbone, kind, progress=self.progress)
            self._features[f"{kind} {view}"] = x
        return np.stack([self._features[f"{kind} {view}"] for view in names], 1)

    def split(self, method: Method, *, kind: str | None = None, **options: Any) -> Split:
        """What ``method`` may see: the training part, without labels if it declares none.

        A semi-supervised system sees the labels of its ``labelled_fraction``, chosen by its seed.
        """
        kind = kind or method.reads
        if SHOWS[method.sees] == "some":
            options.setdefault("labelled_fraction", method.labelled_fraction)
            options.setdefault("seed", method.seed)
        if method.views:
            options.setdefault("views", self.views(method.views, kind))
        options.setdefault("parts", features.widths(self.image_set, self.backbone, kind))
        return Split.from_protocol(
            self.frozen,
            self.features(kind),
            self.taught,
            method.sees,
            with_database=method.learns_database,
            **options,
        )

    def represent(
        self, method: Method, kind: str | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What a fitted system holds of the queries and of the database."""
        kind = kind or method.reads
        x = self.features(kind)
        return (
            encode_rows(method.encode_query, x, self.frozen.query),
            encode_rows(method.encode_database, x, self.frozen.database),
        )

    def evaluate(self, method: Method, *, kind: str | None = None, **options: Any) -> Evaluation:
        """Rank the database for every query with a fitted system and measure it."""
        queries, database = self.represent(method, kind)
        return self.score(method, queries, database, **options)

    def score(
        self,
        method: Method,
        queries: NDArray[Any],
        database: NDArray[Any],
        rows: NDArray[np.int64] | None = None,
        **options: Any,
    ) -> Evaluation:
        """Measure representations; ``rows`` are the database's indices (default: all)."""
        query_labels = self.labels[self.frozen.query]
        database_labels = self.labels[self.frozen.database if rows is None else rows]
        options.setdefault("cutoffs", cutoffs_within(len(database)))
        if method.descriptor == "binary":
            options.setdefault("radii", (2,) if method.bits >= 2 else ())
            return evaluate_codes(queries, database, query_labels, database_labels, **options)
        blocks = distance_blocks(queries, database, method.distance)
        return evaluate_distances(blocks, query_labels, database_labels, **options)


def encode_rows(
    encode: Callable[[NDArray[Any]], NDArray[Any]], x: NDArray[Any], rows: NDArray[np.int64]
) -> NDArray[Any]:
    """``encode`` of some rows of features (n, ...), which may be memory-mapped."""
    # Maps of a whole database do not fit in memory beside those of another worker.
    step = 2048 if x.ndim == 4 else len(rows)
    blocks = [encode(x[rows[a : a + step]]) for a in range(0, len(rows), step)]
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


@dataclass(frozen=True)
class Scale:
    """One of the three sizes of every run."""

    name: str
    protocol: str
    backbone: str
    epochs: int
    seeds: tuple[int, ...]
    query: int | None = None
    train: int | None = None
    database: int | None = None


SCALES = {
    "smoke": Scale("smoke", "digits", "efficientnet_lite0-64", 10, (0,), 60, 300, 600),
    "book": Scale("book", "cifar10-59k", "efficientnet_lite0-96", 30, (0, 1)),
    "full": Scale("full", "cifar10-59k", "efficientnet_lite0-224", 30, (0, 1, 2)),
}
"""``smoke`` for tests, ``book`` for a reader's laptop, ``full`` for the published records."""


def at_scale(scale: str, backbone: str | None = None, *, progress: bool = True) -> Setting:
    """The setting of a chapter at ``smoke``, ``book`` or ``full`` size.

    Raises ``ValueError`` for another scale.
    """
    if scale not in SCALES:
        raise ValueError(f"SCALE={scale!r}: use one of {', '.join(SCALES)}")
    chosen = SCALES[scale]
    setting = Setting(chosen.protocol, backbone or chosen.backbone, progress=progress)
    if chosen.query is None:
        return setting
    return setting.subset(chosen.query, chosen.train, chosen.database, inherit=False)
