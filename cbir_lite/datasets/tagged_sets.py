"""Images with words a reader brings along: MIRFlickr-25K with tags, MS COCO 2014 with captions.

These are the sets on which cross-modal retrieval is usually measured (survey, Section VII-A). The
words become a bag of words, one row an image: the second modality of a
:class:`~cbir_lite.datasets.split.Split`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cbir_lite.datasets.imageset import DataCorrupt, ImageSet
from cbir_lite.datasets.multilabel_sets import COCO, Brought, load_coco

MIRFLICKR = Brought(
    "mirflickr",
    "the images in mirflickr/im*.jpg, the tags in mirflickr/meta/tags/tags*.txt and the "
    "annotations in mirflickr25k_annotations_v080/*.txt",
    3,
    "the Creative Commons licence that each photographer chose",
    "Huiskes and Lew, The MIR Flickr Retrieval Evaluation (MIR 2008), "
    "https://press.liacs.nl/mirflickr",
)
TAGGED = ("mirflickr", "mirflickr:relevant", "coco:captions")
"""Names for :func:`load_tagged`."""
LEAST = 20
"""A tag of MIRFlickr is a word if at least so many images have it, as in cross-modal hashing."""
MOST = 2000
"""So many words of the captions of COCO are kept, the most frequent ones."""
_FUNCTION_WORDS = """
a about after an and are around as at away back be being by down for from has have her his in into
is it its near next of off on one other out over some that the their them there they this three to
two up very while who with
"""
_STOP = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True, eq=False)
class Tagged:
    """Images that have words.

    Attributes:
        images: the images with their labels; those without a label or a word are left out.
        texts: what was written about each image: its tags, or its captions.
        words: multi-hot uint8 (n, V), whether a word is among them.
        vocabulary: the V words in alphabetical order.
    """

    images: ImageSet
    texts: tuple[tuple[str, ...], ...]
    words: npt.NDArray[np.uint8]
    vocabulary: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def load_tagged(name: str, folder: str | Path) -> Tagged:
    """A set of :data:`TAGGED` from a folder that holds its published files.

    ``mirflickr`` has the 24 potential labels, ``mirflickr:relevant`` those 14 that annotators found
    relevant (``*_r1.txt``); ``coco:captions`` the 80 categories of COCO. Raises ``ValueError`` for
    another name, ``DataUnavailable`` for a missing file, with all there is to know about getting
    it, and ``DataCorrupt`` for a file that is not what it should be; each names the file.
    """
    if name == "coco:captions":
        return load_coco_captions(Path(folder))
    if name in TAGGED:
        return load_mirflickr(Path(folder), relevant=name.endswith(":relevant"))
    raise ValueError(f"unknown set with words {name!r}: use {', '.join(TAGGED)}")


def load_mirflickr(folder: Path, relevant: bool = False, least: int = LEAST) -> Tagged:
    """MIRFlickr-25K in the order of its numbers, with tags that at least ``least`` images have."""
    images = MIRFLICKR.first(folder, "mirflickr", "images", "mirflickr25k")
    tags = MIRFLICKR.first(folder, f"{images.name}/meta/tags", "meta/tags", "tags")
    notes = MIRFLICKR.first(folder, "mirflickr25k_annotations_v080", "annotations")
    numbers = sorted(
        int(path.stem.removeprefix("im"))
        for path in images.glob("im*.jpg")
        if path.stem.removeprefix("im").isdecimal()
    )
    if not numbers:
        raise MIRFLICKR.missing(folder, images / "im1.jpg")
    files = {f.stem: f for f in notes.glob("*.txt") if f.stem.lower() != "readme"}
    chosen = sorted(f for f in files if f.endswith("_r1") == relevant)
    if not chosen:
        raise MIRFLICKR.missing(folder, notes / ("*_r1.txt" if relevant else "*.txt"))
    row = {number: i for i, number in enumerate(numbers)}
    labels = np.zeros((len(numbers), len(chosen)), np.uint8)
    for column, label in enumerate(chosen):
        labels[[row[n] for n in _numbers(files[label], row)], column] = 1
    texts = []
    for number in numbers:
        if not (file := tags / f"tags{number}.txt").is_file():
            raise MIRFLICKR.missing(folder, file)
        texts.append(tuple(line.strip() for line in _lines(file) if line.strip()))
    images_set = MIRFLICKR.image_set(
        "mirflickr:relevant" if relevant else "mirflickr",
        folder,
        [images / f"im{number}.jpg" for number in numbers],
        labels,
        (label.removesuffix("_r1") for label in chosen),
    )
    counts = Counter(tag for own in texts for tag in set(own))
    return _with_words(images_set, texts, texts, [t for t, n in counts.items() if n >= least])


def load_coco_captions(folder: Path, most: int = MOST) -> Tagged:
    """The images of :func:`~cbir_lite.datasets.multilabel_sets.load_coco` with their captions.

    Words are runs of letters in lower case, without the most common function words.
    """
    images = load_coco(folder)
    captions: dict[str, list[str]] = {}
    for half in ("train2014", "val2014"):
        file = COCO.first(folder, f"annotations/captions_{half}.json", f"captions_{half}.json")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            names = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
            for entry in data["annotations"]:
                caption = " ".join(str(entry["caption"]).split())
                captions.setdefault(names[int(entry["image_id"])], []).append(caption)
        except (ValueError, KeyError, TypeError) as error:
            raise _broken(file, f"{type(error).__name__}: {error}") from error
    texts = [tuple(captions.get(Path(path).name, ())) for path in images.images]
    words = [
        tuple(w for w in re.findall(r"[a-z]+", " ".join(own).lower()) if w not in _STOP)
        for own in texts
    ]
    counts = Counter(word for own in words for word in set(own))
    # Of equally frequent words the first by name.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return _with_words(replace(images, name="coco:captions"), texts, words, ranked[:most])


def _with_words(
    images: ImageSet,
    texts: Sequence[tuple[str, ...]],
    words: Sequence[Iterable[str]],
    vocabulary: Iterable[str],
) -> Tagged:
    kept = sorted(vocabulary)
    column = {word: k for k, word in enumerate(kept)}
    bags = np.zeros((len(images), len(kept)), np.uint8)
    for i, own in enumerate(words):
        bags[i, [column[w] for w in own if w in column]] = 1
    rows = np.flatnonzero(bags.any(axis=1) & images.labels.any(axis=1)).tolist()
    part = replace(
        images,
        images=tuple(images.images[i] for i in rows),
        labels=np.ascontiguousarray(images.labels[rows]),
        known_hash=hashlib.sha256(f"{images.images_hash} {rows}".encode()).hexdigest(),
    )
    return Tagged(part, tuple(texts[i] for i in rows), bags[rows], tuple(kept))


def _numbers(file: Path, known: dict[int, int]) -> list[int]:
    """Numbers of images, one a line."""
    lines = [line.strip() for line in _lines(file) if line.strip()]
    wrong = [line for line in lines if not line.isdecimal() or int(line) not in known]
    if wrong:
        raise _broken(file, f"expected numbers of images, found {wrong[0]!r}")
    return [int(line) for line in lines]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        # Some of what people wrote on Flickr is kept in the encoding of its time.
        return file.read_text(encoding="latin-1").splitlines()


def _broken(file: Path, why: str) -> DataCorrupt:
    return DataCorrupt(f"{file} is truncated or altered: {why}. Replace it by an intact copy.")
