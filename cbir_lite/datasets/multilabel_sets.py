"""Sets a reader brings along: NUS-WIDE, MS COCO 2014, ImageNet and SVHN, read where they lie.

They are too large, or too closely licensed, to be fetched from here. The loaders read the published
layouts and leave image files on disk; :mod:`cbir_lite.datasets.multilabel_tasks` draws the splits
of the literature.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cbir_lite.datasets.imageset import DataCorrupt, DataUnavailable, ImageSet

CONCEPTS = 81
"""Concepts of NUS-WIDE that have ground truth."""
FREQUENT = 21
"""Of these, the most frequent ones are what most hashing papers use."""

_HASHNET = """
01514668 01537544 01560419 01629819 01632458 01664065 01685808 01687978 01698640 01729322
01774750 01797886 01819313 01828970 01944390 01986214 02017213 02018207 02077923 02088466
02093256 02094114 02096177 02096294 02097209 02098105 02102177 02105162 02106550 02111129
02111277 02113023 02128385 02256656 02281787 02346627 02391049 02408429 02415577 02454379
02488291 02526121 02655020 02834397 02840245 02841315 02865351 02871525 02895154 02939185
02948072 02965783 02992211 03018349 03045698 03047690 03196217 03223299 03272562 03291819
03345487 03445924 03483316 03584829 03680355 03690938 03733131 03743016 03803284 03814639
03838899 03857828 03891332 03895866 03899768 03902125 03944341 04026417 04153751 04201297
04238763 04254120 04344873 04350905 04366367 04404412 04417672 04435653 04486054 04548362
04560804 04579432 04596742 07583066 07584110 07753113 07754684 07836838 12057211 13044778
"""
HASHNET_CLASSES = tuple(f"n{number}" for number in _HASHNET.split())
"""The 100 classes of ImageNet that HashNet drew and that hashing papers have used since."""


@dataclass(frozen=True)
class Brought:
    """One set: what to put where, and under which terms.

    Attributes:
        name: first part of the name for :func:`cbir_lite.datasets.load`, and of the cache folder.
        files: the files and folders to put there.
        gigabytes: size of the images, in GB.
        licence: terms.
        source: authors and home.
    """

    name: str
    files: str
    gigabytes: float
    licence: str
    source: str

    def missing(self, folder: Path, path: Path, more: str = "") -> DataUnavailable:
        """The error that ``path`` does not exist in ``folder``."""
        return DataUnavailable(
            f"{self.name}: {path} does not exist{more}. By hand: put {self.files} into {folder}, "
            f"or pass root=FOLDER that holds them. Size {self.gigabytes} GB; licence: "
            f"{self.licence}; source: {self.source}."
        )

    def first(self, folder: Path, *places: str) -> Path:
        """The first of ``places`` (alternatives of one file or folder) that exists there."""
        for place in places:
            if (folder / place).exists():
                return folder / place
        raise self.missing(folder, folder / places[0])

    def image_set(
        self,
        name: str,
        folder: Path,
        paths: list[Path],
        labels: npt.NDArray[np.uint8],
        class_names: Iterable[str],
    ) -> ImageSet:
        """The set, after a look at every file; raises ``DataUnavailable`` naming a missing one."""
        digest, gone = hashlib.sha256(), []
        for path in paths:
            try:
                size = os.stat(path).st_size
            except FileNotFoundError:
                gone.append(path)
                continue
            digest.update(f"{path.relative_to(folder).as_posix()}:{size}\n".encode())
        if gone:
            raise self.missing(
                folder, gone[0], f" ({len(gone)} of {len(paths)} images are missing)"
            )
        # Names and sizes stand for the content: to read all of it takes as long as to use it.
        return ImageSet(
            name, tuple(paths), labels, tuple(class_names), self.licence, self.source,
            known_hash=digest.hexdigest(),
        )  # fmt: skip


NUS_WIDE = Brought(
    "nus_wide",
    "Groundtruth/AllLabels/Labels_*.txt, ImageList/Imagelist.txt and the images in "
    "Flickr/<folder>/*.jpg",
    31,
    "free for research; the images belong to their owners on Flickr",
    "Chua et al., NUS-WIDE (CIVR 2009), "
    "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
)
COCO = Brought(
    "coco",
    "annotations/instances_train2014.json, annotations/instances_val2014.json and the images in "
    "train2014/ and val2014/",
    20,
    "annotations CC BY 4.0; the images under the terms of Flickr",
    "Lin et al., Microsoft COCO (ECCV 2014), https://cocodataset.org",
)
IMAGENET = Brought(
    "imagenet",
    "the images of ILSVRC2012 in train/<class>/*.JPEG and val/<class>/*.JPEG (classes as n01440764;"
    " or val/*.JPEG with LOC_val_solution.csv)",
    145,
    "research and education only, after registration",
    "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge (IJCV 2015), "
    "https://image-net.org",
)
SVHN = Brought(
    "svhn",
    "train_32x32.mat and test_32x32.mat (cropped digits)",
    0.25,
    "non-commercial use only",
    "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning (2011), "
    "http://ufldl.stanford.edu/housenumbers",
)
BROUGHT = {brought.name: brought for brought in (NUS_WIDE, COCO, IMAGENET, SVHN)}


def load_brought(name: str, folder: Path) -> ImageSet:
    """``nus_wide``, ``nus_wide:81``, ``coco``, ``imagenet``, ``imagenet:100`` or ``svhn``.

    ``folder`` holds the published files. Image files stay on disk as paths, without labels left
    out; ``images_hash`` follows their names and sizes. Raises ``ValueError`` for another name,
    ``DataUnavailable`` for a missing file, with all there is to know about getting it, and
    ``DataCorrupt`` for a file that is not what it should be; each names the file.
    """
    base, _, part = name.partition(":")
    if base == "nus_wide" and part in ("", str(CONCEPTS)):
        return load_nus_wide(folder, CONCEPTS if part else FREQUENT)
    if base == "coco" and not part:
        return load_coco(folder)
    if base == "imagenet" and part in ("", "100"):
        return load_imagenet(folder, HASHNET_CLASSES if part else None)
    if base == "svhn" and not part:
        return load_svhn(folder)
    raise ValueError(f"unknown part {part!r} of {base}: use nus_wide:81, imagenet:100 or no part")


def load_nus_wide(folder: Path, concepts: int = FREQUENT) -> ImageSet:
    """NUS-WIDE with its most frequent concepts, images in the order of the published list."""
    table = NUS_WIDE.first(folder, "ImageList/Imagelist.txt", "Imagelist.txt")
    truth = NUS_WIDE.first(folder, "Groundtruth/AllLabels", "AllLabels")
    images = NUS_WIDE.first(folder, "Flickr", "images")
    # The published lists are written with the separators of Windows.
    names = [line.strip().replace("\\", "/") for line in table.read_text().splitlines()]
    names = [name for name in names if name]
    files = sorted(truth.glob("Labels_*.txt"))
    if len(files) != CONCEPTS:
        raise NUS_WIDE.missing(
            folder, truth / "Labels_*.txt", f" {CONCEPTS} times (found {len(files)})"
        )
    columns = np.stack([_zeros_and_ones(file, len(names)) for file in files], axis=1)
    # Frequent first; of equally frequent ones the first by name.
    chosen = np.sort(np.argsort(-columns.sum(axis=0, dtype=np.int64), kind="stable")[:concepts])
    labels = columns[:, chosen]
    kept = np.flatnonzero(labels.any(axis=1))
    return NUS_WIDE.image_set(
        "nus_wide" if concepts == FREQUENT else f"nus_wide:{concepts}",
        folder,
        [images / names[i] for i in kept],
        np.ascontiguousarray(labels[kept]),
        (files[i].stem.removeprefix("Labels_") for i in chosen),
    )


def _zeros_and_ones(file: Path, n: int) -> npt.NDArray[np.uint8]:
    values = np.array(file.read_bytes().split())
    if len(values) != n or not np.isin(values, (b"0", b"1")).all():
        raise DataCorrupt(
            f"{file} is truncated or altered: expected {n} lines of 0 or 1, as many as the list of "
            f"images has, found {len(values)} values. Replace it by an intact copy."
        )
    return (values == b"1").astype(np.uint8)


def load_coco(folder: Path) -> ImageSet:
    """MS COCO 2014, training then validation half, each by image id; 80 categories."""
    paths: list[Path] = []
    rows: list[set[int]] = []
    names: dict[int, str] = {}
    for half in ("train2014", "val2014"):
        file = COCO.first(folder, f"annotations/instances_{half}.json", f"instances_{half}.json")
        images = COCO.first(folder, half, f"images/{half}")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            names |= {int(c["id"]): str(c["name"]) for c in data["categories"]}
            found: dict[int, set[int]] = {int(image["id"]): set() for image in data["images"]}
            for annotation in data["annotations"]:
                found[int(annotation["image_id"])].add(int(annotation["category_id"]))
            file_names = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(
                f"{file} is truncated or altered: {type(error).__name__}: {error}. "
                "Replace it by an intact copy."
            ) from error
        for id_ in sorted(i for i, categories in found.items() if categories):
            paths.append(images / file_names[id_])
            rows.append(found[id_])
    column = {id_: k for k, id_ in enumerate(sorted(names))}
    labels = np.zeros((len(rows), len(column)), np.uint8)
    for row, categories in enumerate(rows):
        labels[row, [column[id_] for id_ in categories]] = 1
    return COCO.image_set("coco", folder, paths, labels, (names[id_] for id_ in sorted(names)))


def load_imagenet(folder: Path, classes: tuple[str, ...] | None = None) -> ImageSet:
    """ILSVRC2012, training then validation images, each by class and name; ``classes`` or all."""
    kaggle = "ILSVRC/Data/CLS-LOC"
    halves = [IMAGENET.first(folder, half, f"{kaggle}/{half}") for half in ("train", "val")]
    present = sorted(p.name for p in halves[0].iterdir() if p.is_dir())
    wanted = tuple(present) if classes is None else classes
    if not wanted:
        raise IMAGENET.missing(folder, halves[0] / "n01440764")
    flat = _solution(folder, halves[1]) if any(halves[1].glob("*.JPEG")) else None
    paths: list[Path] = []
    ids: list[int] = []
    for half in halves:
        for id_, wnid in enumerate(wanted):
            if half is halves[1] and flat is not None:
                members = flat.get(wnid, [])
            else:
                members = sorted(p for p in (half / wnid).glob("*") if p.suffix == ".JPEG")
            if not members:
                raise IMAGENET.missing(folder, half / wnid / "*.JPEG")
            paths += members
            ids += [id_] * len(members)
    labels = np.zeros((len(ids), len(wanted)), np.uint8)
    labels[np.arange(len(ids)), ids] = 1
    name = "imagenet" if classes is None else f"imagenet:{len(wanted)}"
    return IMAGENET.image_set(name, folder, paths, labels, wanted)


def _solution(folder: Path, val: Path) -> dict[str, list[Path]]:
    """Validation images of each class where all lie in one folder, by the published table."""
    table = IMAGENET.first(folder, "LOC_val_solution.csv")
    members: dict[str, list[Path]] = {}
    with table.open(newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                wnid, image = row["PredictionString"].split()[0], row["ImageId"]
            except (KeyError, AttributeError, IndexError) as error:
                raise DataCorrupt(
                    f"{table} is truncated or altered: row {row}. Replace it by an intact copy."
                ) from error
            members.setdefault(wnid, []).append(val / f"{image}.JPEG")
    return {wnid: sorted(paths) for wnid, paths in members.items()}


def load_svhn(folder: Path) -> ImageSet:
    """SVHN, cropped digits in the published order: training 73257, then test 26032 images.

    The extra images are not read. Classes are the digits: the published label 10 means 0.
    """
    halves = [_digits_of(SVHN.first(folder, f"{h}_32x32.mat")) for h in ("train", "test")]
    images, ids = (np.concatenate(parts) for parts in zip(*halves, strict=True))
    images.flags.writeable = False
    labels = np.eye(10, dtype=np.uint8)[ids]
    return ImageSet("svhn", images, labels, tuple("0123456789"), SVHN.licence, SVHN.source)


def _digits_of(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images uint8 (n, 32, 32, 3) and digits uint8 (n,) of one MATLAB file: X and y."""
    from scipy.io import loadmat

    try:
        read = loadmat(file, variable_names=("X", "y"))
        x, y = read["X"], read["y"].ravel()
        if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(y)):
            raise ValueError(f"expected X uint8 (32, 32, 3, {len(y)}), found {x.dtype} {x.shape}")
        if not np.isin(y, np.arange(1, 11)).all():
            raise ValueError(f"expected labels 1 to 10, found {y.min()} to {y.max()}")
    except Exception as error:  # a mangled file may raise anything
        raise DataCorrupt(
            f"{file} is truncated or altered: {type(error).__name__}: {error}. "
            "Replace it by an intact copy."
        ) from error
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), (y % 10).astype(np.uint8)
