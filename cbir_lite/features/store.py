"""One door to every kind of feature, cached by what it was computed from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cbir_lite._cache import atomic_write, cache_dir, lock, sha256_array
from cbir_lite.datasets import ImageSet
from cbir_lite.features import handcrafted
from cbir_lite.features.backbones import NETWORKS, BackboneSpec, weights_hash
from cbir_lite.features.extract import (
    CODE_VERSION,
    Kind,
    compute,
    extract,
    is_extracted,
    pixels,
)

FOLDER_SIZE = 224
"""Side in pixels to which images of a folder are brought where they must be one array."""

FIXED = tuple(name for name in handcrafted.DESCRIPTORS if name != "bow_patches")
"""Descriptors that learn nothing, so that they can stand beside other features of an image."""


def load(
    images: ImageSet,
    name: str,
    kind: str = "pooled",
    *,
    train: NDArray[np.int64] | None = None,
    runtime: str = "auto",
    progress: bool = True,
    keep: bool = True,
) -> NDArray[Any]:
    """Features of every image of a set, from the cache or computed now.

    Args:
        images: the set.
        name: a backbone (``efficientnet_lite0-224``) or a hand-crafted descriptor.
        kind: ``pooled`` float32 (n, d); ``maps`` float16 (n, h, w, d), backbones only; ``stages``
            float32 (n, sum d), the pooled output of each stage of a backbone (or of ``pixels``)
            side by side; ``images`` the uint8 images themselves. Behind ``pooled`` or ``stages``
            stand the hand-crafted descriptors to be put beside them, as in ``pooled+hog``.
        train: int64 indices of the training images: a descriptor with a vocabulary learns it from
            these alone.
        runtime: ``auto``, ``torch`` or ``openvino``.
        progress: whether to show a bar.
        keep: whether the cache is read and written; without, they are computed now, for few images
            that are asked about once.

    :func:`widths` says which columns are what. Raises ``ValueError`` for an unknown name or a kind
    that the name does not have.
    """
    first, beside = _divided(kind)
    x: NDArray[Any]
    if first == "images":
        x = pixels(images, 0, len(images), FOLDER_SIZE)
    elif not is_handcrafted(name):
        own = cast(Kind, first)
        if keep:
            x = extract(images, name, own, runtime=runtime, progress=progress)
        else:
            x = compute(images, name, own, runtime=runtime)
    elif first == "stages" and name == "pixels":
        x = handcrafted.pixel_stages(pixels(images, 0, len(images), FOLDER_SIZE))
    elif first == "pooled":
        x = _described(images, name, train, progress, keep)
    else:
        raise ValueError(f"{name} has no {first}: only backbones have maps and stages")
    if not beside:
        return x
    return np.concatenate(
        [x, *(_described(images, b, None, progress, keep) for b in beside)], axis=1
    )


def is_cached(images: ImageSet, name: str, kind: str = "pooled", *, runtime: str = "auto") -> bool:
    """Whether :func:`load`, without training images, would only read the cache and no image."""
    first, beside = _divided(kind)
    if first == "images" or (is_handcrafted(name) and first != "pooled"):
        return False
    described = list(beside)
    if is_handcrafted(name):
        described.append(name)
    elif not is_extracted(images, name, cast(Kind, first), runtime=runtime):
        return False
    return all(_described_path(images, d, None).exists() for d in described)


def widths(images: ImageSet, name: str, kind: str = "pooled") -> tuple[int, ...] | None:
    """How many columns of :func:`load` belong to each part: to a stage, to a descriptor.

    None for features of one part.
    """
    first, beside = _divided(kind)
    one = pixels(images, 0, 1, FOLDER_SIZE)
    if first != "stages" and not beside:
        return None
    if is_handcrafted(name):
        _require_fixed(name)
        own = handcrafted.describe(one, name, progress=False).shape[1:]
        parts = handcrafted.pixel_stage_widths(one.shape[1:]) if first == "stages" else own
    else:
        stages = tuple(NETWORKS[BackboneSpec.parse(name).network].stages.values())
        parts = stages if first == "stages" else stages[-1:]
    described = (handcrafted.describe(one, b, progress=False).shape[1] for b in beside)
    return (*parts, *described)


def _divided(kind: str) -> tuple[str, list[str]]:
    """The kind and the descriptors beside it; raises ``ValueError`` for what cannot be had."""
    first, *beside = kind.split("+")
    if first not in ("pooled", "maps", "stages", "images"):
        raise ValueError(f"kind {kind!r}: {first!r} is none of pooled, maps, stages, images")
    if beside and first not in ("pooled", "stages"):
        raise ValueError(f"kind {kind!r}: nothing can stand beside {first}, which are no rows")
    for name in beside:
        _require_fixed(name)
    return first, beside


def _require_fixed(name: str) -> None:
    if name not in FIXED:
        raise ValueError(f"{name!r} cannot stand beside other features: use {', '.join(FIXED)}")


def _described_path(images: ImageSet, name: str, train: NDArray[np.int64] | None) -> Path:
    # The vocabulary is the one thing a descriptor learns, so its rows are part of the key; what
    # learns nothing is the same whatever a system is trained on, and is kept once.
    rows = sha256_array(train) if train is not None and learns_words(name) else "all"
    text = f"{name} {images.images_hash} {rows} {handcrafted.VERSION}"
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    return cache_dir() / "features" / f"{name}-{key}.npy"


def _described(
    images: ImageSet, name: str, train: NDArray[np.int64] | None, progress: bool, keep: bool
) -> NDArray[Any]:
    if not keep:
        return _describe(images, name, train, progress)
    path = _described_path(images, name, train)
    if not path.exists():
        with lock(path):
            if not path.exists():
                x = _describe(images, name, train, progress)
                with atomic_write(path) as temporary:
                    np.save(temporary, x)
    loaded: NDArray[Any] = np.load(path, mmap_mode="r")
    return loaded


def _describe(
    images: ImageSet, name: str, train: NDArray[np.int64] | None, progress: bool
) -> NDArray[Any]:
    array = pixels(images, 0, len(images), FOLDER_SIZE)
    vocabulary = array[train] if train is not None and learns_words(name) else None
    return handcrafted.describe(array, name, vocabulary=vocabulary, progress=progress)


def is_handcrafted(name: str) -> bool:
    """Whether a feature name is a hand-crafted descriptor, not a backbone."""
    return name in handcrafted.DESCRIPTORS


def learns_words(name: str) -> bool:
    """Whether a feature name is a descriptor that learns a vocabulary from a set of images."""
    return is_handcrafted(name) and name not in FIXED


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


def version_of(name: str) -> int:
    """Raised by the package when the same image would give other features of this name."""
    return handcrafted.VERSION if is_handcrafted(name) else CODE_VERSION
