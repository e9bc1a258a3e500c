"""Settings: parts of settings, folders, and representations in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_lite import datasets
from cbir_lite.bench import Setting, Spec, at_scale, load_suite, run
from cbir_lite.bench import setting as module
from cbir_lite.bench.setting import Scale
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))


def test_a_part_holds_its_own_images_and_the_features_of_the_whole() -> None:
    whole = Setting("digits", "hog")
    part = whole.subset(20, 50, 80)
    assert [len(part.rows(p)) for p in ("query", "train", "database")] == [20, 50, 80]
    assert part.image_set.images.shape[0] == part.frozen.n_images <= 150
    assert len(np.intersect1d(part.frozen.query, part.frozen.database)) == 0
    assert part.labels[part.frozen.query].sum(0).tolist() == [2] * 10
    # The database is not quite balanced, and the part keeps its proportions.
    share = whole.labels[whole.frozen.database].mean(0) * 80
    assert np.abs(part.labels[part.frozen.database].sum(0) - share).max() <= 1
    assert whole.subset() is whole
    sizes = [len(getattr(whole.frozen, p)) for p in ("query", "train", "database")]
    assert whole.subset(*sizes) is whole


def test_rows_of_a_part_are_those_of_the_whole_or_extracted_for_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def load(images: datasets.ImageSet, *_: object, **__: object) -> np.ndarray:
        calls.append(len(images))
        return images.images.reshape(len(images), -1).astype(np.float32)

    monkeypatch.setattr(module.features, "load", load)
    whole = Setting("digits", "efficientnet_lite0-32")
    part = whole.subset(20, 50, 80)
    alone = whole.subset(20, 50, 80, inherit=False)
    np.testing.assert_array_equal(part.features(), alone.features())
    assert calls == [1797, part.frozen.n_images]
    assert part.with_backbone("efficientnet_lite0-64").features().shape == (len(part.labels), 64)
    assert calls == [1797, part.frozen.n_images, 1797]


def test_images_of_a_folder_are_not_subsampled(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(tmp_path / "own" / name / f"{i}.png")
    rows = [np.array(part, np.int64) for part in ([0, 3], [1, 4], [2, 5])]
    protocol = datasets.Protocol("own", f"folder:{tmp_path / 'own'}", *rows, 6)
    setting = Setting(protocol, "pixels")
    assert setting.features().shape == (6, 224 * 224 * 3)
    with pytest.raises(ValueError, match="folder cannot be subsampled"):
        setting.subset(2, 2, 1)


def test_maps_are_encoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("digits", "pixels")
    maps = np.random.default_rng(0).random((1797, 2, 2, 3)).astype(np.float16)
    setting._features["maps"] = maps
    seen: list[int] = []

    class Sum(Method):
        reads, descriptor = "maps", "real"

        def fit(self, split: datasets.Split, **_: object) -> Sum:
            return self

        def embed(self, x: np.ndarray) -> np.ndarray:
            seen.append(len(x))
            return x.astype(np.float32).sum((1, 2))

    queries, database = setting.represent(Sum(bits=3))
    expected = maps.astype(np.float32).sum((1, 2))
    np.testing.assert_array_equal(queries, expected[setting.frozen.query])
    np.testing.assert_array_equal(database, expected[setting.frozen.database])
    assert max(seen) <= 2048
    tall = setting.frozen.database.repeat(5)
    object.__setattr__(setting.protocol, "database", tall)
    seen.clear()
    np.testing.assert_array_equal(setting.represent(Sum(bits=3))[1], expected[tall])
    assert seen[1:] == [2048] * (len(tall) // 2048) + [len(tall) % 2048]


def test_a_scale_without_sizes_is_the_whole_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SCALES, "book", Scale("book", "digits", "hog", 30, (0,)))
    setting = at_scale("book", progress=False)
    assert (setting.frozen.name, setting.backbone) == ("digits", "hog")


def test_runs_of_one_process_share_settings_and_refuse_protocols_that_do_not(
    tmp_path: Path,
) -> None:
    digits = datasets.protocol("digits")
    rows = digits.query, digits.train[:-1], digits.database
    other = datasets.Protocol("other", "digits", *rows, digits.n_images)
    datasets.save_protocol(other, tmp_path / "other.json")
    settings: dict[str, Setting] = {}
    run(Spec("lsh", ("digits",), "pixels", 8), settings=settings)
    (kept,) = settings.values()
    run(Spec("pca_sign", ("digits",), "pixels", 8), settings=settings)
    assert list(settings.values()) == [kept]
    with pytest.raises(ValueError, match="digits and other differ in query or training"):
        run(Spec("lsh", ("digits", str(tmp_path / "other.json")), "pixels", 8), settings=settings)


class _Sees(Method):
    """A system that only declares what it wants to see."""

    supervision = "semi-supervised"
    views = ("flip", "rotate90")
    labelled_fraction = 0.2

    def fit(self, split: datasets.Split, **loop: object) -> _Sees:
        return self


def test_views_are_the_features_of_the_turned_training_images() -> None:
    setting = Setting("digits", "pixels")
    split = setting.split(_Sees())
    train = setting.image_set.images[setting.frozen.train].astype(np.float32)
    whole = setting.rows("train")
    scale = whole.max() / train.max()
    np.testing.assert_allclose(whole, train.reshape(len(train), -1) * scale, rtol=1e-5)
    assert split.views is not None
    flipped, turned = split.views[:, 0], split.views[:, 1]
    np.testing.assert_allclose(flipped, train[:, :, ::-1].reshape(len(train), -1) * scale)
    expected = np.rot90(train, axes=(1, 2)).reshape(len(train), -1) * scale
    np.testing.assert_allclose(turned, expected, atol=1.01 * scale)
    assert split.subset([3, 1]).views.tolist() == split.views[[3, 1]].tolist()  # type: ignore[union-attr]


def test_a_semi_supervised_system_sees_its_share_of_the_labels_chosen_by_its_seed() -> None:
    setting = Setting("digits", "pixels")
    first, second = (setting.split(_Sees(seed=s)) for s in (0, 1))
    n = len(setting.frozen.train)
    assert first.labelled.sum() == second.labelled.sum() == round(0.2 * n)
    assert (first.labelled != second.labelled).any()
    assert not first.labels[~first.labelled].any()
    assert setting.split(_Sees(), labelled_fraction=0.5).labelled.sum() == round(0.5 * n)


class _Reads(Method):
    """A system that only declares what it reads."""

    def fit(self, split: datasets.Split, **loop: object) -> _Reads:
        return self


class _Stages(_Reads):
    reads = "stages"
    learns_database = True


class _Beside(_Reads):
    reads = "pooled+lbp+hog"


def test_a_split_says_which_columns_are_which_part() -> None:
    setting = Setting("digits", "pixels")
    whole = setting.split(_Stages())
    assert whole.parts == (1, 4, 16, 64)
    assert whole.database is not None
    assert whole.database.parts == whole.parts
    image = setting.image_set.images[setting.frozen.train][3, ..., 0] / 255
    low, middle, high, last = np.split(whole.x[3], np.cumsum(whole.parts)[:-1])
    np.testing.assert_allclose(low, [image.mean()], rtol=1e-5)
    quarters = [image[a : a + 4, b : b + 4].mean() for a in (0, 4) for b in (0, 4)]
    np.testing.assert_allclose(middle, quarters, rtol=1e-5)
    np.testing.assert_allclose(high[5], image[2:4, 2:4].mean(), rtol=1e-5)
    np.testing.assert_allclose(last, image.ravel(), rtol=1e-5)
    assert setting.split(_Reads()).parts == (64,)


def test_descriptors_stand_beside_the_features_of_a_setting_and_of_its_parts() -> None:
    setting = Setting("digits", "pixels")
    split = setting.split(_Beside())
    assert split.parts == (64, 28, 324)
    for a, name in zip(np.split(split.x, (64, 92), 1), ("pixels", "lbp", "hog"), strict=True):
        np.testing.assert_array_equal(a, setting.with_backbone(name).rows("train"))
    small = setting.subset(20, 50, 80)
    assert small.split(_Beside()).parts == split.parts
    assert small.parent is not None
    rows = small.parent[1]
    np.testing.assert_array_equal(
        small.features(_Beside.reads), setting.features(_Beside.reads)[rows]
    )


def test_images_too_are_encoded_in_blocks() -> None:
    setting = Setting("digits", "pixels")
    seen: list[int] = []

    class Mean(_Reads):
        reads, descriptor = "images", "real"

        def embed(self, x: np.ndarray) -> np.ndarray:
            assert x.dtype == np.uint8
            seen.append(len(x))
            return x.reshape(len(x), -1).mean(1, keepdims=True).astype(np.float32)

    tall = setting.frozen.database.repeat(4)
    object.__setattr__(setting.protocol, "database", tall)
    assert len(setting.represent(Mean(bits=1))[1]) == len(tall) > 2048
    assert max(seen) == 2048
    assert setting.split(Mean(bits=1)).parts == (1,)


def test_the_survey_suite_measures_systems_of_every_kind_of_input() -> None:
    measured = {(s.method.split("/")[0], p) for s in load_suite("survey") for p in s.protocols}
    for id_, cls in registry.classes().items():
        if set(cls.reads.split("+")) - {"pooled", "maps"}:
            real = cls.descriptor == "real"
            assert (id_, "emoji-instance" if real else "cifar10-59k") in measured, id_
    assert len({cls.reads for cls in registry.classes().values()}) >= 5


def test_views_are_described_with_the_words_of_the_images() -> None:
    setting = Setting("digits", "bow_patches").subset(10, 60, 60)
    x, same = setting.rows("train"), setting.views(("crop0", "rotate10"))
    away = np.linalg.norm(same - x[:, None], axis=2).mean()
    others = np.linalg.norm(x[1:] - x[:-1], axis=1).mean()
    assert away < others
