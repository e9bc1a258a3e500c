"""Cached, resumable extraction of backbone features.

A cache entry is named by what it was computed from: the images, the weights, the network, the
input size, the precision, the runtime and :data:`CODE_VERSION`. Rows are written in batches into a
memory-mapped file beside a progress file; a killed extraction continues at the last finished
batch, and the file takes its final name only when whole. Its room on the disk is taken first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from cbir_lite._cache import ENV, CacheUnwritable, atomic_write, cache_dir, lock, no_room
from cbir_lite.datasets import ImageSet
from cbir_lite.features.backbones import NETWORKS, BackboneSpec, weights_hash
from cbir_lite.features.runtimes import Features, Runtime, choose, open_runtime

CODE_VERSION = 1
"""Raised when the same inputs would give other features; old cache entries are then not found."""

Kind = Literal["pooled", "maps", "stages"]
_DTYPES: dict[Kind, type] = {"pooled": np.float32, "maps": np.float16, "stages": np.float32}
_CANNOT_RESERVE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Provenance:
    """What a feature file was computed from."""

    images: str
    weights: str
    backbone: str
    runtime: str
    code_version: int = CODE_VERSION

    def path(self, kind: Kind) -> Path:
        """Where the features of this provenance live in the cache."""
        text = json.dumps([kind, *vars(self).values()])
        key = hashlib.sha256(text.encode()).hexdigest()[:20]
        return cache_dir() / "features" / f"{self.backbone}-{kind}-{key}.npy"


def extract(
    images: ImageSet,
    backbone: str,
    kind: Kind = "pooled",
    *,
    runtime: str = "auto",
    batch_size: int = 32,
    progress: bool = True,
) -> NDArray[Any]:
    """Features of every image of a set, from the cache or computed now.

    Returns a read-only memory map: pooled float32 ``(n, d)``, maps float16 ``(n, h, w, d)`` or
    stages float32 ``(n, sum d)``. The maps' mean over positions is the pooled feature up to float16
    rounding; the last of the stages is the pooled feature. Asking for maps or stages fills the
    pooled entry too. Raises
    :class:`~cbir_lite.features.backbones.UnknownBackbone`,
    :class:`~cbir_lite.features.backbones.WeightsUnavailable`,
    :class:`~cbir_lite.features.runtimes.RuntimeUnavailable`,
    :class:`~cbir_lite._cache.CacheUnwritable` when the disk has no room for all of the features,
    and ``FloatingPointError`` when the network returns a value that is not finite.

    >>> from cbir_lite import datasets
    >>> x = extract(datasets.load("digits"), "efficientnet_lite0-96")  # doctest: +SKIP
    """
    spec, chosen, provenance = _provenance(images, backbone, runtime)
    wanted = provenance.path(kind)
    if not wanted.exists():
        # One lock for all kinds: an extraction of another kind writes the pooled features too.
        with lock(provenance.path("pooled")):
            asked: tuple[Kind, ...] = ("pooled",) if kind == "pooled" else ("pooled", kind)
            kinds = tuple(k for k in asked if not provenance.path(k).exists())
            if kind in kinds:
                _fill(images, spec, chosen, provenance, kinds, batch_size, progress)
    return np.load(wanted, mmap_mode="r")


def compute(
    images: ImageSet,
    backbone: str,
    kind: Kind = "pooled",
    *,
    runtime: str = "auto",
    batch_size: int = 32,
) -> NDArray[Any]:
    """What :func:`extract` gives, (n, ...), but the cache is neither read nor written.

    For few images that are asked about once. Raises as :func:`extract` does.
    """
    spec, n = BackboneSpec.parse(backbone), len(images)
    run = _opened(images, spec, choose(spec, runtime), kind, batch_size)
    parts: list[NDArray[Any]] = []
    for a in range(0, n, batch_size):
        rows = _checked(run(pixels(images, a, min(a + batch_size, n), spec.size)), a)
        parts.append(_of(kind, rows).astype(_DTYPES[kind], copy=False))
    return np.concatenate(parts)


def is_extracted(images: ImageSet, backbone: str, kind: Kind, *, runtime: str = "auto") -> bool:
    """Whether :func:`extract` would only read the cache."""
    return _provenance(images, backbone, runtime)[2].path(kind).exists()


def _provenance(
    images: ImageSet, backbone: str, runtime: str
) -> tuple[BackboneSpec, str, Provenance]:
    spec = BackboneSpec.parse(backbone)
    chosen = choose(spec, runtime)
    weights = weights_hash(spec.network)
    return spec, chosen, Provenance(images.images_hash, weights, spec.name, chosen)


def _fill(
    images: ImageSet,
    spec: BackboneSpec,
    runtime: str,
    provenance: Provenance,
    kinds: tuple[Kind, ...],
    batch_size: int,
    progress: bool,
) -> None:
    n = len(images)
    paths = {kind: provenance.path(kind) for kind in kinds}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    partials = {k: p.with_suffix(".partial.npy") for k, p in paths.items()}
    journal = paths[kinds[-1]].with_suffix(".progress.json")
    channels = NETWORKS[spec.network].channels
    done = _rows_done(journal, partials)
    if not done:
        # Every kind writes the pooled rows, so what another kind had of them is about to go.
        for kind in _DTYPES:
            provenance.path(kind).with_suffix(".progress.json").unlink(missing_ok=True)
    run = _opened(images, spec, runtime, kinds[-1], batch_size)
    stores: dict[Kind, NDArray[Any]] = {}
    if done:
        stores = {k: _reserved(p) for k, p in partials.items()}
    bar = tqdm(
        total=n, initial=done, unit="image", desc=f"{spec.name} ({runtime})", disable=not progress
    )
    chunk = batch_size * max(1, 1024 // batch_size)
    for start in range(done, n, chunk):
        stop = min(start + chunk, n)
        for a in range(start, stop, batch_size):
            b = min(a + batch_size, stop)
            rows = _checked(run(pixels(images, a, b, spec.size)), a)
            if not stores:
                stores = _begun(partials, n, rows)
            for k, store in stores.items():
                store[a:b] = _of(k, rows)
            bar.update(b - a)
        for store in stores.values():
            store.flush()  # type: ignore[attr-defined]
        with atomic_write(journal) as temporary:
            temporary.write_text(json.dumps({"rows": stop, "channels": channels}))
    bar.close()
    del stores
    for k in kinds:
        os.replace(partials[k], paths[k])
        with atomic_write(paths[k].with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(vars(provenance), indent=1))
    journal.unlink()


def _opened(
    images: ImageSet, spec: BackboneSpec, runtime: str, kind: Kind, batch_size: int
) -> Runtime:
    """The network for batches of these images, giving pooled features and those of a kind."""
    shape = (min(batch_size, len(images)), *pixels(images, 0, 1, spec.size).shape[1:])
    with warnings.catch_warnings():
        # Tracing warns about Python branches on the (fixed) batch shape.
        warnings.simplefilter("ignore")
        return open_runtime(spec, runtime, None if kind == "pooled" else kind, shape)


def _begun(partials: dict[Kind, Path], n: int, rows: Features) -> dict[Kind, NDArray[Any]]:
    """New files for n images, (n, ...) as the first ``rows``; none stays if one has no room."""
    try:
        return {
            k: _reserved(p, _DTYPES[k], (n, *_of(k, rows).shape[1:])) for k, p in partials.items()
        }
    except CacheUnwritable:
        for path in partials.values():
            path.unlink(missing_ok=True)
        raise


def _reserved(
    path: Path, dtype: type | None = None, shape: tuple[int, ...] | None = None
) -> NDArray[Any]:
    """A writable memory map of a file, new if it is given a shape, with its room on the disk.

    Writing into a map whose file has holes, on a disk that has become full, is no error that can be
    told: the system kills the process. Raises ``CacheUnwritable`` instead, before any work.
    """
    mode: Literal["r+", "w+"] = "r+" if shape is None else "w+"
    try:
        store = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        _reserve(path)
    except OSError as error:
        if no_room(error):
            raise CacheUnwritable(
                f"cannot write {path} ({error.strerror}): all of its features have to fit on the "
                f"disk. Set the environment variable {ENV} to a folder that has room."
            ) from error
        raise
    return store


def _reserve(path: Path) -> None:
    """Fill the holes of a file, where the system can; raises ``OSError`` if the disk is full."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise


def pixels(images: ImageSet, a: int, b: int, size: int) -> NDArray[np.uint8]:
    """Rows a to b as one array; images of a folder, which differ in size, are resized first."""
    if isinstance(images.images, np.ndarray):
        return images.images[a:b]
    rows = [Image.fromarray(images.read(i).squeeze()) for i in range(a, b)]
    return np.stack(
        [np.asarray(r.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)) for r in rows]
    )


def _of(kind: Kind, rows: Features) -> NDArray[np.float32]:
    """What a runtime gave of a kind, (n, ...)."""
    array = rows[0] if kind == "pooled" else rows[1]
    assert array is not None
    return array


def _rows_done(journal: Path, partials: dict[Kind, Path]) -> int:
    if journal.exists() and all(p.exists() for p in partials.values()):
        return int(json.loads(journal.read_text())["rows"])
    return 0


def _checked(rows: Features, first: int) -> Features:
    bad = ~np.isfinite(rows[0]).all(axis=1)
    if bad.any():
        raise FloatingPointError(
            f"image {first + int(np.flatnonzero(bad)[0])} gave features that are not finite: "
            "check that image, or use the 32-bit backbone"
        )
    return rows
