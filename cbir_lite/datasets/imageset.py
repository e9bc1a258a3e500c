"""What a loader returns: images, multi-hot labels, and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cbir_lite._cache import sha256_array, sha256_file


class DataUnavailable(RuntimeError):
    """No source of a data set could be reached; says what was tried and what to put where."""


class DataCorrupt(RuntimeError):
    """A file is truncated or altered; names it, the expected and the found hash, the remedy."""


def read_image(path: str | Path, *, at_least: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode one image file to RGB, upright (EXIF orientation applied).

    Returns uint8 (H, W, 3). With ``at_least`` a JPEG file comes at 1/2, 1/4 or 1/8 of its size if
    its sides keep so many pixels, which takes a fraction of the time: for thumbnails, or to learn
    whether it can be read. Raises ValueError naming the file if it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            return np.asarray(_opaque(ImageOps.exif_transpose(image)).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: not a readable image ({error}). Remove it or replace it by an intact copy."
        ) from error


def _opaque(image: Image.Image) -> Image.Image:
    """The image on white paper where it is transparent, and 16 bits of grey brought to 8."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        high = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(high.astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


@dataclass(frozen=True, eq=False)
class ImageSet:
    """An image collection.

    Attributes:
        name: what :func:`cbir_lite.datasets.load` was asked for.
        images: uint8 (n, H, W, C), possibly memory-mapped; or n paths, decoded on reading.
        labels: multi-hot uint8 (n, C); single-label sets are one-hot.
        class_names: the C names.
        licence: terms of the images.
        source: who made the set, and where it can be had.
    """

    name: str
    images: npt.NDArray[np.uint8] | Sequence[Path]
    labels: npt.NDArray[np.uint8]
    class_names: tuple[str, ...]
    licence: str = "unknown"
    source: str = "unknown"
    known_hash: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        expected = (len(self.images), len(self.class_names))
        if self.labels.shape != expected or self.labels.dtype != np.uint8:
            raise ValueError(
                f"{self.name}: labels must be multi-hot uint8 of shape {expected}, "
                f"got {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """One image, uint8 (H, W, C). Raises ValueError naming an unreadable file."""
        item = self.images[index]
        return item if isinstance(item, np.ndarray) else read_image(item)

    def class_ids(self) -> npt.NDArray[np.int64]:
        """Class of each image, int64 (n,). Raises ValueError if the set is multi-label."""
        per_image = self.labels.sum(axis=1)
        if (per_image != 1).any():
            row = int(np.flatnonzero(per_image != 1)[0])
            raise ValueError(
                f"{self.name} is not single-label: image {row} has {int(per_image[row])} labels. "
                "Use .labels (multi-hot)."
            )
        return self.labels.argmax(axis=1)

    @cached_property
    def images_hash(self) -> str:
        """Hex sha256 of the content (not of names or labels), computed once; keys feature caches.

        Arrays: shape and uint8 values. Folders: the files' bytes, in order.
        """
        if self.known_hash is not None:
            return self.known_hash
        if isinstance(self.images, np.ndarray):
            return array_hash(self.images)
        return files_hash(sha256_file(path) for path in self.images)


def unlabelled(
    images: npt.NDArray[np.uint8] | Sequence[Path], name: str, known_hash: str | None = None
) -> ImageSet:
    """An :class:`ImageSet` of which nothing is known but the images: labels (n, 0)."""
    labels = np.zeros((len(images), 0), np.uint8)
    return ImageSet(name, images, labels, (), known_hash=known_hash)


def files_hash(digests: Iterable[str]) -> str:
    """:attr:`ImageSet.images_hash` of image files with these hex sha256, in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def array_hash(images: npt.NDArray[np.uint8]) -> str:
    """:attr:`ImageSet.images_hash` of an image array uint8 (n, H, W, C)."""
    return hashlib.sha256(f"{images.shape}{sha256_array(images)}".encode()).hexdigest()
