"""The emoji set from tiny packages in the registry's format: drawings, words, splits, scenes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cbir_lite.datasets import (
    DataCorrupt,
    DataUnavailable,
    compose_scenes,
    emoji_protocol,
    emoji_sources,
    load_emoji,
)
from cbir_lite.datasets.emoji import Emoji
from cbir_lite.datasets.emoji_sources import COLOUR, LINES, STYLES

CHARACTERS = [chr(0x1F400 + i) for i in range(24)]
NAMES = {
    c: {"name": f"thing {i}", "slug": f"thing_{i}", "group": ["Animals", "Objects"][i % 2]}
    for i, c in enumerate(CHARACTERS)
}
WORDS = {
    c: [f"thing_{i}", ":)", "Even" if i % 2 == 0 else "odd", f"rare{i}", "all right"]
    for i, c in enumerate(CHARACTERS)
}


def package(style: int, line_art: bool) -> dict[str, object]:
    """Squares whose place tells the concept and whose shade the style."""
    icons = {}
    for i in range(len(CHARACTERS)):
        fill = "currentColor" if line_art else f"rgb({40 * style},{10 * i},200)"
        icons[f"thing-{i}"] = {
            "body": f'<rect x="{i % 6}" y="{i // 6}" width="4" height="4" fill="{fill}"/>'
        }
    # The first is reached through an alias; one drawing is missing in one style.
    icons["original"] = icons.pop("thing-0")
    aliases = {
        "thing-0": {"parent": "original"},
        "thing-1-mirrored": {"parent": "x", "hFlip": True},
    }
    if style == 2:
        del icons["thing-23"]
    return {"icons": icons, "aliases": aliases, "width": 10, "height": 10}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))
    load_emoji.cache_clear()

    def write(source: emoji_sources.Source, contents: dict[str, object]) -> emoji_sources.Source:
        base = tmp_path / "root" / source.package.rsplit("@", 1)[0].rsplit("/", 1)[-1]
        base.mkdir(parents=True)
        hashes = {}
        for file, content in contents.items():
            (base / file).write_text(json.dumps(content))
            hashes[file] = hashlib.sha256((base / file).read_bytes()).hexdigest()
        return replace(source, files=hashes)

    chars = {f"{ord(c):x}": f"thing-{i}" for i, c in enumerate(CHARACTERS)}
    for number, (style, source) in enumerate(STYLES.items()):
        contents = {"icons.json": package(number, style in LINES)}
        if "chars.json" in source.files:
            contents["chars.json"] = chars
        monkeypatch.setitem(STYLES, style, write(source, contents))
    names = write(emoji_sources.NAMES, {"data-by-emoji.json": NAMES})
    words = write(emoji_sources.WORDS, {"emoji-en-US.json": WORDS})
    monkeypatch.setattr(emoji_sources, "NAMES", names)
    monkeypatch.setattr(emoji_sources, "WORDS", words)
    yield tmp_path / "root"
    load_emoji.cache_clear()


def dark(image: np.ndarray) -> np.ndarray:
    return (image < 245).any(-1)


def test_every_concept_is_drawn_in_every_style(root):
    found = load_emoji(root)
    assert found.characters == tuple(CHARACTERS[:23])  # one lacks a drawing in one style
    assert found.images.shape == (6 * 23, 96, 96, 3)
    for style in range(6):
        for i in (0, 1, 8, 22):
            left, top = dark(found.images[style * 23 + i]).nonzero()[::-1]
            assert abs(left.min() - i % 6 * 9.6) <= 1
            assert abs(top.min() - i // 6 * 9.6) <= 1
            assert abs(np.ptp(left) + 1 - 38.4) <= 2
    lines = found.images[4 * 23 :]
    assert np.median(lines[dark(lines)]) == 0
    assert found.words.shape == (23, 2)
    assert found.vocabulary == ("even", "odd")
    assert found.words[:, 0].tolist() == [1 - i % 2 for i in range(23)]
    assert [found.group_names[g] for g in found.groups[:3]] == ["Animals", "Objects", "Animals"]


def test_the_second_reading_comes_from_the_cache(root, monkeypatch):
    first = load_emoji(root)
    load_emoji.cache_clear()
    monkeypatch.setattr("cbir_lite.datasets.emoji.build", lambda *_: pytest.fail("built again"))
    again = load_emoji()
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.words, again.words)


def test_labels_go_with_the_rows(root):
    found = load_emoji(root)
    concept = found.image_set("concept").labels
    for labels, truth in (("group", np.eye(2)[found.groups]), ("word", found.words)):
        np.testing.assert_array_equal(found.image_set(labels).labels, np.tile(truth, (6, 1)))
    assert concept.argmax(1).tolist() == list(range(23)) * 6
    with pytest.raises(ValueError, match="colour"):
        found.image_set("colour")
    with pytest.raises(ValueError, match="pastel"):
        found.rows(np.arange(3), ("pastel",))


def test_the_tasks_keep_their_promises(root):
    found = load_emoji(root)
    n = len(found)

    def seen(rows):
        return set((rows % n).tolist()), {list(STYLES)[s] for s in np.unique(rows // n)}

    for task in ("category", "instance", "sketch", "zero_shot_sketch"):
        protocol = emoji_protocol(found, task)
        (query, query_styles), (train, _), (database, database_styles) = (
            seen(p) for p in (protocol.query, protocol.train, protocol.database)
        )
        assert database_styles <= set(COLOUR)
        if task in ("instance", "zero_shot_sketch"):
            assert query == database
            assert not query & train
        if task == "category":
            assert not query & (train | database)
        if task == "sketch":
            assert query == train == database
        if "sketch" in task:
            assert query_styles <= set(LINES)
        else:
            assert not query_styles & set(LINES)
    assert emoji_protocol(found, "instance").hash == emoji_protocol(found, "instance").hash
    with pytest.raises(ValueError, match="unknown task 'video'"):
        emoji_protocol(found, "video")


def test_a_concept_keeps_its_place_when_others_go(root):
    found = load_emoji(root)
    fewer = Emoji(
        found.characters[:20], found.names[:20], found.groups[:20], found.group_names,
        found.words[:20], found.vocabulary, found.images,
    )  # fmt: skip
    first, rest = found.parts(0.5, 0.5)
    digest = lambda i: hashlib.sha256(f"emoji:{CHARACTERS[i]}".encode()).digest()  # noqa: E731
    assert max(map(digest, first)) < min(map(digest, rest))
    small, _ = fewer.parts(0.5, 0.5)
    assert max(map(digest, small)) < min(digest(i) for i in range(20) if i not in small)
    with pytest.raises(ValueError, match="sum to 1"):
        found.parts(0.5, 0.2)


def test_scenes_hold_their_icons_in_their_boxes_and_nothing_else(root):
    found = load_emoji(root)
    made = compose_scenes(found, np.arange(10), 12, seed=3, clutter=0)
    for image, concepts, boxes, labels in zip(
        made.images, made.concepts, made.boxes, made.labels, strict=True
    ):
        used = concepts >= 0
        assert len(set(concepts[used])) == used.sum() >= 1
        assert set(np.flatnonzero(labels)) == set(found.groups[concepts[used]])
        background = np.ones(image.shape[:2], bool)
        for left, top, right, bottom in boxes[used]:
            assert background[top:bottom, left:right].all()  # no overlap
            background[top:bottom, left:right] = False
            part = image[top:bottom, left:right]
            assert (part != image[background][0]).any()
        assert (image[background] == image[background][0]).all()
    np.testing.assert_array_equal(
        made.images, compose_scenes(found, np.arange(10), 12, seed=3, clutter=0).images
    )
    assert (
        compose_scenes(found, np.arange(10), 2, seed=4, clutter=0).images != made.images[:2]
    ).any()
    with pytest.raises(ValueError, match="most=5"):
        compose_scenes(found, np.arange(10), 1, most=5)


def test_an_altered_file_and_a_missing_source_are_named(root, monkeypatch):
    icons = root / "noto" / "icons.json"
    icons.write_text(icons.read_text() + " ")
    with pytest.raises(DataCorrupt, match=r"noto/icons.json.*expected sha256"):
        load_emoji(root)
    monkeypatch.setattr(emoji_sources.transfer.shutil, "which", lambda _: None)
    with pytest.raises(DataUnavailable, match=r"By hand: put icons\.json"):
        load_emoji()
