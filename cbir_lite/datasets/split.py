"""What a method may see when it learns. Labels a method must not use are not there to be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cbir_lite.datasets.labels import as_multi_hot
from cbir_lite.datasets.protocol_files import Indices, Protocol, balanced_draw

SHOWS = {
    "supervised": "all",
    "weakly-supervised": "all",
    "semi-supervised": "some",
    "pseudo-supervised": "none",
    "self-supervised": "none",
    "unsupervised": "none",
}
"""Kinds of supervision (survey Sec. IV), and which rows' labels each may read."""

_CHECK_ELEMENTS = 1 << 24


class LabelsHidden(RuntimeError):
    """Labels were read in a split made for a method that declares it does without."""


def labelled_mask(
    labels: npt.NDArray[np.uint8], fraction: float, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Choose the labelled rows of a semi-supervised split, in proportion to the classes.

    Args:
        labels: multi-hot (n, C).
        fraction: labelled share, 0 < fraction <= 1; at least one row is labelled.
        seed: another seed gives another choice.

    Returns:
        bool (n,).
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    n = len(labels)
    rows = np.arange(n, dtype=np.int64)
    mask = np.zeros(n, bool)
    mask[balanced_draw(rows, labels, max(1, round(fraction * n)), f"labelled {seed}")] = True
    return mask


@dataclass(frozen=True, init=False, eq=False)
class Split:
    """Training data as one method may see it.

    Attributes:
        x: features, feature maps or images (n, ...), any real dtype; float values are finite.
        parts: how many numbers along the last axis of x belong to each of its parts, where
            features of several kinds stand side by side (stages of a network, descriptors); else
            one part holds them all.
        supervision: the method's declared kind, one of :data:`SHOWS`.
        indices: int64 (n,), which images of the set the rows are.
        labelled: bool (n,), rows whose labels may be used (all, some or none).
        n_classes: C; None if labels are hidden.
        database: the database as a split, for methods that learn database codes; else None.
        views: (n, V, ...), the same rows seen through V augmentations, for methods that declare
            them; else None.
        other: (n, d) or maps (n, h, w, d), what belongs to each row in the second modality (the
            words of a picture, a sketch of it), for cross-modal methods; else None.
        semantics: float32 (C, k), read-only, a vector for each class made of words, zero where a
            class has none; None if the set has no words or labels are hidden.
    """

    x: npt.NDArray[Any]
    parts: tuple[int, ...]
    supervision: str
    indices: Indices
    labelled: npt.NDArray[np.bool_]
    n_classes: int | None
    database: Split | None
    views: npt.NDArray[Any] | None
    other: npt.NDArray[Any] | None
    semantics: npt.NDArray[np.float32] | None
    _labels: npt.NDArray[np.uint8] | None = field(repr=False)

    def __init__(
        self,
        x: npt.NDArray[Any],
        labels: npt.ArrayLike | None = None,
        supervision: str = "supervised",
        indices: npt.ArrayLike | None = None,
        labelled: npt.ArrayLike | None = None,
        database: Split | None = None,
        views: npt.NDArray[Any] | None = None,
        other: npt.NDArray[Any] | None = None,
        parts: tuple[int, ...] | None = None,
        semantics: npt.ArrayLike | None = None,
    ) -> None:
        """Check everything once.

        Args:
            x: (n, ...), finite.
            labels: as in :func:`as_multi_hot`; dropped at once if the supervision hides them.
            supervision: one of :data:`SHOWS`.
            indices: (n,); default 0..n-1.
            labelled: bool (n,), for ``"semi-supervised"`` only; labels of other rows become zero.
            database: see the class.
            views: (n, V, ...), finite.
            other: (n, ...), finite.
            parts: positive widths that sum to the last axis of x; default: one part.
            semantics: (C, k), finite; like labels dropped at once if the supervision hides them.

        Raises:
            ValueError: naming the argument and the first row at fault.
        """
        n = _checked_rows(x)
        if supervision not in SHOWS:
            raise ValueError(f"supervision {supervision!r} is none of {', '.join(SHOWS)}")
        shows = SHOWS[supervision]
        hot = None
        mask = np.full(n, shows == "all")
        if shows == "some":
            if labelled is None:
                raise ValueError("a semi-supervised split needs labelled=, bool (n,)")
            mask = np.array(labelled)
            if mask.dtype != np.bool_ or mask.shape != (n,):
                raise ValueError(
                    f"labelled must be bool of shape ({n},), got {mask.dtype} {mask.shape}"
                )
        elif labelled is not None:
            raise ValueError(f"labelled= belongs to semi-supervised splits, not to {supervision}")
        if shows != "none":
            if labels is None:
                raise ValueError(f"a {supervision} split needs labels")
            hot = as_multi_hot(labels)
            if len(hot) != n:
                raise ValueError(f"x has {n} rows, labels have {len(hot)}")
            hot = hot * mask[:, None] if shows == "some" else hot.view()
            hot.flags.writeable = False
        rows = np.arange(n, dtype=np.int64) if indices is None else np.asarray(indices)
        if rows.shape != (n,) or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(
                f"indices must be integers (n,) = ({n},), got {rows.dtype} {rows.shape}"
            )
        if database is not None and database.x.shape[1:] != x.shape[1:]:
            raise ValueError(f"rows of x are {x.shape[1:]}, of the database {database.x.shape[1:]}")
        if views is not None and (_checked_rows(views) != n or views.shape[2:] != x.shape[1:]):
            raise ValueError(f"views must be (n, V, ...) of x {x.shape}, got {views.shape}")
        if other is not None and _checked_rows(other) != n:
            raise ValueError(f"x has {n} rows, other has {len(other)}")
        parts = (x.shape[-1],) if parts is None else tuple(int(p) for p in parts)
        if min(parts, default=0) < 1 or sum(parts) != x.shape[-1]:
            raise ValueError(f"parts {parts} do not divide the {x.shape[-1]} columns of x")
        classes = None if hot is None else hot.shape[1]
        if database is not None and database.n_classes != classes:
            raise ValueError(f"the split has {classes} classes, its database {database.n_classes}")
        words = None
        if semantics is not None and classes is not None:
            words = _checked_semantics(semantics, classes)
        for name, value in {
            "x": x,
            "parts": parts,
            "supervision": supervision,
            "indices": rows.astype(np.int64, copy=False),
            "labelled": mask,
            "n_classes": classes,
            "database": database,
            "views": views,
            "other": other,
            "semantics": words,
            "_labels": hot,
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_protocol(
        cls,
        protocol: Protocol,
        x: npt.NDArray[Any],
        labels: npt.ArrayLike,
        supervision: str = "supervised",
        *,
        rows: Indices | None = None,
        labelled_fraction: float | None = None,
        seed: int = 0,
        with_database: bool = False,
        views: npt.NDArray[Any] | None = None,
        parts: tuple[int, ...] | None = None,
        semantics: npt.ArrayLike | None = None,
    ) -> Split:
        """The training part of a protocol, cut from a whole set's features and labels.

        Args:
            protocol: whose ``train`` (and ``database``) to cut.
            x: (n_images, ...).
            labels: (n_images,) or (n_images, C).
            supervision: one of :data:`SHOWS`.
            rows: other training indices, e.g. from :meth:`Protocol.validation_split`.
            labelled_fraction: share of labelled training rows, for ``"semi-supervised"``.
            seed: of the choice of labelled rows.
            with_database: whether to add the database; in a semi-supervised split its labelled
                rows are the labelled training images it holds.
            views: (n_train, V, ...), views of the training rows.
            parts: widths of the parts of x, see the class.
            semantics: (C, k), of the classes; the database goes without.
        """
        hot = as_multi_hot(labels)
        if len(x) != protocol.n_images or len(hot) != protocol.n_images:
            raise ValueError(
                f"protocol {protocol.name} speaks of {protocol.n_images} images, got {len(x)} rows "
                f"of x and {len(hot)} labels"
            )
        train = protocol.train if rows is None else np.asarray(rows, np.int64)
        mask = database_mask = None
        if labelled_fraction is not None:
            mask = labelled_mask(hot[train], labelled_fraction, seed)
            database_mask = np.isin(protocol.database, train[mask])
        database = None
        if with_database:
            place = protocol.database
            database = cls(x[place], hot[place], supervision, place, database_mask, parts=parts)
        return cls(
            x[train], hot[train], supervision, train, mask, database, views, parts=parts,
            semantics=semantics,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Multi-hot uint8 (n, C), read-only; zero in rows that are not labelled.

        Raises :class:`LabelsHidden` if the method's supervision does without labels.
        """
        if self._labels is None:
            raise LabelsHidden(
                f"this split is for a method that declares itself {self.supervision!r}: labels are "
                "hidden. Do not read .labels, or declare the supervision that is used."
            )
        return self._labels

    def subset(self, rows: npt.ArrayLike) -> Split:
        """The split of some rows: a bool mask (n,) or integer positions. The database stays."""
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise ValueError(
                    f"a mask of rows must have shape ({len(self)},), got {chosen.shape}"
                )
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                f"rows must be bool or integer (m,), got {chosen.dtype} {chosen.shape}"
            )
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if outside.size:
            raise ValueError(f"row {outside[0]} is outside 0..{len(self) - 1}")
        return Split(
            self.x[chosen],
            None if self._labels is None else self._labels[chosen],
            self.supervision,
            self.indices[chosen],
            self.labelled[chosen] if SHOWS[self.supervision] == "some" else None,
            self.database,
            None if self.views is None else self.views[chosen],
            None if self.other is None else self.other[chosen],
            self.parts,
            self.semantics,
        )


def _checked_semantics(semantics: npt.ArrayLike, classes: int) -> npt.NDArray[np.float32]:
    """A read-only copy float32 (C, k). Raises ValueError if it is none of C finite vectors."""
    given = np.asarray(semantics)
    if given.ndim != 2 or len(given) != classes or not given.shape[1]:
        raise ValueError(f"semantics must be (C, k) of {classes} classes, got {given.shape}")
    if not (np.issubdtype(given.dtype, np.floating) or np.issubdtype(given.dtype, np.integer)):
        raise ValueError(f"semantics must be of a real number type, got {given.dtype}")
    words = given.astype(np.float32)
    finite = np.isfinite(words).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"semantics hold NaN or infinity, first for class {row}")
    words.flags.writeable = False
    return words


def _checked_rows(x: npt.NDArray[Any]) -> int:
    """Number of rows of x. Raises ValueError if x is no array of finite real numbers."""
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"x must be a non-empty array (n, ...) of at least 2 dimensions, got "
            f"{type(x).__name__} {getattr(x, 'shape', '')}"
        )
    if np.issubdtype(x.dtype, np.floating):
        # In pieces: x may be memory-mapped and larger than the memory.
        step = max(1, _CHECK_ELEMENTS // (x.size // len(x)))
        for start in range(0, len(x), step):
            piece = x[start : start + step]
            finite = np.isfinite(piece).all(axis=tuple(range(1, x.ndim)))
            if not finite.all():
                row = start + int(np.flatnonzero(~finite)[0])
                raise ValueError(f"x holds NaN or infinity, first in row {row}")
    elif not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"x must be of a real number type, got {x.dtype}")
    return len(x)
