"""Which images are query, training and database: frozen files, checked by hash when read.

One CIFAR-10 column of the literature has several meanings, so a protocol is a file with a name,
and its hash stands in every record.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cbir_lite._cache import atomic_write
from cbir_lite.datasets.labels import as_multi_hot
from cbir_lite.datasets.loaders import load

Indices = npt.NDArray[np.int64]
RULES = ("rest", "all_but_query", "train")


class UnknownProtocol(ValueError):
    """No protocol of the package has this name; says which there are."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """Query, training and database images of one data set.

    Attributes:
        name: name of the file, the first column of every table.
        dataset: name for :func:`cbir_lite.datasets.load`.
        query, train, database: int64 indices into the set, ascending. Queries are in neither of
            the others; training images are in the database or not, as the protocol says. Another
            order is refused: rows of the database are found by bisection.
        n_images: size of the whole set.
        description: how the indices were drawn.
    """

    name: str
    dataset: str
    query: Indices
    train: Indices
    database: Indices
    n_images: int
    description: str = ""

    def __post_init__(self) -> None:
        for part in ("query", "train", "database"):
            indices = getattr(self, part)
            if indices.ndim != 1 or indices.dtype != np.int64 or indices.size == 0:
                raise ValueError(f"protocol {self.name}: {part} must be a non-empty int64 vector")
            outside = indices[(indices < 0) | (indices >= self.n_images)]
            self._forbid(outside, f"{part} has indices outside 0..{self.n_images - 1}")
            values, counts = np.unique(indices, return_counts=True)
            self._forbid(values[counts > 1], f"{part} has duplicates")
            fallen = indices[1:][np.diff(indices) < 0]
            self._forbid(fallen, f"{part} is not ascending (use np.sort), out of place")
            frozen = indices.view()
            frozen.flags.writeable = False
            object.__setattr__(self, part, frozen)
        for part in ("train", "database"):
            shared = np.intersect1d(self.query, getattr(self, part))
            self._forbid(shared, f"query and {part} share images")

    def _forbid(self, indices: Indices, what: str) -> None:
        if indices.size:
            shown = ", ".join(map(str, indices[:5])) + (", ..." if indices.size > 5 else "")
            raise ValueError(f"protocol {self.name}: {what}: {shown} ({indices.size} in all)")

    @property
    def hash(self) -> str:
        """Hex sha256 over query, train, database, then the data set's name in UTF-8.

        Each of the three is its length, then its indices, all as little-endian int64.
        """
        digest = hashlib.sha256()
        for indices in (self.query, self.train, self.database):
            digest.update(np.array([indices.size], "<i8").tobytes())
            digest.update(indices.astype("<i8").tobytes())
        digest.update(self.dataset.encode())
        return digest.hexdigest()

    def validation_split(
        self,
        fraction: float = 0.2,
        seed: int = 0,
        labels: npt.NDArray[np.integer[Any]] | None = None,
    ) -> tuple[Indices, Indices]:
        """Divide the training images: ``(train, validation)``, int64 indices into the set.

        Every class (multi-label: every combination of labels) is divided in the same proportion,
        to within one image. Queries play no part.

        Args:
            fraction: share of validation images, 0 < fraction < 1.
            seed: another seed gives another division.
            labels: multi-hot (n_images, C) or class ids (n_images,); default: the data set's own.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
        count = round(fraction * self.train.size)
        if not 0 < count < self.train.size:
            raise ValueError(
                f"fraction {fraction} of {self.train.size} training images leaves a part empty"
            )
        chosen = balanced_draw(
            self.train, self._labels(labels), count, f"{self.name} validation {seed}"
        )
        return np.setdiff1d(self.train, chosen), chosen

    def _labels(self, labels: npt.NDArray[np.integer[Any]] | None) -> npt.NDArray[np.uint8]:
        if labels is None:
            labels = load(self.dataset).labels
        if len(labels) != self.n_images:
            raise ValueError(
                f"protocol {self.name} speaks of {self.n_images} images, got {len(labels)} labels"
            )
        return as_multi_hot(labels)


def shuffled(indices: Indices, key: str) -> Indices:
    """``indices`` ordered by the sha256 of ``"<key>:<index>"``.

    A random order that is the same on every platform, version and language, unlike a generator's.
    """
    digests = [hashlib.sha256(f"{key}:{i}".encode()).digest() for i in indices.tolist()]
    return indices[sorted(range(len(digests)), key=digests.__getitem__)]


def balanced_draw(pool: Indices, labels: npt.NDArray[np.uint8], count: int, key: str) -> Indices:
    """Draw ``count`` of ``pool``, each class in proportion to its size there (to within one).

    Args:
        pool: int64 indices into ``labels``.
        labels: multi-hot (n, C); a class is a distinct row.
        count: how many to draw.
        key: see :func:`shuffled`.

    Returns:
        Ascending int64 (count,).
    """
    if not 0 <= count <= pool.size:
        raise ValueError(f"cannot draw {count} of {pool.size} images")
    mixed = shuffled(pool, key)
    _, group = np.unique(np.packbits(labels[mixed], axis=1), axis=0, return_inverse=True)
    by_class = mixed[np.argsort(group.reshape(-1), kind="stable")]
    # Evenly spaced places in a list sorted by class.
    places = np.arange(pool.size + 1, dtype=np.int64) * count // max(pool.size, 1)
    return np.sort(by_class[np.diff(places) > 0])


def protocol_names() -> list[str]:
    """Names of the protocols in the package, sorted."""
    folder = resources.files("cbir_lite.datasets") / "protocols"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".json"))


def protocol(name: str | Path) -> Protocol:
    """Read a protocol by name, by the name :func:`subsample` gave it, or from your own file.

    A file is JSON: ``name``, ``dataset``, ``n_images``, ``description`` (optional), ``query`` and
    ``train`` (a list of indices, or ``{"range": [start, stop]}``), ``database`` (the same, or a
    rule: ``"rest"`` = neither query nor training, ``"all_but_query"``, ``"train"``) and ``hash``
    (optional in your own; checked if given).

    Raises ValueError naming the file and the indices at fault; FileNotFoundError for no such file.
    """
    text = str(name)
    if text.endswith(".json"):
        return _parse(Path(name).read_text(encoding="utf-8"), text)
    base, _, sizes = text.partition("@")
    if base not in protocol_names():
        raise UnknownProtocol(
            f"unknown protocol {text!r}; known: {', '.join(protocol_names())}, or a path to a "
            ".json file"
        )
    file = resources.files("cbir_lite.datasets") / "protocols" / f"{base}.json"
    whole = _parse(file.read_text(encoding="utf-8"), f"{base}.json")
    if not sizes:
        return whole
    match = re.fullmatch(r"(\d+)q-(\d+)t-(\d+)d-s(\d+)", sizes)
    if match is None:
        raise ValueError(f"{text!r}: after '@' comes e.g. '100q-500t-2000d-s0', not {sizes!r}")
    query, train, database, seed = map(int, match.groups())
    return subsample(whole, query=query, train=train, database=database, seed=seed)


def _parse(text: str, file: str) -> Protocol:
    try:
        data = json.loads(text)
        n_images = int(data["n_images"])
        query = _indices(data["query"])
        train = _indices(data["train"])
        rule = data["database"]
        if not isinstance(rule, str):
            database = _indices(rule)
        elif rule == "train":
            database = train.copy()
        elif rule in RULES:
            out = query if rule == "all_but_query" else np.concatenate([query, train])
            database = np.setdiff1d(np.arange(n_images, dtype=np.int64), out)
        else:
            raise ValueError(f"database rule {rule!r} is none of {', '.join(RULES)}")
        read = Protocol(
            name=str(data["name"]),
            dataset=str(data["dataset"]),
            query=query,
            train=train,
            database=database,
            n_images=n_images,
            description=str(data.get("description", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"entry {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file}: {what}") from error
    pinned = data.get("hash")
    if pinned is not None and pinned != read.hash:
        raise ValueError(
            f"{file}: the indices are not those that were frozen: expected hash {pinned}, found "
            f"{read.hash}. Restore the file, or give the changed protocol a new name and hash."
        )
    return read


def _indices(value: Any) -> Indices:
    if isinstance(value, dict):
        start, stop = value["range"]
        return np.arange(int(start), int(stop), dtype=np.int64)
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        raise ValueError("indices must be whole numbers")
    return np.array(sorted(value), np.int64)


def save_protocol(protocol: Protocol, path: str | Path, database: str | None = None) -> None:
    """Write a protocol file with its hash; ``database`` is a rule to write instead of the list.

    Raises ValueError if the rule does not give the protocol's database.
    """
    data = {
        "name": protocol.name,
        "dataset": protocol.dataset,
        "description": protocol.description,
        "n_images": protocol.n_images,
        "query": _compact(protocol.query),
        "train": _compact(protocol.train),
        "database": _compact(protocol.database) if database is None else database,
        "hash": protocol.hash,
    }
    lines = ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in data.items())
    text = "{\n" + lines + "\n}\n"
    _parse(text, str(path))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _compact(indices: Indices) -> list[int] | dict[str, list[int]]:
    start, stop = int(indices[0]), int(indices[-1]) + 1
    contiguous = indices.size == stop - start and bool((np.diff(indices) == 1).all())
    return {"range": [start, stop]} if contiguous else indices.tolist()


def subsample(
    protocol: Protocol,
    query: int | None = None,
    train: int | None = None,
    database: int | None = None,
    seed: int = 0,
    labels: npt.NDArray[np.integer[Any]] | None = None,
) -> Protocol:
    """A smaller protocol for smoke and book runs, class-balanced, with its own name and hash.

    The drawn training images stay in the database if all of them were there, and out of it if none
    was; so ``database`` must be at least ``train`` in the first case.

    Args:
        protocol: the whole.
        query, train, database: sizes; None keeps that part whole.
        seed: another seed gives another draw.
        labels: as in :meth:`Protocol.validation_split`.
    """
    ids = protocol._labels(labels)
    sizes = {"query": query, "train": train, "database": database}
    for part, size in sizes.items():
        available = getattr(protocol, part).size
        if size is not None and not 0 < size <= available:
            raise ValueError(f"{protocol.name}: {part} must be in 1..{available}, got {size}")

    def draw(pool: Indices, count: int | None, part: str) -> Indices:
        if count is None or count == pool.size:
            return pool.copy()
        return balanced_draw(pool, ids, count, f"{protocol.name} {part} {seed}")

    new_query = draw(protocol.query, query, "query")
    new_train = draw(protocol.train, train, "train")
    if database is None or not np.isin(protocol.train, protocol.database).all():
        new_database = draw(protocol.database, database, "database")
    elif database < new_train.size:
        raise ValueError(
            f"{protocol.name}: its database holds the training images, so database={database} "
            f"cannot be smaller than train={new_train.size}"
        )
    else:
        others = np.setdiff1d(protocol.database, new_train)
        more = draw(others, database - new_train.size, "database")
        new_database = np.sort(np.concatenate([new_train, more]))
    base = protocol.name
    sized = f"{new_query.size}q-{new_train.size}t-{new_database.size}d-s{seed}"
    return Protocol(
        name=f"{base}@{sized}",
        dataset=protocol.dataset,
        query=new_query,
        train=new_train,
        database=new_database,
        n_images=protocol.n_images,
        description=f"Class-balanced subsample ({sized}) of {base}: {protocol.description}",
    )
