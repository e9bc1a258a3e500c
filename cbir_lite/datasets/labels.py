"""One form for labels: multi-hot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_CLASSES = 1_000_000


def as_multi_hot(labels: npt.ArrayLike, n_classes: int | None = None) -> npt.NDArray[np.uint8]:
    """Bring labels to multi-hot.

    Args:
        labels: class ids, integers (n,) from 0; or 0/1 of any numeric type or bool (n, C).
        n_classes: C; default: the largest id + 1, or the number of columns.

    Returns:
        uint8 (n, C).

    Raises:
        ValueError: empty, of another shape or type, negative or too large ids, values but 0 and 1.
    """
    array = np.asarray(labels)
    if array.size == 0:
        raise ValueError(f"labels are empty: shape {array.shape}")
    if array.ndim == 2:
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"multi-hot labels hold 0 and 1 only, found {array[row, column]} in row {row}, "
                f"class {column}"
            )
        if n_classes is not None and array.shape[1] != n_classes:
            raise ValueError(f"labels have {array.shape[1]} classes, expected {n_classes}")
        return array.astype(np.uint8, copy=False)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            "labels must be integer class ids of shape (n,) or 0/1 of shape (n, classes), got "
            f"{array.dtype} {array.shape}"
        )
    limit = MAX_CLASSES if n_classes is None else n_classes
    wrong = (array < 0) | (array >= limit)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"class id {array[row]} in row {row} is outside 0..{limit - 1}")
    hot = np.zeros((array.size, int(array.max()) + 1 if n_classes is None else n_classes), np.uint8)
    hot[np.arange(array.size), array] = 1
    return hot
