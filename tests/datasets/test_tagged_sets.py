"""MIRFlickr with its tags and COCO with its captions, from tiny files in the published layouts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cbir_lite.datasets import DataCorrupt, DataUnavailable, Split
from cbir_lite.datasets.tagged_sets import (
    load_coco_captions,
    load_mirflickr,
    load_tagged,
)


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path)


# MIRFlickr ----------------------------------------------------------------------------------------

TAGS = {
    1: ["sky", "blue", "Nikon"],
    2: ["sky"],
    3: ["sky", "blue", "blue"],
    4: ["blue", "rare"],
    5: [],
    6: ["rare"],
    10: ["sky", "blue"],
}
LABELS = {
    "sky": [1, 2, 3, 4, 5, 6],
    "animals": [3, 10],
    "sky_r1": [1, 3],
    "baby_r1": [2, 6],
}


@pytest.fixture
def mirflickr(tmp_path):
    for number, tags in TAGS.items():
        picture(tmp_path / "mirflickr" / f"im{number}.jpg", number)
        file = tmp_path / "mirflickr" / "meta" / "tags" / f"tags{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{t}\r\n" for t in tags))
    notes = tmp_path / "mirflickr25k_annotations_v080"
    notes.mkdir()
    for label, numbers in LABELS.items():
        (notes / f"{label}.txt").write_text("".join(f"{n}\n" for n in numbers))
    (notes / "README.txt").write_text("potential and relevant labels")
    return tmp_path


def test_mirflickr_keeps_frequent_tags_and_images_that_have_one_and_a_label(mirflickr):
    loaded = load_mirflickr(mirflickr, least=2)
    assert loaded.vocabulary == ("blue", "rare", "sky")
    assert loaded.images.class_names == ("animals", "sky")
    # Image 5 has no tag.
    numbers = [int(p.stem[2:]) for p in loaded.images.images]
    assert numbers == [1, 2, 3, 4, 6, 10]
    for i, number in enumerate(numbers):
        assert loaded.words[i].tolist() == [int(w in TAGS[number]) for w in loaded.vocabulary]
        expected = [int(number in LABELS[name]) for name in loaded.images.class_names]
        assert loaded.images.labels[i].tolist() == expected
        assert loaded.texts[i] == tuple(TAGS[number])
        assert (loaded.images.read(i) == number).all()
    assert len(loaded) == 6
    split = Split(np.zeros((6, 2), np.float32), loaded.images.labels, other=loaded.words)
    assert split.other.shape == (6, 3)


def test_a_rarer_word_needs_more_images(mirflickr):
    loaded = load_mirflickr(mirflickr, least=3)
    assert loaded.vocabulary == ("blue", "sky")
    assert [int(p.stem[2:]) for p in loaded.images.images] == [1, 2, 3, 4, 10]
    assert load_mirflickr(mirflickr, least=2).images.images_hash != loaded.images.images_hash


def test_relevant_labels_are_those_of_their_own_files(mirflickr):
    loaded = load_mirflickr(mirflickr, relevant=True, least=1)
    assert loaded.images.class_names == ("baby", "sky")
    assert [int(p.stem[2:]) for p in loaded.images.images] == [1, 2, 3, 6]
    assert loaded.images.labels.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert loaded.images.name == "mirflickr:relevant"


def test_twenty_images_make_a_word(mirflickr):
    for number in range(11, 40):
        picture(mirflickr / "mirflickr" / f"im{number}.jpg")
        tags = "common\n" + ("nearly\n" if number < 30 else "")
        (mirflickr / "mirflickr" / "meta" / "tags" / f"tags{number}.txt").write_text(tags)
    with (mirflickr / "mirflickr25k_annotations_v080" / "animals.txt").open("a") as file:
        file.write("".join(f"{n}\n" for n in range(11, 40)))
    loaded = load_tagged("mirflickr", mirflickr)
    assert loaded.vocabulary == ("common",)
    assert len(loaded) == 29


def test_the_same_files_elsewhere(mirflickr, tmp_path):
    first = load_mirflickr(mirflickr, least=2)
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.move(mirflickr / "mirflickr" / "meta", mine / "meta")
    shutil.move(mirflickr / "mirflickr", mine / "images")
    shutil.move(mirflickr / "mirflickr25k_annotations_v080", mine / "annotations")
    assert load_mirflickr(mine, least=2).texts == first.texts


def test_tags_in_an_older_encoding(mirflickr):
    file = mirflickr / "mirflickr" / "meta" / "tags" / "tags1.txt"
    file.write_bytes("café\nsky\nblue\n".encode("latin-1"))
    assert load_mirflickr(mirflickr, least=2).texts[0] == ("café", "sky", "blue")


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("mirflickr/meta/tags/tags4.txt", "tags4.txt"),
        ("mirflickr/meta/tags", "meta/tags"),
        ("mirflickr25k_annotations_v080", "mirflickr25k_annotations_v080"),
        ("mirflickr", "mirflickr"),
    ],
)
def test_what_is_missing_is_named(mirflickr, gone, named):
    path = mirflickr / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataUnavailable) as caught:
        load_tagged("mirflickr", mirflickr)
    for part in (f"{named} does not exist", str(mirflickr), "3 GB", "Creative Commons", "Huiskes"):
        assert part in str(caught.value)


@pytest.mark.parametrize("line", ["11", "x", "-1"])
def test_annotations_of_images_that_do_not_exist_are_refused(mirflickr, line):
    file = mirflickr / "mirflickr25k_annotations_v080" / "sky.txt"
    file.write_text(f"1\n{line}\n")
    with pytest.raises(DataCorrupt, match=rf"sky.txt is truncated.*numbers of images.*'{line}'"):
        load_tagged("mirflickr", mirflickr)


def test_folders_without_images_or_annotations(mirflickr):
    for path in (mirflickr / "mirflickr25k_annotations_v080").glob("*_r1.txt"):
        path.unlink()
    with pytest.raises(DataUnavailable, match=r"\*_r1.txt does not exist"):
        load_tagged("mirflickr:relevant", mirflickr)
    for path in (mirflickr / "mirflickr").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DataUnavailable, match=r"im1.jpg does not exist"):
        load_tagged("mirflickr", mirflickr)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'coco'.*mirflickr:relevant, coco:captions"):
        load_tagged("coco", tmp_path)


# COCO ---------------------------------------------------------------------------------------------

CAPTIONS = {
    500: ["A man rides a wave.", "Man on the  wave\n"],
    501: ["Two bottles, one wave"],
    100: ["The man and his bottles"],
    101: ["A the of"],
}


@pytest.fixture
def coco(tmp_path):
    """Two halves; image 502 has a caption and no category, 102 has a category and no caption."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for half, ids, bare in (("train2014", [501, 500, 502], 502), ("val2014", [100, 101, 102], -1)):
        images = [{"id": i, "file_name": f"COCO_{half}_{i:012d}.jpg"} for i in ids]
        for image in images:
            picture(folder / half / image["file_name"], image["id"] % 256)
        objects = [{"image_id": i, "category_id": 1 + i % 2} for i in ids if i != bare]
        texts = [
            {"image_id": i, "id": 7, "caption": c}
            for i in ids
            for c in CAPTIONS.get(i, [] if i == 102 else ["wave"])
        ]
        categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bottle"}]
        for kind, notes in (("instances", objects), ("captions", texts)):
            data = {"images": images, "annotations": notes, "categories": categories}
            (folder / "annotations" / f"{kind}_{half}.json").write_text(json.dumps(data))
    return folder


def test_captions_go_with_the_images_of_coco(coco):
    loaded = load_tagged("coco:captions", coco)
    names = [int(p.stem[-12:]) for p in loaded.images.images]
    # 502 has no category, 102 no caption, 101 none but function words.
    assert names == [500, 501, 100]
    assert loaded.texts[0] == ("A man rides a wave.", "Man on the wave")
    assert loaded.vocabulary == ("bottles", "man", "rides", "wave")
    assert loaded.words.tolist() == [[0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]]
    assert loaded.images.labels.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert loaded.images.name == "coco:captions"
    assert (loaded.images.read(1) == 501 % 256).all()


def test_only_the_most_frequent_words_are_kept(coco):
    loaded = load_coco_captions(coco, most=2)
    # bottles, man and wave are each in two of the images with a category; ties by name.
    assert loaded.vocabulary == ("bottles", "man")
    assert loaded.words.tolist() == [[0, 1], [1, 0], [1, 1]]


def test_missing_and_broken_captions_are_named(coco):
    file = coco / "annotations" / "captions_val2014.json"
    text = file.read_text()
    for broken in (text[:-30], text.replace('"image_id": 100', '"image_id": 999')):
        file.write_text(broken)
        with pytest.raises(DataCorrupt, match=r"captions_val2014.json is truncated or altered"):
            load_tagged("coco:captions", coco)
    file.unlink()
    with pytest.raises(DataUnavailable, match=r"captions_val2014.json does not exist.*CC BY 4.0"):
        load_tagged("coco:captions", coco)
