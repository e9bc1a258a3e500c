"""Oxford5k and Paris6k with their classic and their revisited ground truth.

The queries are boxes in images; what counts as found is written down per query, with images that
count neither way (junk). The sets are brought along by the reader; the scores are those of
:mod:`cbir_lite.retrieval.landmarks`. Survey: Section VII-C (instances), e.g. [65], [72], [164].
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets.formats import _ArraysOnly
from cbir_lite.datasets.imageset import DataCorrupt, ImageSet
from cbir_lite.datasets.multilabel_sets import Brought

Int64 = NDArray[np.int64]

_REVISITED = "Radenovic et al., Revisiting Oxford and Paris (CVPR 2018)"
_HOMES = "images and classic ground truth: www.robots.ox.ac.uk/~vgg/data"
OXFORD = Brought(
    "oxford5k",
    "the images in jpg/*.jpg, and gnd_roxford5k.pkl or the classic files in gt/*_query.txt, "
    "*_good.txt, *_ok.txt and *_junk.txt",
    2,
    "research only; the images belong to their owners on Flickr",
    f"Philbin et al., Object retrieval with large vocabularies (CVPR 2007), {_HOMES}/oxbuildings; "
    f"{_REVISITED}",
)
PARIS = Brought(
    "paris6k",
    "the images below jpg/, and gnd_rparis6k.pkl or the classic files in gt/*_query.txt, "
    "*_good.txt, *_ok.txt and *_junk.txt",
    3,
    "research only; the images belong to their owners on Flickr",
    f"Philbin et al., Lost in quantization (CVPR 2008), {_HOMES}/parisbuildings; {_REVISITED}",
)
LANDMARKS = {"oxford5k": OXFORD, "paris6k": PARIS, "roxford5k": OXFORD, "rparis6k": PARIS}
"""Names of the sets; with an r in front, the revisited ground truth."""
_GRADES = {"classic": ("good", "ok", "junk"), "revisited": ("easy", "hard", "junk")}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Queries, the images that are searched, and what each query shall find.

    Attributes:
        name: as in :data:`LANDMARKS`.
        database: the images that are searched.
        queries: the images of the queries, whole; see :meth:`query_image`. Classes of both are the
            words of the published file names and say nothing about relevance.
        boxes: float64 (n_queries, 4): left, top, right, bottom of what is asked for, in pixels.
        truth: rows of the database for each query, int64, by grade: ``easy``, ``hard`` and
            ``junk`` of the revisited ground truth, ``good``, ``ok`` and ``junk`` of the classic.
    """

    name: str
    database: ImageSet
    queries: ImageSet
    boxes: NDArray[np.float64]
    truth: dict[str, tuple[Int64, ...]]

    def query_image(self, i: int) -> NDArray[np.uint8]:
        """The box of a query, uint8 (h, w, 3), cut out at whole pixels; never empty."""
        image = self.queries.read(i)
        left, top, right, bottom = np.rint(self.boxes[i]).astype(int)
        left, top = max(0, left), max(0, top)
        return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def load_landmarks(name: str, folder: str | Path) -> Landmarks:
    """``oxford5k``, ``paris6k`` (classic) or ``roxford5k``, ``rparis6k`` (revisited) from a folder.

    The revisited pickle is read without running anything in it. Raises ``ValueError`` for another
    name, ``DataUnavailable`` naming what is missing and how to get it, and ``DataCorrupt`` naming
    a file that is not what it should be.
    """
    if name not in LANDMARKS:
        raise ValueError(f"unknown set of landmarks {name!r}: use {', '.join(LANDMARKS)}")
    source, folder = LANDMARKS[name], Path(folder)
    if name.startswith("r"):
        return _revisited(name, source, folder)
    return _classic(name, source, folder)


class _TruthOnly(_ArraysOnly):
    """Unpickles lists, dicts, strings, numbers and arrays, and can run nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name == "bytes":
            return bytes  # empty arrays in the older protocols
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}; ground truth is made of lists, dicts, strings, numbers "
                "and arrays only"
            ) from None


def _revisited(name: str, source: Brought, folder: Path) -> Landmarks:
    file = source.first(folder, f"gnd_{name}.pkl")
    try:
        with file.open("rb") as stream:
            # Strings and arrays of Python 2 are read as well.
            read = _TruthOnly(stream, encoding="latin1").load()
        database, queries = ([str(n) for n in read[k]] for k in ("imlist", "qimlist"))
        entries = read["gnd"]
        if len(entries) != len(queries):
            raise ValueError(f"{len(queries)} queries, but ground truth for {len(entries)}")
        boxes = np.array([e["bbx"] for e in entries], np.float64).reshape(len(queries), 4)
        truth = {
            grade: tuple(np.unique(np.asarray(e[grade], np.int64)) for e in entries)
            for grade in _GRADES["revisited"]
        }
        _check(truth, len(database))
    except Exception as error:  # a mangled pickle may raise anything
        raise _broken(file, error) from error
    images = source.first(folder, "jpg", "images")
    found = {path.stem: path for path in images.rglob("*.jpg")}
    parts = [_images(name, source, folder, images, n, found) for n in (database, queries)]
    return Landmarks(name, parts[0], parts[1], boxes, truth)


def _classic(name: str, source: Brought, folder: Path) -> Landmarks:
    images = source.first(folder, "jpg", "images")
    found = {path.stem: path for path in sorted(images.rglob("*.jpg"), key=lambda p: p.stem)}
    row = {stem: i for i, stem in enumerate(found)}
    texts = source.first(folder, "gt", "gt_files", "groundtruth", "lab")
    files = sorted(texts.glob("*_query.txt"))
    if not files:
        raise source.missing(folder, texts / "*_query.txt")
    queries, boxes = [], []
    truth: dict[str, list[Int64]] = {grade: [] for grade in _GRADES["classic"]}
    for file in files:
        try:
            image, *numbers = file.read_text().split()
            # Queries of Oxford are named after their visual words: oxc1_<image>.
            queries.append(image.removeprefix("oxc1_"))
            left, top, right, bottom = map(float, numbers)
            boxes.append((left, top, right, bottom))
        except ValueError as error:
            raise _broken(file, "expected an image and four numbers") from error
        for grade in truth:
            part = source.first(folder, str((texts / file.name).relative_to(folder)).replace(
                "_query.txt", f"_{grade}.txt"))  # fmt: skip
            listed = part.read_text().split()
            absent = [n for n in listed if n not in row]
            if absent:
                raise source.missing(
                    folder, images / f"{absent[0]}.jpg", f" (it is named in {part.name})"
                )
            truth[grade].append(np.unique(np.array([row[n] for n in listed], np.int64)))
    whole = {grade: tuple(lists) for grade, lists in truth.items()}
    try:
        _check(whole, len(row))
    except ValueError as error:
        raise _broken(texts, error) from error
    parts = [_images(name, source, folder, images, n, found) for n in (list(row), queries)]
    return Landmarks(name, parts[0], parts[1], np.array(boxes, np.float64), whole)


def _check(truth: dict[str, tuple[Int64, ...]], n: int) -> None:
    """Rows exist, and none is of two grades for one query."""
    for i, lists in enumerate(zip(*truth.values(), strict=True)):
        rows = np.concatenate(lists)
        wrong = rows[(rows < 0) | (rows >= n)]
        if len(wrong):
            raise ValueError(f"query {i} names image {wrong[0]} of {n}")
        if len(np.unique(rows)) != len(rows):
            twice = int(np.flatnonzero(np.bincount(rows) > 1)[0])
            raise ValueError(f"query {i} has image {twice} under two grades")


def _images(
    name: str,
    source: Brought,
    folder: Path,
    images: Path,
    stems: Sequence[str],
    found: dict[str, Path],
) -> ImageSet:
    words = [re.sub(r"_?\d+$", "", stem) or "unnamed" for stem in stems]
    classes = sorted(set(words))
    labels = (np.array(words)[:, None] == np.array(classes)).astype(np.uint8)
    paths = [found.get(stem, images / f"{stem}.jpg") for stem in stems]
    return source.image_set(name, folder, paths, labels, classes)


def _broken(file: Path, why: object) -> DataCorrupt:
    kind = f"{type(why).__name__}: " if isinstance(why, Exception) else ""
    return DataCorrupt(
        f"{file} is truncated or altered: {kind}{why}. Replace it by an intact copy."
    )
