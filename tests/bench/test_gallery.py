"""Pictures of results: the nearest by brute force, files seen as the database's images are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_lite import datasets
from cbir_lite.bench import Setting
from cbir_lite.bench.gallery import features_of_file, picture, results
from cbir_lite.features import extract
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits() -> Setting:
    return Setting("digits", "pixels").subset(20, 200, 300)


@pytest.fixture
def folder(tmp_path: Path) -> Setting:
    """Twelve pictures of two classes, of different sizes, on disk."""
    rng = np.random.default_rng(0)
    for name, base in (("dark", 20), ("light", 180)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(6):
            image = rng.integers(base, base + 60, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "own" / name / f"{i}.png")
    rows = [np.array(part, np.int64) for part in ([0, 6], [1, 2, 7, 8], [3, 4, 5, 9, 10, 11])]
    protocol = datasets.Protocol("own", f"folder:{tmp_path / 'own'}", *rows, 12)
    return Setting(protocol, "colour_histogram")


def fitted(setting: Setting, name: str, **params: object) -> Method:
    method = registry.create(name, bits=8, **params)
    return method.fit(setting.split(method))


def marks(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "mark"]


def captions(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "label"]


def brute_force(setting: Setting, method: Method, row: int) -> list[tuple[float, int]]:
    """(distance, image) of the whole database, nearest first, ties in its order."""
    x, base = setting.features(), setting.frozen.database
    if method.descriptor == "binary":
        query = method.encode(x[row : row + 1])[0]
        found = [int((code != query).sum()) for code in method.encode(x[base])]
    else:
        sides = method.encode_query(x[row : row + 1]), method.encode_database(x[base])
        found = list(map(float, method.distance(*sides)[0]))
    return sorted(zip(found, base.tolist(), strict=True), key=lambda pair: pair[0])


@pytest.mark.parametrize(
    ("name", "params"), [("itq", {}), ("neural_codes", {}), ("dqn", {"epochs": 1})]
)
def test_results_are_the_nearest_of_the_database(digits: Setting, name: str, params: dict) -> None:
    method = fitted(digits, name, **params)
    rows = digits.frozen.query[:3]
    indices, distances = results(digits, method, digits.features()[rows], 7)
    assert indices.shape == distances.shape == (3, 7)
    for row, images, found in zip(rows, indices, distances, strict=True):
        expected = brute_force(digits, method, int(row))[:7]
        np.testing.assert_allclose(found, [d for d, _ in expected], rtol=1e-5)
        if name == "itq":
            assert images.tolist() == [i for _, i in expected]
        assert np.isin(images, digits.frozen.database).all()


def test_right_and_wrong_are_marked_for_a_query_of_the_protocol(digits: Setting) -> None:
    method = fitted(digits, "itq")
    classes = digits.image_set.class_ids()
    row = int(digits.frozen.query[4])
    figure, words = picture(digits, method, 4, 6)
    nearest = brute_force(digits, method, row)[:6]
    right = [classes[i] == classes[row] for _, i in nearest]
    assert marks(figure) == ["✓" if r else "✗" for r in right]
    assert captions(figure)[0].startswith("query 4")
    assert captions(figure)[1:] == [f"{classes[i]}, d={d}" for d, i in nearest]
    assert words == f"query 4: {classes[row]}: top 6 of 300 by ITQ, {sum(right)} of 6 relevant"


def test_nothing_is_marked_for_a_file(digits: Setting, tmp_path: Path) -> None:
    method = fitted(digits, "itq")
    row = int(digits.frozen.database[5])
    path = tmp_path / "some.png"
    Image.fromarray(digits.image_set.read(row)[..., 0]).save(path)
    figure, words = picture(digits, method, str(path), 4)
    assert marks(figure) == []
    assert words == "some.png: top 4 of 300 by ITQ"
    # The file is an image of the database, so the first is at distance 0.
    assert captions(figure)[1].endswith("d=0")


def test_a_file_is_seen_as_the_images_of_the_database(digits: Setting, tmp_path: Path) -> None:
    row = int(digits.frozen.train[0])
    path = tmp_path / "digit.png"
    Image.fromarray(digits.image_set.read(row)[..., 0]).convert("RGB").save(path)
    for backbone in ("pixels", "hog", "bow_patches"):
        setting = digits.with_backbone(backbone)
        x = features_of_file(setting, path)
        np.testing.assert_allclose(x[0], setting.features()[row], atol=1e-6)
    images = features_of_file(digits, path, "images")
    np.testing.assert_array_equal(images[0], digits.image_set.read(row))
    Image.fromarray(digits.image_set.read(row)[..., 0]).resize((90, 50)).save(path)
    assert features_of_file(digits, path).shape == (1, 64)


def test_a_file_through_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "choose", lambda *_: "torch")
    setting = Setting("digits", "efficientnet_lite0-32").subset(10, 10, 20, inherit=False)
    row = int(setting.frozen.database[3])
    path = tmp_path / "digit.png"
    Image.fromarray(setting.image_set.read(row)[..., 0]).save(path)
    x, same = features_of_file(setting, path)[0], setting.features()[row]
    assert x @ same / np.linalg.norm(x) / np.linalg.norm(same) > 0.9999
    assert features_of_file(setting, path, "maps").shape == (1, 1, 1, 1280)


@pytest.mark.parametrize("backbone", ["colour_histogram", "bow_patches"])
def test_images_of_a_folder(folder: Setting, backbone: str) -> None:
    setting = folder.with_backbone(backbone)
    files = setting.image_set.images
    x = features_of_file(setting, files[3])
    np.testing.assert_allclose(x[0], setting.features()[3], atol=1e-6)
    figure, words = picture(setting, fitted(setting, "lsh"), str(files[3]), 3)
    assert words.startswith("3.png: top 3 of 6 by LSH")
    assert captions(figure)[1] == "dark, d=0"
    figure, words = picture(setting, fitted(setting, "neural_codes"), 1, 3)
    right = marks(figure).count("✓")
    assert words == f"query 1: light: top 3 of 6 by NeuralCodes, {right} of 3 relevant"
    assert right == 3 or backbone == "bow_patches"


def test_bad_queries_are_named(digits: Setting, tmp_path: Path) -> None:
    method = fitted(digits, "lsh")
    for position in (20, -1):
        with pytest.raises(ValueError, match=rf"query {position} is outside 0\.\.19 of digits"):
            picture(digits, method, position)
    with pytest.raises(ValueError, match=r"'cat\.jpg' is no image file.*0\.\.19"):
        picture(digits, method, "cat.jpg")
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.png: not a readable image"):
        picture(digits, method, str(tmp_path / "x.png"))
