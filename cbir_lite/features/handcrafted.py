"""Image descriptors that need no labels: what came before learned features (survey I-A).

    >>> describe(images, "lbp").shape  # doctest: +SKIP
    (n, 28)

``pixels`` needs NumPy only, the others the extra `handcrafted`. Only ``bow_patches`` learns
anything (its codebook), so only there `vocabulary` and `seed` matter. All are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

Images = NDArray[np.uint8]
Features = NDArray[np.float32]

VERSION = 3
"""Raised when the same images give other descriptors; old cache entries are then not found."""

SMALLEST = 8
PIXEL_CELLS = (1, 2, 4)  # a side
HISTOGRAM_BINS = 8
GREY_BINS = 32
LBP_SCALES = ((8, 1), (16, 2))  # points, radius in pixels
HOG_CELLS, HOG_ORIENTATIONS = 4, 9
WORDS, PATCH, GRID, LONGEST_SIDE = 256, 6, 14, 64
VOCABULARY_IMAGES, PATCHES_PER_IMAGE = 2000, 40
NOISE_FLOOR = 10.0  # added to a patch's variance (grey levels squared): flat patches stay flat
SAME_PLACE = 1e-9  # squared distance (a whitened dimension) below which two words are one


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is missing; install the extra: pip install 'cbir-lite[handcrafted]'"
        ) from error


def _root_l1(counts: NDArray[Any]) -> Features:
    """Rows scaled to sum 1, then the square root: Euclidean distance becomes Hellinger's."""
    return np.sqrt(counts / counts.sum(1, keepdims=True)).astype(np.float32)


def _count(bins: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Histogram of each row of `bins` (n, m), integers below `size`: (n, size)."""
    n = len(bins)
    places = bins.reshape(n, -1).astype(np.int64) + size * np.arange(n)[:, None]
    return np.bincount(places.ravel(), minlength=n * size).reshape(n, size)


def _grey(images: Images) -> Images:
    """(n, h, w, c) to luma (n, h, w); the weights sum to 2^14, so grey stays as it is."""
    if images.shape[3] == 1:
        return images[..., 0]
    luma = images.astype(np.int32) @ np.array([4899, 9617, 1868], np.int32)
    return ((luma + 8192) >> 14).astype(np.uint8)


def pixels(images: Images) -> Features:
    """Grey levels in 0..1 in row, column, channel order: (n, h*w*c)."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def pixel_stages(images: Images) -> Features:
    """What stages of a network are, for pixels: means over 1 x 1, 2 x 2 and 4 x 4 cells of the
    image, and the image itself, side by side: (n, 21 c + h*w*c), see :func:`pixel_stage_widths`.
    """
    n, h, w, _ = images.shape
    whole = pixels(images).reshape(images.shape)
    parts = []
    for cells in PIXEL_CELLS:
        rows, columns = (np.arange(cells + 1) * side // cells for side in (h, w))
        sums = np.add.reduceat(np.add.reduceat(whole, rows[:-1], 1), columns[:-1], 2)
        size = np.outer(np.diff(rows), np.diff(columns))[..., None].astype(np.float32)
        parts.append((sums / size).reshape(n, -1))
    return np.concatenate([*parts, whole.reshape(n, -1)], axis=1)


def pixel_stage_widths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of each of the :func:`pixel_stages` of images of ``shape`` (h, w, c)."""
    h, w, c = shape
    return (*(cells * cells * c for cells in PIXEL_CELLS), h * w * c)


def colour_histogram(images: Images) -> Features:
    """Joint HSV histogram, 8 bins an axis, (n, 512); for grey images 32 bins of intensity, (n, 32).

    L1-normalised, then square-rooted. Hue 0 is red; grey pixels have hue and saturation 0.
    """
    n, h, w, c = images.shape
    if c == 1:
        return _root_l1(_count(images // (256 // GREY_BINS), GREY_BINS))
    cv2 = _extra("cv2")
    # One call for the batch: a pile of images is one tall image.
    hsv = cv2.cvtColor(np.ascontiguousarray(images).reshape(n * h, w, c), cv2.COLOR_RGB2HSV_FULL)
    levels = hsv.reshape(n, h * w, c).astype(np.int32) // (256 // HISTOGRAM_BINS)
    joint = (levels[..., 0] * HISTOGRAM_BINS + levels[..., 1]) * HISTOGRAM_BINS + levels[..., 2]
    return _root_l1(_count(joint, HISTOGRAM_BINS**3))


def lbp(images: Images) -> Features:
    """Rotation-invariant uniform local binary patterns of the luma at two scales, (n, 10 + 18).

    Of P neighbours on a circle, those not darker than the centre are counted if they form at most
    one arc (P + 1 patterns), else the pixel falls into one last bin (Ojala, Pietikäinen, Mäenpää
    2002). Beyond the frame the border pixels are repeated, so adding a constant to all pixels
    changes nothing. Each scale is L1-normalised, then square-rooted.
    """
    local_binary_pattern = _extra("skimage.feature").local_binary_pattern
    grey = _grey(images)
    scales = []
    for points, radius in LBP_SCALES:
        # Unpadded, scikit-image takes zeros beyond the frame.
        padded = np.pad(grey, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
        codes = np.stack([local_binary_pattern(g, points, radius, "uniform") for g in padded])
        inside = codes[:, radius:-radius, radius:-radius]
        scales.append(_root_l1(_count(inside, points + 2)))
    return np.concatenate(scales, axis=1)


def hog(images: Images) -> Features:
    """Histograms of oriented gradients (Dalal and Triggs 2005) over 4 x 4 cells, (n, 324).

    Nine unsigned orientations, 2 x 2 cells a block, L2-Hys; colour images take each pixel's channel
    of the steepest gradient. A cell is a quarter of the image's height and width, so the length
    does not depend on the size (up to three rows and columns at the border are cut off).
    """
    histogram = _extra("skimage.feature").hog
    _, h, w, c = images.shape
    cell = h // HOG_CELLS, w // HOG_CELLS
    top, left = (h - HOG_CELLS * cell[0]) // 2, (w - HOG_CELLS * cell[1]) // 2
    inner = images[:, top : top + HOG_CELLS * cell[0], left : left + HOG_CELLS * cell[1]]
    options: dict[str, Any] = {"orientations": HOG_ORIENTATIONS, "pixels_per_cell": cell}
    options |= {"cells_per_block": (2, 2), "block_norm": "L2-Hys"}
    if c == 1:
        return np.stack([histogram(i[..., 0], **options) for i in inner]).astype(np.float32)
    return np.stack([histogram(i, channel_axis=-1, **options) for i in inner]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Visual words `words` (k, d), in the space of (patch - `mean`) @ `whiten`.

    `first` (k,) is the first word at the place of each word: k-means sets several words on a patch
    that occurs often, and which of them rounding calls the nearest must not matter.
    """

    words: Features
    mean: Features
    whiten: Features
    first: NDArray[np.int64]

    @classmethod
    def learn(cls, images: Images, seed: int = 0) -> Vocabulary:
        """k-means words of dense patches of at most 2000 images drawn with `seed`."""
        from sklearn.cluster import MiniBatchKMeans

        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(images))[:VOCABULARY_IMAGES])
        found = _patches(images[chosen])
        places = rng.integers(0, found.shape[1], (len(found), PATCHES_PER_IMAGE))
        patches = np.take_along_axis(found, places[..., None], axis=1).reshape(-1, found.shape[2])
        mean = patches.mean(0)
        variances, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
        # Directions below a thousandth of the strongest are noise that whitening would blow up.
        keep = variances >= variances[-1] * 1e-3
        whiten = (axes[:, keep] / np.sqrt(variances[keep] + 0.1)).astype(np.float32)
        k = min(WORDS, len(patches))
        means = MiniBatchKMeans(k, random_state=seed, n_init=1, batch_size=4096, max_iter=30)
        means.fit((patches - mean) @ whiten)
        words = means.cluster_centers_.astype(np.float32)
        apart = np.square(words[:, None] - words).sum(2)
        return cls(words, mean, whiten, (apart <= SAME_PLACE * words.shape[1]).argmax(1))

    def histogram(self, images: Images) -> Features:
        """How often each word is the nearest one, (n, k), L1-normalised, then square-rooted."""
        patches = _patches(images)
        n, m, d = patches.shape
        points = (patches.reshape(n * m, d) - self.mean) @ self.whiten
        # |p - w|^2 without |p|^2, which is the same for every word.
        scores = points @ self.words.T - 0.5 * (self.words**2).sum(1)
        nearest = self.first[scores.argmax(1)]
        return _root_l1(_count(nearest.reshape(n, m), len(self.words)))


def _patches(images: Images) -> Features:
    """Dense 6 x 6 patches on a grid of about 14 x 14, each minus its mean and over its deviation.

    (n, h, w, c) to (n, m, 36 c). Images longer than 64 pixels are shrunk to 64 before.
    """
    n, h, w, c = images.shape
    if max(h, w) > LONGEST_SIDE:
        cv2 = _extra("cv2")
        scale = LONGEST_SIDE / max(h, w)
        size = max(PATCH, round(w * scale)), max(PATCH, round(h * scale))
        images = np.stack([cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in images])
        images = images.reshape(n, size[1], size[0], c)  # OpenCV drops the channel axis of grey
        w, h = size
    step = max(1, (max(h, w) - PATCH) // (GRID - 1))
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    found = windows[:, ::step, ::step].reshape(n, -1, c * PATCH * PATCH).astype(np.float32)
    found -= found.mean(2, keepdims=True)
    found /= np.sqrt(found.var(2, keepdims=True) + NOISE_FLOOR)
    return found


def _vocabulary_histogram(images: Images, seed: int) -> Callable[[Images], Features]:
    return Vocabulary.learn(images, seed).histogram


def _fixed(function: Callable[[Images], Features]) -> Callable[..., Callable[[Images], Features]]:
    return lambda _images, _seed: function


DESCRIPTORS: dict[str, Callable[[Images, int], Callable[[Images], Features]]] = {
    "pixels": _fixed(pixels),
    "colour_histogram": _fixed(colour_histogram),
    "lbp": _fixed(lbp),
    "hog": _fixed(hog),
    "bow_patches": _vocabulary_histogram,
}
"""Name to a function (vocabulary images, seed) -> (batch of images -> features)."""


def _check(images: Any, what: str) -> Images:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{what} must be a uint8 array (values 0..255), not {kind}")
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{what} must have shape (n, h, w, 1) or (n, h, w, 3), not {images.shape}; "
            "a single image needs images[None], grey images images[..., None]"
        )
    if not len(images) or min(images.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"{what} must hold at least one image of {SMALLEST} x {SMALLEST} pixels or more, "
            f"not {images.shape}"
        )
    return images


def describe(
    images: Images,
    name: str,
    *,
    vocabulary: Images | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Features:
    """Descriptor `name` (a key of `DESCRIPTORS`) of every image.

    `images` (n, h, w, c) uint8, c = 1 or 3, sides of at least 8. Returns float32 (n, d), finite.
    `vocabulary` are the images ``bow_patches`` learns its words from: give the training images when
    retrieval is measured, else queries help to choose the words (default: `images` themselves).
    A bar appears after ten seconds if `progress`. Raises `ValueError` for an unknown name, another
    dtype or shape, `ImportError` naming the extra if scikit-image or OpenCV is missing.
    """
    if name not in DESCRIPTORS:
        raise ValueError(f"unknown descriptor {name!r}; choose one of {', '.join(DESCRIPTORS)}")
    _check(images, "images")
    source = images if vocabulary is None else _check(vocabulary, "vocabulary")
    if source.shape[3] != images.shape[3]:
        raise ValueError(f"vocabulary has {source.shape[3]} channels, images {images.shape[3]}")
    function = DESCRIPTORS[name](source, seed)
    batch = max(1, 2**18 // (images.shape[1] * images.shape[2]))
    out: Features | None = None
    bar = tqdm(total=len(images), desc=name, unit="image", delay=10, disable=not progress)
    with bar:
        for start in range(0, len(images), batch):
            part = function(np.asarray(images[start : start + batch]))
            if out is None:
                out = np.empty((len(images), part.shape[1]), np.float32)
            out[start : start + len(part)] = part
            bar.update(len(part))
    assert out is not None
    return out
