"""One door to every kind of feature, cached by what it was computed from."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbir_lite._cache import atomic_write, cache_dir, lock, sha256_array
from cbir_lite.datasets import ImageSet
from cbir_lite.features import handcrafted
from cbir_lite.features.backbones import BackboneSpec, weights_hash
from cbir_lite.features.extract import extract, pixels

FOLDER_SIZE = 224
"""Side in pixels to which images of a folder are brought where they must be one array."""

Kind = Literal["pooled", "maps", "images"]


def load(
    images: ImageSet,
    name: str,
    kind: Kind = "pooled",
    *,
    train: NDArray[np.int64] | None = None,
    runtime: str = "auto",
    progress: bool = True,
) -> NDArray[Any]:
    """Features of every image of a set, from the cache or computed now.

    Args:
        images: the set.
        name: a backbone (``efficientnet_lite0-224``) or a hand-crafted descriptor.
        kind: ``pooled`` float32 (n, d); ``maps`` float16 (n, h, w, d), backbones only; ``images``
            the uint8 images themselves, for systems that are trained end to end.
        train: int64 indices of the training images: a descriptor with a vocabulary learns it from
            these alone.
        runtime: ``auto``, ``torch`` or ``openvino``.
        progress: whether to show a bar.

    Raises ``ValueError`` for an unknown name or a kind that the name does not have.
    """
    if kind == "images":
        return pixels(images, 0, len(images), FOLDER_SIZE)
    if name not in handcrafted.DESCRIPTORS:
        return extract(images, name, kind, runtime=runtime, progress=progress)
    if kind != "pooled":
        raise ValueError(f"{name} has no {kind}: only backbones have spatial maps")
    return _described(images, name, train, progress)


def _described(
    images: ImageSet, name: str, train: NDArray[np.int64] | None, progress: bool
) -> NDArray[Any]:
    # The vocabulary is the one thing a descriptor learns, so its rows are part of the key.
    rows = "all" if train is None else sha256_array(train)
    text = f"{name} {images.images_hash} {rows} {handcrafted.VERSION}"
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    path = cache_dir() / "features" / f"{name}-{key}.npy"
    if not path.exists():
        with lock(path):
            if not path.exists():
                array = pixels(images, 0, len(images), FOLDER_SIZE)
                vocabulary = None if train is None else array[train]
                x = handcrafted.describe(array, name, vocabulary=vocabulary, progress=progress)
                with atomic_write(path) as temporary:
                    np.save(temporary, x)
    loaded: NDArray[Any] = np.load(path, mmap_mode="r")
    return loaded


def is_handcrafted(name: str) -> bool:
    """Whether a feature name is a hand-crafted descriptor, not a backbone."""
    return name in handcrafted.DESCRIPTORS


def describe_name(name: str) -> str:
    """A sentence on what a feature name means; raises ``ValueError`` for an unknown one."""
    if name in handcrafted.DESCRIPTORS:
        return f"{name}: hand-crafted descriptor"
    spec = BackboneSpec.parse(name)
    return f"{spec.network}, {spec.size} x {spec.size} pixels, {spec.precision}, ImageNet weights"


def provenance_hash(name: str) -> str:
    """The weights hash of a backbone, or ``none`` for a hand-crafted descriptor."""
    if name in handcrafted.DESCRIPTORS:
        return "none"
    return weights_hash(BackboneSpec.parse(name).network)
