"""Pictures of the same concepts in several styles, with their words: the emoji set.

Four icon sets draw every concept in colour, two more in black lines; a name, a group and keywords
go with it. So one small set carries what Section VII of the survey needs: text and image, line art
and colour, unseen concepts, the same object in another rendering, and scenes with boxes.

The drawings come from the package registry as vector graphics (pinned versions and hashes) and are
rasterised here, once, into the cache.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cbir_lite._cache import cache_dir, lock
from cbir_lite.datasets.emoji_sources import LICENCE, STYLES, build
from cbir_lite.datasets.imageset import ImageSet

VERSION = 1
"""Raised when the same drawings would give other pictures or words."""
LABELS = ("group", "concept", "word")


@dataclass(frozen=True, eq=False)
class Emoji:
    """Every concept in every style.

    Attributes:
        characters: the emoji itself, one a concept, in the order of the Unicode list.
        names: its English name.
        groups: int64 (n,), position in ``group_names``.
        group_names: e.g. Animals & Nature.
        words: multi-hot uint8 (n, V), keywords of each concept.
        vocabulary: the V keywords.
        images: uint8 (n * S, 96, 96, 3), style by style in the order of :data:`STYLES`.
    """

    characters: tuple[str, ...]
    names: tuple[str, ...]
    groups: npt.NDArray[np.int64]
    group_names: tuple[str, ...]
    words: npt.NDArray[np.uint8]
    vocabulary: tuple[str, ...]
    images: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.characters)

    def rows(
        self, concepts: npt.NDArray[np.int64], styles: tuple[str, ...]
    ) -> npt.NDArray[np.int64]:
        """Ascending rows of ``images`` that show the concepts in the styles.

        Raises ``ValueError`` for an unknown style.
        """
        order = list(STYLES)
        if wrong := [s for s in styles if s not in order]:
            raise ValueError(f"unknown style {wrong[0]!r}: use {', '.join(order)}")
        return np.sort(np.concatenate([order.index(s) * len(self) + concepts for s in styles]))

    def image_set(self, labels: str = "group") -> ImageSet:
        """The pictures with ``group`` (category), ``concept`` (instance) or ``word`` labels."""
        if labels not in LABELS:
            raise ValueError(f"labels={labels!r}: use {', '.join(LABELS)}")
        hot, names = {
            "group": (np.eye(len(self.group_names), dtype=np.uint8)[self.groups], self.group_names),
            "concept": (np.eye(len(self), dtype=np.uint8), self.names),
            "word": (self.words, self.vocabulary),
        }[labels]
        return ImageSet(
            "emoji", self.images, np.tile(hot, (len(STYLES), 1)), names, LICENCE,
            "; ".join(s.package for s in STYLES.values()),
        )  # fmt: skip

    def parts(self, *shares: float, key: str = "emoji") -> list[npt.NDArray[np.int64]]:
        """The concepts divided in the given shares, in an order drawn from their characters.

        A concept keeps its part when others come or go, and the order is the same everywhere.

        >>> train, query, database = load_emoji().parts(0.5, 0.1, 0.4)  # doctest: +SKIP
        """
        if not shares or min(shares) <= 0 or not np.isclose(sum(shares), 1):
            raise ValueError(f"shares must be positive and sum to 1, got {shares}")
        digests = [hashlib.sha256(f"{key}:{c}".encode()).digest() for c in self.characters]
        order = np.array(sorted(range(len(self)), key=digests.__getitem__))
        cuts = np.round(np.cumsum(shares)[:-1] * len(self)).astype(int)
        return [np.sort(part).astype(np.int64) for part in np.split(order, cuts)]


@lru_cache(maxsize=1)
def load_emoji(root: str | Path | None = None) -> Emoji:
    """The set, from the cache or made now (about 12 MB of drawings, half a minute to rasterise).

    ``root`` is a folder with one folder a package (its last name part) that holds the files of
    :data:`STYLES`, :data:`NAMES` and :data:`WORDS`, for those without a package registry.

    Raises :class:`DataUnavailable` (no source; says what to put where), :class:`DataCorrupt` (a
    file with another hash), ``ImportError`` without the extra ``emoji``.
    """
    folder = cache_dir() / "emoji"
    facts, pictures = folder / f"facts-{VERSION}.json", folder / f"images-{VERSION}.npy"
    if not facts.exists():
        with lock(folder / "build"):
            if not facts.exists():
                build(folder, facts, pictures, None if root is None else Path(root))
    saved = json.loads(facts.read_text())
    vocabulary = tuple(saved["vocabulary"])
    words = np.zeros((len(saved["characters"]), len(vocabulary)), np.uint8)
    for row, columns in enumerate(saved["words"]):
        words[row, columns] = 1
    return Emoji(
        tuple(saved["characters"]),
        tuple(saved["names"]),
        np.array(saved["groups"], np.int64),
        tuple(saved["group_names"]),
        words,
        vocabulary,
        np.load(pictures, mmap_mode="r"),
    )
