"""Hand-crafted descriptors against hand-worked values and their invariances."""

import sys

import numpy as np
import pytest

from cbir_lite.features import handcrafted
from cbir_lite.features.handcrafted import DESCRIPTORS, Vocabulary, describe


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def constant(*colour, side=8):
    return np.full((1, side, side, len(colour)), colour, np.uint8)


def textures(rng, n=6, side=16, channels=3):
    """Half smooth ramps, half noise: two kinds of image that a texture descriptor tells apart."""
    ramp = np.linspace(60, 180, side)[None, :, None, None] + rng.normal(0, 1, (n, side, side, 1))
    noise = rng.uniform(60, 180, (n, side, side, 1))
    both = np.concatenate([ramp, noise]).repeat(channels, axis=3)
    return both.astype(np.uint8)


def test_pixels_are_flat_and_scaled():
    images = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    assert describe(images, "pixels") == pytest.approx(np.arange(192)[None] / 255)


@pytest.mark.parametrize(("h", "w", "c"), [(8, 8, 1), (9, 11, 3)])
def test_stages_of_pixels_are_means_over_cells_and_the_pixels(rng, h, w, c):
    images = rng.integers(0, 256, (3, h, w, c)).astype(np.uint8)
    found = handcrafted.pixel_stages(images)
    expected = []
    for image in images.astype(np.float64) / 255:
        row = []
        for cells in (1, 2, 4):
            for i in range(cells):
                for j in range(cells):
                    rows = range(i * h // cells, (i + 1) * h // cells)
                    columns = range(j * w // cells, (j + 1) * w // cells)
                    for k in range(c):
                        row.append(np.mean([image[a, b, k] for a in rows for b in columns]))
        expected.append([*row, *image.ravel()])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32
    widths = handcrafted.pixel_stage_widths((h, w, c))
    assert widths == (c, 4 * c, 16 * c, h * w * c)
    assert found.shape == (3, sum(widths))


@pytest.mark.parametrize(
    ("colour", "place"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (0, 0, 7)),
        ((128, 128, 128), (0, 0, 4)),
        ((255, 0, 0), (0, 7, 7)),
        ((0, 255, 0), (2, 7, 7)),  # hue 120 of 360 degrees: 85 of 256, 85 // 32
        ((0, 0, 255), (5, 7, 7)),
        ((0, 0, 100), (5, 7, 3)),
    ],
)
def test_histogram_of_a_constant_image(colour, place):
    found = describe(constant(*colour), "colour_histogram")
    expected = np.zeros((8, 8, 8), np.float32)
    expected[place] = 1
    np.testing.assert_array_equal(found, expected.reshape(1, -1))


def test_histogram_counts_then_takes_roots():
    image = constant(255, 0, 0)
    image[0, :2] = (0, 255, 0)  # a quarter of the rows
    found = describe(image, "colour_histogram").reshape(8, 8, 8)
    assert found[0, 7, 7] == pytest.approx(0.75**0.5)
    assert found[2, 7, 7] == pytest.approx(0.25**0.5)
    assert np.count_nonzero(found) == 2


def test_grey_histogram():
    image = constant(200)
    image[0, 0, 0, 0] = 7
    found = describe(image, "colour_histogram")
    assert found.shape == (1, 32)
    assert found[0, 200 // 8] == pytest.approx((63 / 64) ** 0.5)
    assert found[0, 0] == pytest.approx((1 / 64) ** 0.5)


def test_histogram_does_not_see_where_pixels_are(rng):
    images = rng.integers(0, 256, (3, 12, 9, 3), dtype=np.uint8)
    order = rng.permutation(12 * 9)
    shuffled = images.reshape(3, -1, 3)[:, order].reshape(images.shape)
    a, b = describe(images, "colour_histogram"), describe(shuffled, "colour_histogram")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(describe(images, "hog"), describe(shuffled, "hog"))


@pytest.mark.parametrize("channels", [1, 3])
def test_lbp_ignores_a_brightness_shift_and_a_quarter_turn(rng, channels):
    images = rng.integers(0, 200, (4, 16, 16, channels), dtype=np.uint8)
    found = describe(images, "lbp")
    np.testing.assert_array_equal(found, describe(images + np.uint8(50), "lbp"))
    np.testing.assert_allclose(found, describe(np.rot90(images, axes=(1, 2)), "lbp"), atol=1e-6)
    assert not np.allclose(found, describe(images // 100, "lbp"), atol=0.05)


def naive_lbp_bin(patch):
    """Bin of the centre of a 3 x 3 patch: eight neighbours on the circle of radius 1."""

    def bilinear(row, column):
        r, c = min(int(row), 1), min(int(column), 1)
        dr, dc = row - r, column - c
        corners = patch[r : r + 2, c : c + 2]
        return np.array([1 - dr, dr]) @ corners @ np.array([1 - dc, dc])

    angles = np.pi / 4 * np.arange(8)
    places = zip((1 - np.sin(angles)).round(5), (1 + np.cos(angles)).round(5), strict=True)
    bits = [bilinear(row, column) >= patch[1, 1] - 1e-9 for row, column in places]
    changes = sum(a != b for a, b in zip(bits, bits[1:] + bits[:1], strict=True))
    return sum(bits) if changes <= 2 else 9


def test_lbp_bins_against_a_naive_count(rng):
    image = rng.integers(0, 256, (1, 10, 11, 1), dtype=np.uint8)
    padded = np.pad(image[0, ..., 0].astype(float), 1, mode="edge")
    bins = [naive_lbp_bin(padded[r : r + 3, c : c + 3]) for r in range(10) for c in range(11)]
    expected = np.sqrt(np.bincount(bins, minlength=10) / 110)
    np.testing.assert_allclose(describe(image, "lbp")[0, :10], expected, atol=1e-6)


def test_lbp_of_a_flat_image_is_the_full_circle():
    expected = np.zeros(28)
    expected[[8, 10 + 16]] = 1  # every neighbour is as bright as the centre
    np.testing.assert_array_equal(describe(constant(90, 90, 90), "lbp")[0], expected)


@pytest.mark.parametrize(("axis", "bin_"), [(2, 0), (1, 4)])
def test_hog_of_a_step_edge_lies_in_one_orientation(axis, bin_):
    """A vertical edge has a horizontal gradient (bin 0), a horizontal one 90 degrees (bin 4)."""
    image = np.zeros((1, 16, 16, 3), np.uint8)
    np.moveaxis(image, axis, 0)[8:] = 255
    blocks = describe(image, "hog").reshape(3, 3, 2, 2, 9)
    energy = (blocks**2).sum((0, 1, 2, 3))
    assert energy[bin_] > 0
    assert energy[bin_] == pytest.approx(energy.sum())
    # Cells that touch the edge hold all of it, and each block is a unit vector.
    along = np.moveaxis(blocks, axis - 1, 0)
    assert (along[0] ** 2).sum((1, 2, 3)) == pytest.approx(np.ones(3), abs=1e-3)


def test_hog_length_does_not_depend_on_size(rng):
    for h, w in [(8, 8), (11, 19), (28, 28), (64, 33)]:
        for channels in (1, 3):
            image = rng.integers(0, 256, (1, h, w, channels), dtype=np.uint8)
            assert describe(image, "hog").shape == (1, 324)


def test_bow_counts_the_nearest_words(rng):
    images = textures(rng, n=2)
    patches = handcrafted._patches(images)
    d = patches.shape[2]
    words, mean, whiten = rng.normal(size=(20, 5)), rng.normal(size=d), rng.normal(size=(d, 5))
    vocabulary = Vocabulary(*(a.astype(np.float32) for a in (words, mean, whiten)), np.arange(20))
    expected = np.zeros((len(images), 20))
    for i, row in enumerate(patches):
        for patch in row:
            distances = np.linalg.norm(words - (patch - mean) @ whiten, axis=1)
            expected[i, distances.argmin()] += 1
    found = vocabulary.histogram(images) ** 2 * len(patches[0])
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_words_at_one_place_count_as_the_first_of_them(rng):
    # Half of the patches are the same, so k-means sets several words there.
    images = np.full((8, 32, 32, 1), 90, np.uint8)
    images[:4] = rng.integers(0, 256, (4, 32, 32, 1))
    vocabulary = Vocabulary.learn(images)
    words = vocabulary.words.astype(np.float64)
    squares = np.square(words[:, None] - words).sum(2)
    np.testing.assert_array_equal(vocabulary.first, (squares < 1e-7).argmax(1))
    assert len(np.unique(vocabulary.first)) < len(words)
    assert (vocabulary.histogram(images[7:]) > 0).sum() == 1


def test_learnt_words_lie_nearer_than_patches_drawn_at_random(rng):
    images = textures(rng, n=30, side=24)
    vocabulary = Vocabulary.learn(images)
    patches = handcrafted._patches(images).reshape(-1, 108)
    points = (patches - vocabulary.mean) @ vocabulary.whiten
    drawn = points[rng.choice(len(points), len(vocabulary.words), replace=False)]

    def error(words):
        squared = (points**2).sum(1)[:, None] - 2 * points @ words.T + (words**2).sum(1)
        return squared.min(1).mean()

    assert error(vocabulary.words) < error(drawn)


def test_patches_against_slices(rng):
    image = rng.integers(0, 256, (1, 40, 34, 3), dtype=np.uint8)
    step = (40 - 6) // 13
    expected = []
    for r in range(0, 35, step):
        for c in range(0, 29, step):
            patch = image[0, r : r + 6, c : c + 6].astype(float).transpose(2, 0, 1).ravel()
            expected.append((patch - patch.mean()) / np.sqrt(patch.var() + 10))
    np.testing.assert_allclose(handcrafted._patches(image)[0], expected, atol=1e-5)


def test_bow_is_reproducible_and_the_seed_matters(rng):
    images = textures(rng)
    first = describe(images, "bow_patches", seed=3)
    np.testing.assert_array_equal(first, describe(images, "bow_patches", seed=3))
    assert not np.array_equal(first, describe(images, "bow_patches", seed=4))


def test_bow_of_new_images_uses_the_given_vocabulary(rng):
    train, query = textures(rng), textures(rng, n=3)
    found = describe(query, "bow_patches", vocabulary=train)
    np.testing.assert_array_equal(found, Vocabulary.learn(train).histogram(query))
    assert not np.array_equal(found, describe(query, "bow_patches"))


@pytest.mark.parametrize("name", ["lbp", "hog", "bow_patches"])
def test_textures_are_nearer_to_their_own_kind(rng, name):
    found = describe(textures(rng), name)
    distance = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 6 == np.arange(12) // 6).all()


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 31, 3), (224, 200, 3), (70, 224, 1)])
def test_every_size_and_channel_count(rng, name, shape):
    images = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    images[1] = 128  # a flat image must not divide by zero
    found = describe(images, name, progress=False)
    assert found.dtype == np.float32
    assert len(found) == 2
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_batches_do_not_change_the_result(rng, name, monkeypatch):
    images = rng.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    whole = describe(images, name)
    parts = [describe(images[i : i + 1], name, vocabulary=images) for i in range(5)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)


def test_flat_images_give_a_vocabulary():
    images = np.full((3, 16, 16, 1), 40, np.uint8)
    found = describe(images, "bow_patches")
    assert (found[0] == found).all()
    assert (found**2).sum(1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "uint8.*float32"),
        (np.zeros((8, 8, 3), np.uint8), r"images\[None\]"),
        (np.zeros((2, 8, 8), np.uint8), r"images\[..., None\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"\(2, 8, 8, 4\)"),
        (np.zeros((2, 7, 8, 3), np.uint8), "8 x 8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one"),
        ([[0]], "uint8 array.*list"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        describe(images, "pixels")


def test_unknown_name_and_foreign_vocabulary():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"'gist'.*bow_patches"):
        describe(images, "gist")
    with pytest.raises(ValueError, match="1 channels, images 3"):
        describe(images, "bow_patches", vocabulary=images[..., :1])
    with pytest.raises(ValueError, match="vocabulary must be a uint8"):
        describe(images, "bow_patches", vocabulary=images.astype(float))


@pytest.mark.parametrize(("name", "module"), [("colour_histogram", "cv2"), ("hog", "skimage")])
def test_missing_extra_is_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "skimage.feature", raising=False)
    with pytest.raises(ImportError, match=r"cbir-lite\[handcrafted\]"):
        describe(np.zeros((1, 8, 8, 3), np.uint8), name)
    assert describe(np.zeros((1, 8, 8, 3), np.uint8), "pixels").shape == (1, 192)
