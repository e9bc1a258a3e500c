"""The splits of the literature for NUS-WIDE, MS COCO 2014 and ImageNet, drawn the same everywhere.

The papers drew at random and few published the lists, so these are splits of the published sizes:
the order is that of a hash of the file names, which no generator, platform or folder changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cbir_lite.datasets.imageset import ImageSet
from cbir_lite.datasets.protocol_files import Indices, Protocol

SIZES = {
    ("nus_wide", "concepts"): (100, 500),
    ("nus_wide", "random"): (5000, 10000),
    ("coco", "random"): (5000, 10000),
    ("imagenet", "validation"): (0, 100),
}
"""Queries and training images, a class or in all, by set and kind of split."""
_KINDS = {
    "concepts": "{query} queries and {train} training images a concept, concept by concept",
    "random": "{query} queries and {train} training images in all",
    "validation": "all validation images are queries; {train} training images a class",
}


def drawn_protocol(
    images: ImageSet, kind: str | None = None, query: int | None = None, train: int | None = None
) -> Protocol:
    """Query, training and database images of a set from :func:`cbir_lite.datasets.load`.

    Args:
        images: ``nus_wide``, ``nus_wide:81``, ``coco``, ``imagenet`` or ``imagenet:100``.
        kind: ``concepts`` (NUS-WIDE: so many images of every concept, as in DPSH), ``random``
            (NUS-WIDE and COCO, as in HashNet) or ``validation`` (ImageNet, as in HashNet: queries
            are the validation images, the rest is the database). Default: the set's first.
        query, train: other sizes than the literature's, for smaller runs.

    Returns:
        A :class:`Protocol` whose database holds everything but the queries, training images
        included. Raises ``ValueError`` for another set or kind, or naming the class that has too
        few images.
    """
    base = images.name.partition(":")[0]
    kinds = [k for name, k in SIZES if name == base]
    kind = kind or (kinds[0] if kinds else "")
    if kind not in kinds:
        raise ValueError(
            f"no split {kind!r} of {images.name!r}: there are "
            + ", ".join(f"{k} of {name}" for name, k in SIZES)
        )
    sizes = SIZES[base, kind]
    query = sizes[0] if query is None else query
    train = sizes[1] if train is None else train
    order = _by_hash(images, f"{base} {kind}")
    if kind == "random":
        if query + train > len(order):
            raise ValueError(f"{images.name}: {query} + {train} of {len(order)} images")
        parts = order[:query], order[query : query + train]
    elif kind == "concepts":
        queries = _of_every_class(images, order, query)
        parts = queries, _of_every_class(images, order[~np.isin(order, queries)], train)
    else:
        held_out = np.array([_is_validation(Path(p)) for p in images.images])
        queries = np.flatnonzero(held_out)
        parts = queries, _of_every_class(images, order[~held_out[order]], train)
    rest = np.setdiff1d(np.arange(len(images), dtype=np.int64), parts[0])
    sized = "" if (query, train) == sizes else f"@{query}q-{train}t"
    return Protocol(
        f"{images.name.replace(':', '')}-{kind}{sized}",
        images.name,
        np.sort(parts[0]),
        np.sort(parts[1]),
        rest,
        len(images),
        f"{_KINDS[kind].format(query=query, train=train)}, drawn in the order of "
        f"sha256('{base} {kind}:<file name>'). Database: all but the queries.",
    )


def _by_hash(images: ImageSet, key: str) -> Indices:
    """Rows in the order of the sha256 of ``"<key>:<file name>"``."""
    digests = [hashlib.sha256(f"{key}:{Path(p).name}".encode()).digest() for p in images.images]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)


def _of_every_class(images: ImageSet, order: Indices, count: int) -> Indices:
    """The first ``count`` rows of each class in ``order``, each row for one class only."""
    taken = np.zeros(len(images), bool)
    for column, name in enumerate(images.class_names):
        own = order[(images.labels[order, column] > 0) & ~taken[order]]
        if len(own) < count:
            raise ValueError(f"{images.name}: {count} images of {name!r} asked, {len(own)} left")
        taken[own[:count]] = True
    return np.flatnonzero(taken)


def _is_validation(path: Path) -> bool:
    """Whether an image of ImageNet lies in ``val`` or in a class folder of it."""
    return "val" in path.parts[-3:-1]
