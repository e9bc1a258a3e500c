"""Frozen splits of the emoji set: one for each type of retrieval (survey Section VII)."""

from __future__ import annotations

from cbir_lite.datasets.emoji import Emoji
from cbir_lite.datasets.emoji_sources import COLOUR, LINES, STYLES
from cbir_lite.datasets.protocol_files import Protocol


def emoji_protocol(source: Emoji, task: str) -> Protocol:
    """The frozen split of a task over the rows of ``images``.

    - ``category``: colour; queries are other concepts than training and database.
    - ``instance``: unseen concepts; a query in one style, the database in the other three.
    - ``sketch``: line art queries of concepts whose colour pictures were trained on.
    - ``zero_shot_sketch``: line art queries, concepts never seen in training.
    - ``faces``: as ``instance``, within Smileys & Emotion.

    ``category`` goes with group labels, the others with concept labels (categories are
    reasonable for the sketch tasks too). Raises ``ValueError`` for another task.
    """
    train, unseen = source.parts(0.5, 0.5)
    if task == "category":
        train, query, database = source.parts(0.5, 0.1, 0.4)
        parts = [source.rows(p, COLOUR) for p in (query, train, database)]
    elif task == "instance":
        parts = [
            source.rows(unseen, COLOUR[:1]),
            source.rows(train, COLOUR),
            source.rows(unseen, COLOUR[1:]),
        ]
    elif task == "sketch":
        # The lines of the queries are of concepts seen in colour, and in the other lines.
        parts = [
            source.rows(train, LINES[1:]),
            source.rows(train, COLOUR + LINES[:1]),
            source.rows(train, COLOUR),
        ]
    elif task == "zero_shot_sketch":
        parts = [
            source.rows(unseen, LINES),
            source.rows(train, tuple(STYLES)),
            source.rows(unseen, COLOUR),
        ]
    elif task == "faces":
        face = source.groups == source.group_names.index("Smileys & Emotion")
        train, unseen = (p[face[p]] for p in (train, unseen))
        parts = [
            source.rows(unseen, COLOUR[:1]),
            source.rows(train, COLOUR),
            source.rows(unseen, COLOUR[1:]),
        ]
    else:
        raise ValueError(
            f"unknown task {task!r}: use category, instance, sketch, zero_shot_sketch or faces"
        )
    query, train, database = parts
    return Protocol(
        f"emoji-{task}", "emoji", query, train, database, len(source.images),
        "Concepts in the order of sha256('emoji:<character>').",
    )  # fmt: skip
