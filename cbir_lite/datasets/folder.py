"""Your own images: a folder with one subfolder per class, or with a ``labels.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from cbir_lite.datasets.imageset import ImageSet

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_LAYOUT = (
    "Expected one subfolder per class (PATH/cat/1.jpg, PATH/dog/2.jpg), or PATH/labels.csv with "
    "rows 'file,label1|label2'."
)


def list_images(path: str | Path) -> list[Path]:
    """All image files below ``path`` (by suffix), sorted by path.

    Hidden files, and files in hidden folders below ``path``, are left out.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    return sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
        and p.is_file()
    )


def load_folder(path: str | Path) -> ImageSet:
    """An image folder as :class:`ImageSet`; images stay on disk and are decoded on reading (RGB).

    With ``labels.csv`` (rows ``file,label1|label2``, an optional header row that starts with
    ``file``; paths relative to the folder) the set is multi-label and keeps the rows' order.
    Otherwise each direct subfolder is a class; images sorted by class, then by path. Class names
    are sorted. Raises ValueError naming the folder, file or row at fault; every image's header is
    read here, its pixels later.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder. {_LAYOUT}")
    table = path / "labels.csv"
    rows = _from_csv(table) if table.is_file() else _from_subfolders(path)
    class_names = tuple(sorted({label for _, labels in rows for label in labels}))
    column = {label: i for i, label in enumerate(class_names)}
    multi_hot = np.zeros((len(rows), len(class_names)), np.uint8)
    for row, (file, labels) in enumerate(rows):
        _check_header(file)
        multi_hot[row, [column[label] for label in labels]] = 1
    return ImageSet(
        name=f"folder:{path}",
        images=tuple(file for file, _ in rows),
        labels=multi_hot,
        class_names=class_names,
        licence="yours",
        source=str(path),
    )


def _check_header(file: Path) -> None:
    try:
        Image.open(file).close()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file}: not a readable image ({error}). Remove it or replace it by an intact copy."
        ) from error


def _from_subfolders(path: Path) -> list[tuple[Path, list[str]]]:
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    rows = [(file, [folder.name]) for folder in classes for file in list_images(folder)]
    if not rows:
        raise ValueError(f"{path} holds no images in subfolders. {_LAYOUT}")
    return rows


def _from_csv(table: Path) -> list[tuple[Path, list[str]]]:
    rows: list[tuple[Path, list[str]]] = []
    seen: dict[str, int] = {}
    with table.open(newline="", encoding="utf-8-sig") as stream:
        for number, cells in enumerate(csv.reader(stream), start=1):
            if not cells or (number == 1 and cells[0].strip() == "file"):
                continue
            if len(cells) != 2:
                raise ValueError(
                    f"{table}, row {number}: expected 'file,label1|label2', found {cells}"
                )
            name = cells[0].strip()
            if name in seen:
                raise ValueError(f"{table}, row {number}: {name} is already in row {seen[name]}")
            seen[name] = number
            file = table.parent / name
            if not file.is_file():
                raise ValueError(f"{table}, row {number}: {file} does not exist")
            rows.append((file, [part.strip() for part in cells[1].split("|") if part.strip()]))
    if not any(labels for _, labels in rows):
        raise ValueError(f"{table} names no labelled image. {_LAYOUT}")
    return rows
