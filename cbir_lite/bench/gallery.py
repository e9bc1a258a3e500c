"""What a system finds for one query, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbir_lite import features
from cbir_lite.bench.setting import Setting
from cbir_lite.datasets import ImageSet, read_image, unlabelled
from cbir_lite.features import handcrafted
from cbir_lite.features.extract import pixels
from cbir_lite.features.store import FOLDER_SIZE
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import top_k


def results(setting: Setting, method: Method, x: Any, k: int) -> tuple[Any, Any]:
    """Image indices (n, k) and distances (n, k) of the nearest database items of inputs x (n, ...).

    Ties are shown in the order of the database; measures never depend on that order.
    """
    _, database = setting.represent(method)
    indices, distances = nearest(method, x, database, k)
    return setting.frozen.database[indices], distances


def nearest(method: Method, x: NDArray[Any], database: Any, k: int) -> tuple[Any, Any]:
    """Rows (n, k) and distances (n, k) of the nearest of a system's ``database`` to inputs x
    (n, ...): codes, packed or not, by Hamming distance, else by the system's own.
    """
    return nearest_codes(method, method.encode_query(x), database, k)


def nearest_codes(method: Method, queries: Any, database: Any, k: int) -> tuple[Any, Any]:
    """The same, of queries that the system has encoded."""
    own = None if method.descriptor == "binary" else method.distance
    return top_k(queries, database, k, own)


def picture(setting: Setting, method: Method, query: str | int, k: int = 10) -> tuple[Any, str]:
    """Figure of the query and its top k, right and wrong marked, and its description in words.

    Args:
        setting: protocol, images and features.
        method: a fitted system.
        query: position among the protocol's queries, or the path of an image file, for which
            right and wrong are unknown and nothing is marked.
        k: how many results.

    Raises ``ValueError`` for a position outside the queries, for a file that is missing or
    unreadable, and where texts would have to be drawn.
    """
    from cbir_lite import plots  # here, so that `nearest` alone does not wait for it

    images = setting.image_set
    _refuse_texts(setting, setting.frozen.database)
    last = len(setting.frozen.query) - 1
    text = str(query)
    labels = None
    if text.lstrip("-").isdigit():
        position = int(text)
        if not 0 <= position <= last:
            raise ValueError(f"query {position} is outside 0..{last} of {setting.frozen.name}")
        row = int(setting.frozen.query[position])
        _refuse_texts(setting, setting.frozen.query[position : position + 1])
        # The query as the measures see it: of the side that it is on.
        queries, database = setting.represent(method)
        at, distances = nearest_codes(method, queries[position : position + 1], database, k)
        indices = setting.frozen.database[at]
        shown = images.read(row)
        labels = setting.labels[row]
        title = f"query {position}: {_names(images, labels)}"
    elif not Path(text).is_file():
        raise ValueError(f"query {text!r} is no image file: give one, or a position 0..{last}")
    else:
        shown = read_image(text)
        x = features_of_file(setting, text, method.reads)
        title = Path(text).name
        indices, distances = results(setting, method, x, k)
    found = indices[0]
    relevant = None if labels is None else (setting.labels[found] & labels).any(axis=1)
    names = [_names(images, setting.labels[i]) for i in found]
    axes = plots.retrieval_grid(
        [shown],
        [[images.read(int(i)) for i in found]],
        None if relevant is None else relevant[None],
        query_labels=[title],
        result_labels=[[f"{n}, d={d:.3g}" for n, d in zip(names, distances[0], strict=True)]],
    )
    right = "" if relevant is None else f", {int(relevant.sum())} of {k} relevant"
    system = type(method).__name__
    words = f"{title}: top {k} of {len(setting.frozen.database)} by {system}{right}"
    return axes.figure, words


def _refuse_texts(setting: Setting, rows: NDArray[np.int64]) -> None:
    """Raise ``ValueError`` if some of the items (n,) are texts, which are numbered after images."""
    if int(rows.max()) >= len(setting.image_set):
        raise ValueError(
            f"{setting.frozen.name} has texts, which cannot be drawn: use a protocol of pictures, "
            "such as emoji-sketch-to-image"
        )


def features_of_file(setting: Setting, path: str | Path, kind: str = "pooled") -> NDArray[Any]:
    """Features (1, ...) of an image file as the database's images have them.

    Where these are one array the file is first brought to their size and channels: descriptors
    depend on both. A vocabulary is that of the training images. Raises ``ValueError`` for an
    unreadable file.
    """
    whole = setting.image_set
    one: Any = [Path(path)]
    if isinstance(whole.images, np.ndarray):
        height, width, channels = whole.images.shape[1:]
        file = Image.fromarray(read_image(path)).convert("L" if channels == 1 else "RGB")
        file = file.resize((width, height), Image.Resampling.BILINEAR)
        one = np.asarray(file).reshape(1, height, width, channels)
    query = unlabelled(one, Path(path).name)
    if kind != "pooled" or not features.is_handcrafted(setting.backbone):
        return features.load(query, setting.backbone, kind, progress=False, keep=False)
    rows = setting.frozen.train
    parts = [pixels(whole, int(i), int(i) + 1, FOLDER_SIZE) for i in rows]
    return handcrafted.describe(
        pixels(query, 0, 1, FOLDER_SIZE), setting.backbone, vocabulary=np.concatenate(parts)
    )


def _names(images: ImageSet, labels: Any) -> str:
    return ", ".join(n for n, on in zip(images.class_names, labels, strict=True) if on)
