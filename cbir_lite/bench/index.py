"""An index of a folder of images: what a system holds of each, in one file, to be searched.

Features come from the cache of :mod:`cbir_lite.features`, which names an entry by the content of a
whole set of images. An index therefore remembers of which sets its features are rows; when images
are added to the folder, only a set of the new ones is extracted.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

import cbir_lite
from cbir_lite import features
from cbir_lite._cache import CacheUnwritable, atomic_write, sha256_file, writable
from cbir_lite.bench.gallery import nearest
from cbir_lite.bench.setting import encode_rows
from cbir_lite.datasets import ImageSet, Split, files_hash, list_images, read_image, unlabelled
from cbir_lite.datasets.split import SHOWS
from cbir_lite.methods import base
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import PackedCodes, pack

NAME = ".cbir-index"
"""The index of a folder, where no other file is named."""
FORMAT, VERSION = "cbir-lite index", 1
GONE = np.full((8, 8, 1), 200, np.uint8)
"""Stands in a picture where a file has vanished."""
THUMBNAIL = 300
"""Pixels that a side of an image in a picture keeps at least, if it has them."""


class NoIndex(ValueError):
    """A file that is no index of this package."""


class OtherVersion(ValueError):
    """An index that was written by another version: it is to be made again."""


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        root: the folder.
        files: paths below it, with ``/`` between their parts, sorted.
        digests: hex sha256 of each file.
        stamps: int64 (n, 2), size in bytes and time of the last change in nanoseconds.
        skipped: one line for each file that cannot be read.
    """

    root: Path
    files: tuple[str, ...]
    digests: tuple[str, ...]
    stamps: NDArray[np.int64]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def path(self, row: int) -> Path:
        """Where a file lies."""
        return self.root / self.files[row]


@dataclass(frozen=True)
class Sources:
    """Which row of which cached set of features belongs to each file.

    Attributes:
        sets: content hash and number of images of each set.
        places: int64 (n, 2), number of the set and row in it.
    """

    sets: tuple[tuple[str, int], ...]
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Index:
    """What a system holds of the images of a folder.

    Attributes:
        listing: the n files.
        database: packed codes of a binary system, else what its ``encode_database`` gives (n, ...).
        method: the fitted system.
        backbone: of the features.
        sources: of the features.
        provenance: weights and versions that the features depend on.
    """

    listing: Listing
    database: PackedCodes | NDArray[Any]
    method: Method
    backbone: str
    sources: Sources
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def described(self) -> str:
        """System, code length and features in words."""
        size = f"{self.method.bits} bits"
        if isinstance(self.database, np.ndarray) and self.method.descriptor == "real":
            size = f"{self.database.shape[1]} numbers"
        return f"{type(self.method).__name__}, {size}, {self.backbone}"

    def gone(self) -> list[int]:
        """Rows of files that are no longer there."""
        return [i for i in range(len(self)) if not self.listing.path(i).is_file()]

    def search(self, images: Sequence[str | Path], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows int64 (n, k) and distances (n, k) of the nearest images to n files, nearest first.

        Hamming distances are int16, those of other systems floats; ties are in order of path.
        Raises ``ValueError`` for a file that is missing or no image, and for k outside 1..n.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k={k}: the index holds {len(self)} images, use 1..{len(self)}")
        paths = [Path(i) for i in images]
        for path in paths:
            if not path.is_file():
                raise ValueError(f"{path}: no such file")
            read_image(path, at_least=1)
        # Every query is a new set: kept, each would leave files in the cache that nobody reads.
        x = features.load(
            unlabelled(paths, "queries"),
            self.backbone,
            self.method.reads,
            progress=False,
            keep=False,
        )
        return nearest(self.method, x, self.database, k)

    def save(self, path: str | Path) -> None:
        """Write one file, atomically; see :func:`load_index`.

        Raises ``OSError`` if it cannot be written, ``NoIndex`` rather than replace another file.
        """
        path = Path(path)
        check_place(path)
        packed = isinstance(self.database, PackedCodes)
        inside = path.parent.resolve() == self.listing.root.resolve()
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "root": "." if inside else str(self.listing.root.resolve()),
            "files": self.listing.files,
            "backbone": self.backbone,
            "packed": packed,
            "sets": self.sources.sets,
            "provenance": self.provenance,
            "made_with": {
                "cbir_lite": cbir_lite.__version__,
                "numpy": np.__version__,
                "torch": str(torch.__version__),
            },
        }
        arrays: dict[str, Any] = {
            "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
            "system": np.frombuffer(self.method.to_bytes(self.backbone), np.uint8),
            "database": self.database.words if isinstance(self.database, PackedCodes)
            else np.asarray(self.database),
            "digests": np.frombuffer(bytes.fromhex("".join(self.listing.digests)), np.uint8),
            "stamps": self.listing.stamps,
            "places": self.sources.places,
        }  # fmt: skip
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **arrays)
        except CacheUnwritable as error:
            raise OSError(_elsewhere(path)) from error


def _elsewhere(path: Path) -> str:
    return f"cannot write {path}: name a file in a folder that is writable and has room with --out"


def check_place(path: Path) -> None:
    """Raise ``OSError`` if an index cannot be written to ``path``, :class:`NoIndex` if another
    file is there, which is never replaced.
    """
    if path.is_dir():
        raise OSError(f"{path} is a folder: name a file with --out")
    if not path.parent.is_dir() or not writable(path.parent):
        raise OSError(_elsewhere(path))
    if path.exists():
        try:
            _read(path, arrays=False)
        except OtherVersion:
            return
        except NoIndex as error:
            raise NoIndex(
                f"{path} is no index and is not replaced: remove it, or name another file with "
                "--out"
            ) from error


# -- reading ---------------------------------------------------------------------------------------


def load_index(path: str | Path) -> Index:
    """An index from :meth:`Index.save`; arrays, plain values and tensors are read, no objects.

    Raises ``FileNotFoundError``, :class:`NoIndex` and :class:`OtherVersion`, which name the file
    and say what to do.
    """
    path = Path(path)
    meta, arrays = _read(path)
    try:
        listing = _listing(path, meta, arrays)
        database: Any = arrays["database"]
        method = base.load(io.BytesIO(arrays["system"].tobytes()))
        if meta["packed"]:
            database = PackedCodes(np.ascontiguousarray(database.astype(np.uint64)), method.bits)
        sets = tuple((str(h), int(n)) for h, n in meta["sets"])
        places = arrays["places"].astype(np.int64).reshape(-1, 2)
        backbone, provenance = str(meta["backbone"]), dict(meta["provenance"])
        features.describe_name(backbone)
        if meta["packed"] != (method.descriptor == "binary"):
            raise ValueError("codes and system do not belong together")
        if not len(database) == len(places) == len(listing):
            raise ValueError("numbers of files and codes differ")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoIndex(_broken(path)) from error
    if provenance != _provenance(backbone):
        raise OtherVersion(
            f"{path} was made with other features of {backbone} than those of this installation: "
            f"run `cbir index {listing.root}` again"
        )
    return Index(listing, database, method, backbone, Sources(sets, places), provenance)


def _broken(path: Path) -> str:
    return f"{path} is no index that can be read: make one with `cbir index DIR`"


def _read(path: Path, *, arrays: bool = True) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What describes an index, and its arrays (none of them are read without ``arrays``)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such index; make one with `cbir index DIR`")
    try:
        with np.load(path, allow_pickle=False) as content:
            meta = json.loads(content["meta"].tobytes())
            if meta["format"] != FORMAT:
                raise ValueError(meta["format"])
            if meta["version"] == VERSION:
                names = [k for k in content.files if k != "meta"] if arrays else []
                return meta, {k: content[k] for k in names}
    except Exception as error:  # what is no archive, or a damaged one, may raise anything
        raise NoIndex(_broken(path)) from error
    raise OtherVersion(
        f"{path} has version {meta['version']}, this package reads {VERSION}: "
        "run `cbir index` on its folder again"
    )


def _listing(path: Path, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Listing:
    files = tuple(map(str, meta["files"]))
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name} is outside the folder")
    text, stamps = arrays["digests"].tobytes().hex(), arrays["stamps"].astype(np.int64)
    digests = tuple(text[i : i + 64] for i in range(0, len(text), 64))
    if not len(files) == len(digests) == len(stamps):
        raise ValueError("numbers of files and hashes differ")
    return Listing(path.parent / meta["root"], files, digests, stamps)


def earlier_index(path: str | Path) -> Index | None:
    """The index that :meth:`Index.save` would replace, if its features may be of use.

    Raises as :func:`check_place` does.
    """
    path = Path(path)
    check_place(path)
    try:
        return load_index(path)
    except (FileNotFoundError, ValueError, RuntimeError):
        # Of another version, or with weights that are not here: it is replaced all the same.
        return None


def find_index(given: Path | None, image: Path) -> Path:
    """The index to search: a file, or that of a folder.

    By default the one of the current folder, else of the image's folder or of one above it.
    Raises ``FileNotFoundError`` if there is none.
    """
    if given is not None:
        return given / NAME if given.is_dir() else given
    for folder in (Path(), *image.parents, *image.resolve().parents):
        if (folder / NAME).is_file():
            return folder / NAME
    raise FileNotFoundError(
        f"no index in the current folder nor beside or above {image}: make one with "
        "`cbir index DIR`, or name it with --index"
    )


# -- making ----------------------------------------------------------------------------------------


def list_folder(
    folder: str | Path, previous: Index | None = None, *, progress: bool = False
) -> Listing:
    """The images below a folder, nested or not; each that ``previous`` does not know is decoded.

    A file of unchanged size and time is taken as unchanged. Raises ``ValueError`` if there is no
    such folder, or not one image that can be read.
    """
    root = Path(folder)
    earlier = None if previous is None else previous.listing
    readable = set() if earlier is None else set(earlier.digests)
    known: dict[str, tuple[tuple[int, ...], str]] = {}
    if earlier is not None and earlier.root.resolve() == root.resolve():
        stamped = zip(map(tuple, earlier.stamps.tolist()), earlier.digests, strict=True)
        known = dict(zip(earlier.files, stamped, strict=True))
    files, digests, stamps, skipped = [], [], [], []
    found = list_images(root)
    for path in tqdm(found, desc="files", unit="image", delay=2, disable=not progress):
        name = path.relative_to(root).as_posix()
        try:
            state = path.stat()
            stamp = (state.st_size, state.st_mtime_ns)
            before, digest = known.get(name, ((), ""))
            if before != stamp and (digest := sha256_file(path)) not in readable:
                read_image(path, at_least=1)
                readable.add(digest)
        except (ValueError, OSError) as error:
            skipped.append(str(error))
            continue
        files.append(name)
        digests.append(digest)
        stamps.append(stamp)
    if not files:
        what = f"none of {len(skipped)} images can be read" if skipped else "no images there"
        first = f", first {skipped[0]}" if skipped else ""
        raise ValueError(f"{root}: {what}{first}")
    return Listing(root, tuple(files), tuple(digests), np.array(stamps, np.int64), tuple(skipped))


def build_index(
    listing: Listing,
    method: Method,
    backbone: str,
    previous: Index | None = None,
    *,
    fitted: bool = False,
    progress: bool = False,
) -> Index:
    """The index of a folder's images.

    Args:
        listing: the files.
        method: a system; unless ``fitted``, it is fitted on these images.
        backbone: of the features.
        previous: an index of the folder whose features are used again where they are cached.
        fitted: whether ``method`` has learned already.
        progress: whether slow steps show a bar.

    Raises ``ValueError`` for a system that cannot learn from images alone or from so few, and for
    a fitted one that reads other features.
    """
    check_system(method, backbone, fitted=fitted)
    name, n = type(method).__name__, len(listing)
    if not fitted and n < 2:
        raise ValueError(f"{name} cannot learn from one image: add more, or give --model FILE")
    x, sources = _features(listing, method.reads, backbone, previous, progress)
    if not fitted:
        parts = features.widths(_set(listing, [0]), backbone, method.reads)
        try:
            # A copy: a memory map cannot be written, and systems may work in place.
            split = Split(np.array(x), None, method.sees, parts=parts)
            method.fit(split, progress=progress)
        except (ValueError, RuntimeError, IndexError, ArithmeticError, MemoryError) as error:
            raise ValueError(
                f"{name} with {method.bits} bits cannot be fitted on {n} images of {backbone}, "
                f"{' x '.join(map(str, x.shape[1:]))} numbers each ({error}): add images, use "
                "fewer --bits, --method lsh, another --backbone, or --model FILE"
            ) from error
    # Codes learned with the database of the training do not belong to this folder.
    own = method.learns_database and method.descriptor == "binary"
    encode = method.encode if own else method.encode_database
    try:
        held = encode_rows(encode, x, np.arange(n))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the system {name} does not read {backbone} ({error}): give --backbone the features "
            "it was trained on"
        ) from error
    database = pack(held) if method.descriptor == "binary" else held
    return Index(listing, database, method, backbone, sources, _provenance(backbone))


def check_system(method: Method, backbone: str, *, fitted: bool = False) -> None:
    """Raise ``ValueError`` if an index cannot be made by a system with a backbone; says why."""
    features.describe_name(backbone)
    if features.learns_words(backbone):
        raise ValueError(
            f"{backbone} learns its words from the images of a bench: use another --backbone"
        )
    if fitted:
        return
    name, id_ = type(method).__name__, type(method).__module__.rsplit(".", 1)[-1]
    remedy = (
        f"train it with `cbir train {id_} --save FILE` and give --model FILE, or use a --method "
        "without labels such as itq"
    )
    if SHOWS[method.sees] != "none":
        raise ValueError(f"{name} is {method.sees}, and a folder has no labels: {remedy}")
    if method.modality is not None:
        raise ValueError(f"{name} learns from pairs of images and {method.modality}: {remedy}")
    if method.views:
        raise ValueError(
            f"{name} learns from views of its images, which a folder does not have: {remedy}"
        )


def _provenance(backbone: str) -> dict[str, Any]:
    return {
        "weights": features.provenance_hash(backbone),
        "version": features.version_of(backbone),
    }


def _set(listing: Listing, rows: Sequence[int]) -> ImageSet:
    return unlabelled(
        [listing.path(i) for i in rows],
        str(listing.root),
        files_hash(listing.digests[i] for i in rows),
    )


def _features(
    listing: Listing, kind: str, backbone: str, previous: Index | None, progress: bool
) -> tuple[NDArray[Any], Sources]:
    """Features (n, ...) of the files, each content extracted once, and where they come from."""
    place: dict[str, tuple[int, int]] = {}
    sets: list[ImageSet] = []
    if previous is not None:
        wanted = set(listing.digests)
        for number, (content, size) in enumerate(previous.sources.sets):
            rows = np.flatnonzero(previous.sources.places[:, 0] == number)
            known = {previous.listing.digests[i]: int(previous.sources.places[i, 1]) for i in rows}
            # The files may be gone: the cache is asked for what they were.
            was = unlabelled([listing.root] * size, str(listing.root), content)
            if wanted.intersection(known) and features.is_cached(was, backbone, kind):
                place.update({d: (len(sets), row) for d, row in known.items()})
                sets.append(was)
    fresh: dict[str, int] = {}
    for i, digest in enumerate(listing.digests):
        if digest not in place:
            fresh.setdefault(digest, i)
    if fresh:
        place.update({d: (len(sets), row) for row, d in enumerate(fresh)})
        sets.append(_set(listing, list(fresh.values())))
    parts = [features.load(s, backbone, kind, progress=progress) for s in sets]
    places = np.array([place[d] for d in listing.digests], np.int64)
    sources = Sources(tuple((s.images_hash, len(s)) for s in sets), places)
    if len(parts) == 1 and np.array_equal(places[:, 1], np.arange(len(parts[0]))):
        return parts[0], sources
    x = np.empty((len(listing), *parts[0].shape[1:]), parts[0].dtype)
    for number, part in enumerate(parts):
        mine = places[:, 0] == number
        x[mine] = part[places[mine, 1]]
    return x, sources


# -- showing ---------------------------------------------------------------------------------------


def picture(
    index: Index, images: Sequence[str | Path], rows: NDArray[Any], distances: NDArray[Any]
) -> Any:
    """Figure of n query files and what :meth:`Index.search` found for them, rows (n, k).

    Nothing is marked right or wrong; a file that has vanished is a grey square.
    """
    from cbir_lite import plots  # here, so that a search without a picture does not wait for it

    axes = plots.retrieval_grid(
        [read_image(i, at_least=THUMBNAIL) for i in images],
        [[_shown(index.listing.path(int(r))) for r in found] for found in rows],
        None,
        query_labels=[Path(i).name for i in images],
        result_labels=[
            [
                f"{PurePosixPath(index.listing.files[r]).name}, d={d:.3g}"
                for r, d in zip(found, far, strict=True)
            ]
            for found, far in zip(rows, distances, strict=True)
        ],
    )
    return axes.figure


def _shown(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path, at_least=THUMBNAIL)
    except ValueError:
        return GONE
