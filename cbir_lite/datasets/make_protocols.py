"""Draws the package's protocols: ``python -m cbir_lite.datasets.make_protocols``.

The files are frozen; running this again must give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cbir_lite.datasets.loaders import load
from cbir_lite.datasets.protocol_files import Indices, Protocol, save_protocol, shuffled

FOLDER = Path(__file__).parent / "protocols"
_DRAW = "drawn in the order of sha256('{key}:<index>'), so that the draw can be repeated anywhere"


def _per_class(pool: Indices, ids: Indices, count: int, key: str) -> Indices:
    mixed = shuffled(pool, key)
    return np.sort(np.concatenate([mixed[ids[mixed] == c][:count] for c in np.unique(ids)]))


def _of_halves(dataset: str, n_train: int) -> list[tuple[Protocol, str]]:
    """The three protocols of a set whose first ``n_train`` images are the published training."""
    ids = load(dataset).class_ids()
    n_images = ids.size
    everything = np.arange(n_images, dtype=np.int64)
    query = _per_class(everything[n_train:], ids, 100, f"{dataset} query")
    train = _per_class(everything[:n_train], ids, 500, f"{dataset} train")
    drawn = (
        f"1000 queries (100 a class) from the published test part and 5000 training images (500 a "
        f"class) from the published training part, "
        f"{_DRAW.format(key=f'{dataset} query')} (training: '{dataset} train')."
    )
    kinds = [
        (query, train, "rest", f"{drawn} Database: the other images, training images excluded."),
        (
            query,
            train,
            "all_but_query",
            f"{drawn} Database: all but the queries, training images included.",
        ),
        (
            everything[n_train:],
            everything[:n_train],
            "train",
            f"Queries: the {n_images - n_train} published test images. Training and database: "
            f"the {n_train} published training images.",
        ),
    ]
    made = []
    for queries, training, rule, description in kinds:
        out = {"rest": np.concatenate([queries, training]), "all_but_query": queries}
        database = training.copy() if rule == "train" else np.setdiff1d(everything, out[rule])
        official = dataset == "cifar10" and rule == "train"
        name = f"{dataset}-{'official' if official else f'{database.size // 1000}k'}"
        made.append(
            (Protocol(name, dataset, queries, training, database, n_images, description), rule)
        )
    return made


def _digits() -> tuple[Protocol, str]:
    ids = load("digits").class_ids()
    everything = np.arange(ids.size, dtype=np.int64)
    query = _per_class(everything, ids, 20, "digits query")
    train = _per_class(np.setdiff1d(everything, query), ids, 60, "digits train")
    database = np.setdiff1d(everything, np.concatenate([query, train]))
    description = (
        f"For quick runs: 200 queries (20 a class) and 600 training images (60 a class), "
        f"{_DRAW.format(key='digits query')} (training: 'digits train'). Database: the other "
        "images, training images excluded."
    )
    return Protocol("digits", "digits", query, train, database, ids.size, description), "rest"


def _validation(whole: Protocol) -> Protocol:
    """For choosing hyper-parameters: every image is a training image of the published protocol."""
    ids = load(whole.dataset).class_ids()
    train, held_out = whole.validation_split(0.2)
    query = _per_class(held_out, ids, 30, f"{whole.dataset} validation query")
    description = (
        f"Hyper-parameters are chosen here. Every image is one of the {whole.train.size} training "
        f"images of {whole.name}: {train.size} train; of the others 300 are queries (30 a class) "
        "and the rest the database."
    )
    database = np.setdiff1d(held_out, query)
    name = f"{whole.dataset}-validation"
    return Protocol(name, whole.dataset, query, train, database, whole.n_images, description)


def make_all(folder: Path = FOLDER) -> list[Path]:
    """Write every protocol file into ``folder``; returns their paths."""
    made: list[tuple[Protocol, str | None]] = [
        *_of_halves("cifar10", 50000),
        *_of_halves("mnist", 60000),
        _digits(),
    ]
    made.append((_validation(made[0][0]), None))
    paths = []
    for protocol, rule in made:
        paths.append(folder / f"{protocol.name}.json")
        save_protocol(protocol, paths[-1], database=rule)
    return paths


if __name__ == "__main__":
    for path in make_all():
        print(path.name)
