"""Sketch sets a reader brings along: Sketchy and TU-Berlin, read where they lie.

Both have to be asked for at their authors' pages, so they are not fetched from here. The loaders
read the published layouts and leave the drawings and photos on disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cbir_lite.datasets.imageset import DataCorrupt, ImageSet
from cbir_lite.datasets.multilabel_sets import Brought

_PLAIN = "tx_000000000000"
"""Folder of Sketchy for drawings and photos as they are; others hold moved and scaled copies."""

SKETCHY = Brought(
    "sketchy",
    "sketch/tx_000000000000/<class>/<photo>-<k>.png and photo/tx_000000000000/<class>/<photo>.jpg "
    "(the folder 256x256 of the rendered set; EXTEND_image_sketchy/<class>/*.jpg for the extended "
    "one)",
    2,
    "free for research; the photos are those of ImageNet",
    "Sangkloy et al., The Sketchy Database (SIGGRAPH 2016), https://sketchy.eye.gatech.edu",
)
TU_BERLIN = Brought(
    "tu_berlin",
    "<class>/<number>.png, as in the folder png of sketches_png.zip",
    1,
    "CC BY 4.0",
    "Eitz et al., How Do Humans Sketch Objects? (SIGGRAPH 2012), "
    "https://cybertron.cg.tu-berlin.de/eitz/projects/classifysketch/",
)
SKETCH_SETS = {brought.name: brought for brought in (SKETCHY, TU_BERLIN)}


def load_sketches(name: str, folder: Path) -> ImageSet:
    """``"sketchy"``, ``"sketchy:photos"``, ``"sketchy:sketches"``, ``"sketchy:extended"`` or
    ``"tu_berlin"``.

    ``folder`` holds the published files. Images stay on disk as paths; ``images_hash`` follows
    their names and sizes. ``sketchy`` is the photos, then the sketches; :func:`photo_of` says which
    photo a sketch shows. Raises ``ValueError`` for another name, ``DataUnavailable`` for a missing
    file or folder, ``DataCorrupt`` for a sketch whose photo is not there.
    """
    base, _, part = name.partition(":")
    if base == "sketchy" and part in ("", "photos", "sketches", "extended"):
        return load_sketchy(folder, part)
    if base == "tu_berlin" and not part:
        return load_tu_berlin(folder)
    raise ValueError(
        f"unknown sketch set {name!r}: use sketchy, sketchy:photos, sketchy:sketches, "
        "sketchy:extended or tu_berlin"
    )


def load_sketchy(folder: Path, part: str = "") -> ImageSet:
    """Sketchy by class and name: the photos, then the sketches, or one ``part`` of them.

    ``extended`` puts the photos of the extended set, which no sketch was drawn from, in place of
    the photos. Classes are those of the sketches, so both sides have the same columns.
    """
    drawn = SKETCHY.first(folder, f"sketch/{_PLAIN}", f"256x256/sketch/{_PLAIN}")
    sketches = _by_class(SKETCHY, folder, drawn, ".png")
    classes = tuple(sketches)
    members: list[tuple[str, Path]] = []
    if part != "sketches":
        if part == "extended":
            place = SKETCHY.first(folder, "EXTEND_image_sketchy", "extended_photo")
        else:
            place = SKETCHY.first(folder, f"photo/{_PLAIN}", f"256x256/photo/{_PLAIN}")
        photos = _by_class(SKETCHY, folder, place, ".jpg", classes)
        members += [(c, p) for c in classes for p in photos[c]]
    if part in ("", "sketches"):
        members += [(c, p) for c in classes for p in sketches[c]]
    images = _image_set(SKETCHY, f"sketchy:{part}" if part else "sketchy", folder, members, classes)
    if not part:
        photo_of(images)
    return images


def load_tu_berlin(folder: Path) -> ImageSet:
    """TU-Berlin by class and number of the drawing."""
    place = next((folder / p for p in ("png", "sketches") if (folder / p).is_dir()), folder)
    sketches = _by_class(TU_BERLIN, folder, place, ".png")
    members = [
        (c, path)
        for c, paths in sketches.items()
        for path in sorted(paths, key=lambda p: (p.stem.zfill(12), p.name))
    ]
    return _image_set(TU_BERLIN, "tu_berlin", folder, members, tuple(sketches))


def photo_of(images: ImageSet) -> npt.NDArray[np.int64]:
    """Row of the photo that each image of Sketchy shows (n,): a photo's is its own.

    Raises ``DataCorrupt`` naming a sketch whose photo is not in the set.
    """
    paths = [Path(str(p)) for p in images.images]
    rows = {(p.parent.name, p.stem): i for i, p in enumerate(paths) if p.suffix == ".jpg"}
    shown = np.empty(len(paths), np.int64)
    for i, path in enumerate(paths):
        # The last part of a sketch's name counts the drawings of one photo.
        stem = path.stem if path.suffix == ".jpg" else path.stem.rpartition("-")[0]
        photo = rows.get((path.parent.name, stem))
        if photo is None:
            raise DataCorrupt(
                f"{path} was drawn from a photo {stem or path.stem}.jpg of class "
                f"{path.parent.name} that is not in the set. Unpack the photos again, or load "
                "sketchy:sketches."
            )
        shown[i] = photo
    return shown


def _by_class(
    brought: Brought, folder: Path, place: Path, suffix: str, classes: Iterable[str] = ()
) -> dict[str, list[Path]]:
    """Files of each class folder in ``place``; of all folders that hold any, or of ``classes``."""
    if not place.is_dir():
        raise brought.missing(folder, place)
    wanted = tuple(classes) or tuple(sorted(p.name for p in place.iterdir() if p.is_dir()))
    found = {c: sorted((place / c).glob(f"*{suffix}")) for c in wanted}
    if not classes:
        found = {c: paths for c, paths in found.items() if paths}
    empty = next((c for c, paths in found.items() if not paths), None if found else "<class>")
    if empty is not None:
        raise brought.missing(folder, place / empty / f"*{suffix}")
    return found


def _image_set(
    brought: Brought,
    name: str,
    folder: Path,
    members: list[tuple[str, Path]],
    classes: tuple[str, ...],
) -> ImageSet:
    """One-hot labels by the class that each member came from."""
    column = {c: k for k, c in enumerate(classes)}
    labels = np.zeros((len(members), len(classes)), np.uint8)
    labels[np.arange(len(members)), [column[c] for c, _ in members]] = 1
    return brought.image_set(name, folder, [path for _, path in members], labels, classes)
