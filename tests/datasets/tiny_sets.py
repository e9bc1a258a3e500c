"""Tiny sets written in the published formats."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from cbir_lite.datasets.formats import Parts
from cbir_lite.datasets.specs import Spec

BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


def tiny_parts(per_batch: int, shape: tuple[int, ...], seed: int) -> Parts:
    rng = np.random.default_rng(seed)

    def images(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n, *shape), dtype=np.uint8)

    def ids(n: int) -> np.ndarray:
        return rng.integers(0, 10, n, dtype=np.uint8)

    n = 5 * per_batch
    return Parts(images(n), ids(n), images(per_batch), ids(per_batch))


def with_hashes(spec: Spec, parts: Parts, **changes) -> Spec:
    hashes = {k: hashlib.sha256(a.tobytes()).hexdigest() for k, a in parts._asdict().items()}
    return dataclasses.replace(spec, sha256=hashes, **{"npm": None, "official": (), **changes})


def batches(parts: Parts) -> list[tuple[str, np.ndarray, np.ndarray]]:
    size = len(parts.test_images)
    rows = [slice(i * size, (i + 1) * size) for i in range(5)]
    train = [
        (name, parts.train_images[r], parts.train_labels[r])
        for name, r in zip(BATCHES, rows, strict=True)
    ]
    return [*train, ("test_batch", parts.test_images, parts.test_labels)]


def planes(image: np.ndarray) -> bytes:
    """One image as the publisher stores it: the red plane row by row, green, blue."""
    return bytes(
        int(image[row, column, channel])
        for channel in range(3)
        for row in range(32)
        for column in range(32)
    )


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, which is how the published batches are made."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, obj: bytes) -> None:
        short = len(obj) < 256
        self.write(b"U" + bytes([len(obj)]) if short else b"T" + struct.pack("<i", len(obj)))
        self.write(obj)
        self.memoize(obj)

    dispatch[bytes] = save_string


def python2_pickle(batch: dict) -> bytes:
    out = io.BytesIO()
    _Python2Pickler(out, protocol=2).dump(batch)
    return out.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def write_pickles(folder: Path, parts: Parts) -> None:
    folder.mkdir(parents=True)
    for name, images, ids in batches(parts):
        rows = np.frombuffer(b"".join(map(planes, images)), np.uint8).reshape(-1, 3072)
        batch = {b"batch_label": name.encode(), b"labels": ids.tolist(), b"data": rows}
        (folder / name).write_bytes(python2_pickle(batch))


def write_binary(folder: Path, parts: Parts) -> None:
    folder.mkdir(parents=True)
    for name, images, ids in batches(parts):
        records = [bytes([i]) + planes(image) for i, image in zip(ids, images, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))


def write_rows(folder: Path, parts: Parts) -> None:
    folder.mkdir(parents=True)
    for name, images, _ in batches(parts):
        Image.fromarray(images.reshape(-1, 1024, 3)).save(folder / f"{name}.png")
    for part in ("train", "test"):
        ids = getattr(parts, f"{part}_labels").tolist()
        (folder / f"{part}_lables.json").write_text(json.dumps(ids))


def write_idx(folder: Path, parts: Parts, suffix: str = "") -> None:
    folder.mkdir(parents=True)
    for part, stem in (("train", "train"), ("test", "t10k")):
        images = getattr(parts, f"{part}_images")
        ids = getattr(parts, f"{part}_labels")
        for kind, header, body in (
            ("images-idx3", struct.pack(">4I", 0x803, len(images), 28, 28), images.tobytes()),
            ("labels-idx1", struct.pack(">2I", 0x801, len(ids)), ids.tobytes()),
        ):
            raw = header + body
            path = folder / f"{stem}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(raw) if suffix else raw)


def tarball(target: Path, folder: Path, inside: str) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, arcname=inside)
    return target
