"""What a system finds for one query, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cbir_lite import features, plots
from cbir_lite.bench.setting import Setting
from cbir_lite.datasets import ImageSet, read_image
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import top_k


def results(setting: Setting, method: Method, x: Any, k: int) -> tuple[Any, Any]:
    """Image indices (n, k) and distances (n, k) of the nearest database items of inputs x (n, ...).

    Ties are shown in the order of the database; measures never depend on that order.
    """
    queries = method.encode_query(x)
    _, database = setting.represent(method)
    if method.descriptor == "binary":
        nearest, distances = top_k(queries, database, k)
    else:
        nearest, distances = top_k(queries, database, k, method.distance)
    return setting.frozen.database[nearest], distances


def picture(setting: Setting, method: Method, query: str | int, k: int = 10) -> tuple[Any, str]:
    """Figure of the query and its top k, right and wrong marked, and its description in words.

    Args:
        setting: protocol, images and features.
        method: a fitted system.
        query: position among the protocol's queries, or the path of an image file, for which
            right and wrong are unknown and nothing is marked.
        k: how many results.

    Raises ``ValueError`` for a position outside the queries and for an unreadable file.
    """
    images = setting.image_set
    text = str(query)
    if text.lstrip("-").isdigit():
        position = int(text)
        if not 0 <= position < len(setting.frozen.query):
            raise ValueError(
                f"query {position} is outside 0..{len(setting.frozen.query) - 1} of "
                f"{setting.frozen.name}"
            )
        row = int(setting.frozen.query[position])
        x = setting.features(method.reads)[row : row + 1]
        shown = images.read(row)
        labels = setting.labels[row]
        title = f"query {position}: {_names(images, labels)}"
    else:
        shown = read_image(text)
        one = ImageSet(Path(text).name, [Path(text)], np.ones((1, 1), np.uint8), ("query",))
        x = features.load(one, setting.backbone, method.reads, progress=False)  # type: ignore[arg-type]
        labels = None
        title = Path(text).name
    indices, distances = results(setting, method, x, k)
    nearest = indices[0]
    relevant = None if labels is None else (setting.labels[nearest] & labels).any(axis=1)
    names = [_names(images, setting.labels[i]) for i in nearest]
    axes = plots.retrieval_grid(
        [shown],
        [[images.read(int(i)) for i in nearest]],
        None if relevant is None else relevant[None],
        query_labels=[title],
        result_labels=[[f"{n}, d={d:.3g}" for n, d in zip(names, distances[0], strict=True)]],
    )
    right = "" if relevant is None else f", {int(relevant.sum())} of {k} relevant"
    system = type(method).__name__
    words = f"{title}: top {k} of {len(setting.frozen.database)} by {system}{right}"
    return axes.figure, words


def _names(images: ImageSet, labels: Any) -> str:
    return ", ".join(n for n, on in zip(images.class_names, labels, strict=True) if on)
