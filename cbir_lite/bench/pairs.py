"""Cross-modal benches on the emoji set: words and pictures, line art and colour.

A frozen split speaks of *items*: the pictures of the set (style by style), then one text for each
concept. So one protocol can have texts as queries and pictures as database, or the other way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cbir_lite.bench.setting import Setting
from cbir_lite.datasets import Emoji, Protocol, Split, emoji_protocol, load_emoji, protocol
from cbir_lite.datasets.emoji_sources import COLOUR, LINES, STYLES
from cbir_lite.datasets.protocol_files import UnknownProtocol
from cbir_lite.datasets.split import SHOWS
from cbir_lite.methods.base import Method

TASKS = ("text-to-image", "image-to-text", "sketch-to-image", "sketch-zero-shot")
_CONCEPT = "-concept"
_TAGS = "tags"
EMOJI = tuple(
    f"emoji-{task}"
    for task in (
        *("category", "instance", "sketch", "zero_shot_sketch", "faces"),
        *(f"{task}{judged}" for task in TASKS for judged in ("", _CONCEPT)),
        _TAGS,
    )
)
"""Protocols without a file, drawn from the emoji set."""


def pair_protocol(source: Emoji, name: str) -> Protocol:
    """The frozen split of a cross-modal task over pictures and texts.

    - ``text-to-image`` and ``image-to-text``: half of the concepts train, in colour; a tenth are
      queries, the rest the database.
    - ``sketch-to-image``: the concepts of the database were trained on, in colour and in one style
      of lines; the queries are drawn in the other style of lines.
    - ``sketch-zero-shot``: queries and database show concepts that training never saw.

    Items are relevant if they share the group; with ``-concept`` behind the task, if they show the
    same concept. Raises ``ValueError`` for another task.
    """
    task = name.removesuffix(_CONCEPT)
    n = len(source)
    texts = len(STYLES) * n
    train, query, database = source.parts(0.5, 0.1, 0.4)
    if task == "text-to-image":
        parts = [texts + query, source.rows(train, COLOUR), source.rows(database, COLOUR)]
    elif task == "image-to-text":
        parts = [source.rows(query, COLOUR), source.rows(train, COLOUR), texts + database]
    elif task == "sketch-to-image":
        parts = [source.rows(train, LINES[1:]), *[source.rows(train, COLOUR)] * 2]
    elif task == "sketch-zero-shot":
        unseen = np.sort(np.concatenate([query, database]))
        parts = [source.rows(unseen, LINES), source.rows(train, COLOUR)]
        parts.append(source.rows(unseen, COLOUR))
    else:
        raise ValueError(f"unknown cross-modal task {task!r}: use {', '.join(TASKS)}")
    return Protocol(
        f"emoji-{name}", "emoji", parts[0], parts[1], parts[2], texts + n,
        "Items: pictures style by style, then the texts of the concepts.",
    )  # fmt: skip


@dataclass
class PairSetting(Setting):
    """A bench whose queries and database may be of different modalities.

    Args:
        protocol: ``emoji-TASK`` or ``emoji-TASK-concept``, see :func:`pair_protocol`.
        backbone: of pictures and sketches; texts are multi-hot words.

    >>> setting = PairSetting("emoji-text-to-image", "efficientnet_lite0-96")  # doctest: +SKIP
    """

    divisible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.protocol, str):
            self.protocol = pair_protocol(self.source, self.protocol.removeprefix("emoji-"))
        if self.images is None:
            concept = self.frozen.name.endswith(_CONCEPT)
            self.images = self.source.image_set("concept" if concept else "group")

    @cached_property
    def source(self) -> Emoji:
        """The set behind the split."""
        return load_emoji()

    @property
    def modality(self) -> str:
        """``text`` or ``sketch``: what the second modality of this split is."""
        rows = np.concatenate([self.frozen.query, self.frozen.database])
        return "text" if (rows >= len(self.image_set)).any() else "sketch"

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """Multi-hot labels of all items, pictures then texts."""
        pictures = np.asarray(self.image_set.labels)
        return np.concatenate([pictures, pictures[: len(self.source)]])

    @cached_property
    def class_words(self) -> NDArray[np.float32]:
        """The mean words (C, V) of the training concepts of each class, of length one.

        Nothing is known of other concepts: a class without training concepts has the zero vector.
        """
        concepts = np.unique(self.frozen.train % len(self.source))
        words = self.source.words[concepts].astype(np.float32)
        # A sum, as the length is one in the end; labels of pictures start with every concept.
        total = self.labels[concepts].T.astype(np.float32) @ words
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def other_rows(self, rows: NDArray[np.int64], kind: str = "pooled") -> NDArray[Any]:
        """The second modality of items (n, ...): the words, or line art's features of a ``kind``.

        For the training pictures of a sketch task it is the drawing of the same concept in the
        first style of lines; line art itself, and texts, are taken as they are.
        """
        concept = rows % len(self.source)
        if self.modality == "text":
            return self.source.words[concept].astype(np.float32)
        drawn = rows // len(self.source) >= len(COLOUR)
        lines = list(STYLES).index(LINES[0]) * len(self.source) + concept
        return self.features(kind)[np.where(drawn, rows, lines)]

    def _is_other(self, rows: NDArray[np.int64]) -> bool:
        return bool((rows >= len(COLOUR) * len(self.source)).all())

    def split(self, method: Method, *, kind: str | None = None, **options: Any) -> Split:
        """Training pairs: colour pictures with their words, or with line art of their concept.

        Beside line art, systems that see all labels are given words of the classes.
        """
        if method.modality != self.modality:
            raise ValueError(
                f"{type(method).__name__} reads {method.modality or 'pictures only'}, the split "
                f"{self.frozen.name} pairs pictures with {self.modality}"
            )
        train = self.frozen.train
        if self.modality == "sketch" and SHOWS[method.sees] == "all":
            options.setdefault("semantics", self.class_words)
        return Split(
            self.features(kind or method.reads)[train],
            self.labels[train],
            method.sees,
            train,
            other=self.other_rows(train, method.other_reads),
            **options,
        )

    def represent(
        self, method: Method, kind: str | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What a fitted system holds of the queries and of the database."""
        kind = kind or method.reads
        out = []
        for rows in (self.frozen.query, self.frozen.database):
            if self._is_other(rows):
                out.append(method.encode_other(self.other_rows(rows, method.other_reads)))
            else:
                out.append(method.encode_database(self.features(kind)[rows]))
        return out[0], out[1]


@dataclass
class TagSetting(Setting):
    """The emoji set where systems learn from words and are judged by groups they never see.

    The words of a concept stand for the tags that pictures of the web come with (survey Section
    IV-C).
    """

    divisible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.protocol, str):
            self.protocol = frozen_protocol(self.protocol)
        if self.images is None:
            self.images = load_emoji().image_set()

    @cached_property
    def taught(self) -> NDArray[np.uint8]:
        """The words of each picture, multi-hot."""
        return np.asarray(load_emoji().image_set("word").labels)


def frozen_protocol(name: str) -> Protocol:
    """The split of a name: a file of the package, or a task of the emoji set (``emoji-TASK``)."""
    if not name.startswith("emoji-"):
        try:
            return protocol(name)
        except UnknownProtocol as error:
            raise UnknownProtocol(f"{error}; of the emoji set: {', '.join(EMOJI)}") from None
    task = name.removeprefix("emoji-")
    if task.removesuffix(_CONCEPT) in TASKS:
        return pair_protocol(load_emoji(), task)
    if task == _TAGS:
        category = emoji_protocol(load_emoji(), "category")
        return replace(category, name=name, description="Learned from words, judged by groups.")
    return emoji_protocol(load_emoji(), task)


def home_protocol(method: type[Method]) -> str:
    """The split where a system is measured first.

    Text and sketch systems have their pairs in the emoji set, systems of weak supervision its
    words; real-valued descriptors of anything but pooled features are made to find one thing again;
    all others are measured on CIFAR-10.
    """
    if method.modality == "text":
        return "emoji-text-to-image"
    if method.modality == "sketch":
        return "emoji-sketch-to-image"
    if method.supervision == "weakly-supervised":
        return f"emoji-{_TAGS}"
    if method.reads != "pooled" and method.descriptor == "real":
        return "emoji-instance"
    return "cifar10-59k"


def open_setting(name: str, backbone: str, *, progress: bool = False) -> Setting:
    """The bench of a protocol by name, see :func:`frozen_protocol`."""
    frozen = frozen_protocol(name)
    if frozen.dataset != "emoji":
        return Setting(frozen, backbone, progress=progress)
    task = name.removeprefix("emoji-")
    if task.removesuffix(_CONCEPT) in TASKS:
        return PairSetting(frozen, backbone, progress=progress)
    if task == _TAGS:
        return TagSetting(frozen, backbone, progress=progress)
    labels = "group" if task == "category" else "concept"
    return Setting(frozen, backbone, load_emoji().image_set(labels), progress)
