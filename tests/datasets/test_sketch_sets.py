"""Sketchy and TU-Berlin from tiny files in the published layouts."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from cbir_lite.datasets.imageset import DataCorrupt, DataUnavailable
from cbir_lite.datasets.sketch_sets import load_sketches, photo_of

PLAIN = "tx_000000000000"
PHOTOS = {"ant": ["n02219486_1040", "n02219486_99"], "hot-air_balloon": ["n02782093_7"]}


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path)


@pytest.fixture
def sketchy(tmp_path):
    """Two classes, three photos; two drawings of each, and copies that were moved."""
    grey = 0
    for name, photos in PHOTOS.items():
        for photo in photos:
            grey += 10
            picture(tmp_path / "photo" / PLAIN / name / f"{photo}.jpg", grey)
            for k in (1, 2):
                picture(tmp_path / "sketch" / PLAIN / name / f"{photo}-{k}.png", grey + k)
                moved = tmp_path / "sketch" / "tx_000100000000" / name / f"{photo}-{k}.png"
                picture(moved, 200)
        picture(tmp_path / "EXTEND_image_sketchy" / name / "ext_1.jpg", 90)
    (tmp_path / "sketch" / PLAIN / "checked.txt").write_text("")
    return tmp_path


@pytest.fixture
def tu_berlin(tmp_path):
    """Two classes in the folder of the archive, numbers without leading zeros."""
    for number in (1, 2, 10):
        picture(tmp_path / "png" / "airplane" / f"{number}.png", number)
    picture(tmp_path / "png" / "bear (animal)" / "81.png", 81)
    (tmp_path / "png" / "filelist.txt").write_text("airplane/1.png\n")
    return tmp_path


def test_sketchy_is_photos_then_sketches_by_class_and_name(sketchy):
    loaded = load_sketches("sketchy", sketchy)
    assert loaded.class_names == ("ant", "hot-air_balloon")
    assert [p.name for p in loaded.images[:3]] == [
        "n02219486_1040.jpg", "n02219486_99.jpg", "n02782093_7.jpg",
    ]  # fmt: skip
    assert loaded.images[3] == sketchy / "sketch" / PLAIN / "ant" / "n02219486_1040-1.png"
    assert loaded.class_ids().tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 1]
    assert (loaded.read(3) == 11).all()
    assert "Sangkloy" in loaded.source


def test_a_sketch_knows_its_photo(sketchy):
    loaded = load_sketches("sketchy", sketchy)
    shown = photo_of(loaded)
    assert shown.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    for i, j in enumerate(shown):
        assert loaded.images[i].stem.startswith(loaded.images[j].stem)


@pytest.mark.parametrize(("part", "n"), [("photos", 3), ("sketches", 6), ("extended", 2)])
def test_parts_have_the_same_classes(sketchy, part, n):
    loaded = load_sketches(f"sketchy:{part}", sketchy)
    assert (loaded.name, len(loaded)) == (f"sketchy:{part}", n)
    assert loaded.class_names == ("ant", "hot-air_balloon")
    assert loaded.labels.sum(0).tolist() == {3: [2, 1], 6: [4, 2], 2: [1, 1]}[n]


def test_the_folder_of_the_archive_is_found_too(sketchy):
    (sketchy / "256x256").mkdir()
    for kind in ("photo", "sketch"):
        (sketchy / kind).rename(sketchy / "256x256" / kind)
    assert load_sketches("sketchy", sketchy).images[0].parent.parent.parent.name == "photo"


def test_tu_berlin_is_sorted_by_number(tu_berlin):
    loaded = load_sketches("tu_berlin", tu_berlin)
    assert loaded.class_names == ("airplane", "bear (animal)")
    assert [p.name for p in loaded.images] == ["1.png", "2.png", "10.png", "81.png"]
    assert loaded.class_ids().tolist() == [0, 0, 0, 1]
    assert (loaded.read(2) == 10).all()
    assert "Eitz" in loaded.source
    direct = load_sketches("tu_berlin", tu_berlin / "png")
    assert np.array_equal(direct.labels, loaded.labels)


def test_the_hash_follows_names_and_sizes(tu_berlin):
    first = load_sketches("tu_berlin", tu_berlin).images_hash
    path = tu_berlin / "png" / "airplane" / "2.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert load_sketches("tu_berlin", tu_berlin).images_hash != first


@pytest.mark.parametrize("gone", [f"sketch/{PLAIN}", f"photo/{PLAIN}", f"photo/{PLAIN}/ant"])
def test_what_is_missing_is_named_with_the_remedy(sketchy, gone):
    shutil.rmtree(sketchy / gone)
    with pytest.raises(DataUnavailable) as caught:
        load_sketches("sketchy", sketchy)
    for part in (str(sketchy / gone), "root=FOLDER", "2 GB", "Sangkloy"):
        assert part in str(caught.value)


def test_a_sketch_without_its_photo_is_named(sketchy):
    (sketchy / "photo" / PLAIN / "ant" / "n02219486_99.jpg").unlink()
    with pytest.raises(DataCorrupt, match=r"99-1.png was drawn from a photo n02219486_99.jpg"):
        load_sketches("sketchy", sketchy)
    assert len(load_sketches("sketchy:sketches", sketchy)) == 6


def test_an_empty_folder_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(DataUnavailable, match=r"<class>/\*.png does not exist.*CC BY 4.0"):
        load_sketches("tu_berlin", tmp_path)
    for name in ("sketchy:moved", "tu_berlin:20", "quickdraw"):
        with pytest.raises(ValueError, match=r"unknown sketch set.*sketchy:extended or tu_berlin"):
            load_sketches(name, tmp_path)
