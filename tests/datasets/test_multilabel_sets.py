"""NUS-WIDE, COCO and ImageNet from tiny files in the published layouts, and their splits."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_lite.datasets import (
    DataCorrupt,
    DataUnavailable,
    ImageSet,
    drawn_protocol,
    load,
    protocol,
    save_protocol,
)
from cbir_lite.datasets.multilabel_sets import HASHNET_CLASSES


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path)


# NUS-WIDE -----------------------------------------------------------------------------------------

N = 60


@pytest.fixture
def nus_wide(cache):
    """60 images; concept k is on every (k + 1)-th image, so the first are the most frequent."""
    folder = cache / "nus_wide"
    truth = folder / "Groundtruth" / "AllLabels"
    truth.mkdir(parents=True)
    (folder / "ImageList").mkdir()
    names = [rf"actor\{i:04d}_{9000 + i}.jpg" for i in range(N)]
    # Concept 0 misses image 0, so that image 0 has none of the frequent concepts but many others.
    labels = np.zeros((N, 81), np.uint8)
    for k in range(81):
        labels[1:, k] = (np.arange(1, N) % (k + 1)) == 0
    labels[0, 70:] = 1
    for k in range(81):
        (truth / f"Labels_c{k:02d}.txt").write_text("".join(f"{v} \r\n" for v in labels[:, k]))
    (folder / "ImageList" / "Imagelist.txt").write_text("\r\n".join(names) + "\r\n")
    for i, name in enumerate(names):
        picture(folder / "Flickr" / name.replace("\\", "/"), i)
    return folder, labels


def test_nus_wide_keeps_the_frequent_concepts_and_the_images_that_have_one(nus_wide):
    folder, labels = nus_wide
    loaded = load("nus_wide")
    assert loaded.class_names == tuple(f"c{k:02d}" for k in range(21))
    assert len(loaded) == N - 1
    assert np.array_equal(loaded.labels, labels[1:, :21])
    assert loaded.images[3] == folder / "Flickr" / "actor" / "0004_9004.jpg"
    assert (loaded.read(3) == 4).all()
    assert "research" in loaded.licence
    assert "Chua" in loaded.source


def test_frequency_decides_not_the_order_of_the_files(nus_wide):
    folder, labels = nus_wide
    truth = folder / "Groundtruth" / "AllLabels"
    (truth / "Labels_c00.txt").rename(truth / "Labels_zoo.txt")
    loaded = load("nus_wide")
    assert loaded.class_names == (*(f"c{k:02d}" for k in range(1, 21)), "zoo")
    assert np.array_equal(loaded.labels[:, -1], labels[1:, 0])


def test_nus_wide_with_all_concepts(nus_wide):
    loaded = load("nus_wide:81")
    assert loaded.name == "nus_wide:81"
    assert np.array_equal(loaded.labels, nus_wide[1])


def test_root_and_other_places_of_the_same_files(nus_wide, tmp_path):
    folder, _ = nus_wide
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.move(folder / "Groundtruth" / "AllLabels", mine / "AllLabels")
    shutil.move(folder / "ImageList" / "Imagelist.txt", mine / "Imagelist.txt")
    shutil.move(folder / "Flickr", mine / "images")
    loaded = load("nus_wide", root=mine)
    assert len(loaded) == N - 1
    assert loaded.images[0] == mine / "images" / "actor" / "0001_9001.jpg"


def test_the_hash_follows_names_and_sizes_not_the_place(nus_wide, tmp_path):
    folder, _ = nus_wide
    first = load("nus_wide").images_hash
    shutil.copytree(folder, tmp_path / "copy")
    assert load("nus_wide", root=tmp_path / "copy").images_hash == first
    changed = folder / "Flickr" / "actor" / "0007_9007.jpg"
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert load("nus_wide").images_hash != first


@pytest.mark.parametrize(
    "gone",
    [
        "ImageList/Imagelist.txt",
        "Groundtruth/AllLabels",
        "Flickr",
        "Flickr/actor/0005_9005.jpg",
        "Groundtruth/AllLabels/Labels_c44.txt",
    ],
)
def test_what_is_missing_is_named_with_size_licence_source_and_place(nus_wide, gone):
    folder, _ = nus_wide
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataUnavailable) as caught:
        load("nus_wide")
    message = str(caught.value)
    named = "Labels_*.txt does not exist 81 times (found 80)" if "c44" in gone else path.name
    for part in (named, str(folder), "31 GB", "free for research", "Chua", "root=FOLDER"):
        assert part in message
    if path.suffix == ".jpg":
        assert "1 of 59 images are missing" in message


@pytest.mark.parametrize("text", ["1\n" * (N - 1), "1\n" * (N - 1) + "2\n"])
def test_a_broken_label_file_is_named(nus_wide, text):
    file = nus_wide[0] / "Groundtruth" / "AllLabels" / "Labels_c05.txt"
    file.write_text(text)
    with pytest.raises(DataCorrupt, match=rf"Labels_c05.txt is truncated.*expected {N} lines"):
        load("nus_wide")


# COCO ---------------------------------------------------------------------------------------------


@pytest.fixture
def coco(cache):
    """Two halves of four images each; the last of each half has no annotation."""
    folder = cache / "coco"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 44, "name": "bottle"}, {"id": 1, "name": "person"}]
    found = {0: [1, 1], 1: [44], 2: [44, 1], 3: []}
    for half, start in (("train2014", 500), ("val2014", 100)):
        images, annotations = [], []
        for i in reversed(range(4)):
            name = f"COCO_{half}_{start + i:012d}.jpg"
            images.append({"id": start + i, "file_name": name, "height": 3, "width": 4})
            picture(folder / half / name, i)
            for category in found[i]:
                entry = {"image_id": start + i, "category_id": category, "iscrowd": 0}
                annotations.append({"id": len(annotations), "bbox": [0, 0, 1, 1], **entry})
        data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{half}.json").write_text(json.dumps(data))
    return folder


def test_coco_joins_both_halves_by_image_id(coco):
    loaded = load("coco")
    assert loaded.class_names == ("person", "bottle")
    assert [p.name for p in loaded.images] == [
        f"COCO_{half}_{start + i:012d}.jpg"
        for half, start in (("train2014", 500), ("val2014", 100))
        for i in range(3)
    ]
    assert loaded.labels.tolist() == [[1, 0], [0, 1], [1, 1]] * 2
    assert (loaded.read(4) == 1).all()


def test_images_of_coco_may_lie_in_a_folder_of_their_own(coco):
    for half in ("train2014", "val2014"):
        (coco / "images").mkdir(exist_ok=True)
        (coco / half).rename(coco / "images" / half)
    assert load("coco").images[0].parent == coco / "images" / "train2014"


def test_missing_and_broken_files_of_coco_are_named(coco):
    (coco / "val2014" / "COCO_val2014_000000000101.jpg").unlink()
    with pytest.raises(DataUnavailable, match=r"000000000101.jpg does not exist \(1 of 6.*20 GB"):
        load("coco")
    annotations = coco / "annotations" / "instances_val2014.json"
    annotations.write_text(annotations.read_text()[:-40])
    with pytest.raises(DataCorrupt, match=r"instances_val2014.json is truncated"):
        load("coco")
    annotations.unlink()
    with pytest.raises(DataUnavailable, match=r"instances_val2014.json does not exist.*CC BY 4.0"):
        load("coco")


# ImageNet -----------------------------------------------------------------------------------------

OTHER = ("n01440764", "n15075141")


def imagenet(folder, classes, train=3, val=2, flat=False):
    rows = ["ImageId,PredictionString"]
    for c, wnid in enumerate(classes):
        for i in range(train):
            picture(folder / "train" / wnid / f"{wnid}_{i}.JPEG", c)
        for _ in range(val):
            name = f"ILSVRC2012_val_{len(rows):08d}"
            place = "val" if flat else f"val/{wnid}"
            picture(folder / place / f"{name}.JPEG", c)
            rows.append(f"{name},{wnid} 1 2 3 4 {OTHER[0]} 1 1 2 2")
    if flat:
        (folder / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_by_class_folders_or_by_the_table_of_a_flat_folder(cache, flat):
    imagenet(cache / "imagenet", OTHER, flat=flat)
    loaded = load("imagenet")
    assert loaded.class_names == OTHER
    assert loaded.class_ids().tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert loaded.images[4].name == "n15075141_1.JPEG"
    assert [p.name for p in loaded.images[6:]] == [
        f"ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2, 3, 4)
    ]
    assert (loaded.read(8) == 1).all()


def test_the_hundred_classes_are_picked_out_of_all(cache):
    imagenet(cache / "imagenet", (*OTHER, *HASHNET_CLASSES), train=1, val=1)
    loaded = load("imagenet:100")
    assert loaded.class_names == HASHNET_CLASSES
    assert loaded.labels.shape == (200, 100)
    assert np.array_equal(loaded.class_ids(), np.tile(np.arange(100), 2))


def test_the_published_class_list_is_sorted_and_without_repeats():
    assert len(set(HASHNET_CLASSES)) == 100
    assert list(HASHNET_CLASSES) == sorted(HASHNET_CLASSES)
    assert all(len(c) == 9 for c in HASHNET_CLASSES)
    # Places of some classes in the label vectors of the published lists.
    for place, wnid in ((2, "n01560419"), (33, "n02256656"), (56, "n03196217"), (98, "n12057211")):
        assert HASHNET_CLASSES[place] == wnid


def test_missing_parts_of_imagenet_are_named(cache):
    folder = imagenet(cache / "imagenet", OTHER, flat=True)
    with pytest.raises(DataUnavailable, match=r"train/n01514668/\*.JPEG.*145 GB.*registration"):
        load("imagenet:100")
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_1,\n")
    with pytest.raises(DataCorrupt, match=r"LOC_val_solution.csv is truncated.*val_1"):
        load("imagenet")
    (folder / "LOC_val_solution.csv").unlink()
    with pytest.raises(DataUnavailable, match=r"LOC_val_solution.csv does not exist"):
        load("imagenet")
    shutil.rmtree(folder / "val")
    with pytest.raises(DataUnavailable, match=r"imagenet/val does not exist"):
        load("imagenet")


def test_unknown_parts_are_refused(cache):
    for name in ("nus_wide:5", "coco:2017", "imagenet:10"):
        with pytest.raises(ValueError, match=r"unknown part.*nus_wide:81, imagenet:100"):
            load(name)


# Splits -------------------------------------------------------------------------------------------


def made(name, labels, paths=None):
    n = len(labels)
    paths = paths or [f"Flickr/x/{i:05d}.jpg" for i in range(n)]
    classes = tuple(f"c{k}" for k in range(labels.shape[1]))
    return ImageSet(name, tuple(Path(p) for p in paths), labels, classes)


def order_of(images, key):
    names = [p.name for p in images.images]
    return sorted(
        range(len(names)), key=lambda i: hashlib.sha256(f"{key}:{names[i]}".encode()).digest()
    )


def test_concept_by_concept_equals_a_walk_through_the_hash_order():
    labels = (np.random.default_rng(0).random((200, 3)) < 0.4).astype(np.uint8)
    images = made("nus_wide", labels)
    got = drawn_protocol(images, "concepts", query=5, train=12)
    order, query, train = order_of(images, "nus_wide concepts"), [], []
    for part, count in ((query, 5), (train, 12)):
        for k in range(3):
            left = [i for i in order if labels[i, k] and i not in query and i not in train]
            part += left[:count]
    assert got.query.tolist() == sorted(query)
    assert got.train.tolist() == sorted(train)
    assert got.database.tolist() == sorted(set(range(200)) - set(query))
    assert (got.name, got.dataset) == ("nus_wide-concepts@5q-12t", "nus_wide")


def test_random_parts_are_the_head_of_the_hash_order():
    images = made("coco", np.ones((40, 1), np.uint8))
    got = drawn_protocol(images, query=7, train=11)
    order = order_of(images, "coco random")
    assert got.query.tolist() == sorted(order[:7])
    assert got.train.tolist() == sorted(order[7:18])
    assert len(got.database) == 33


def test_imagenet_asks_with_the_validation_images(cache):
    imagenet(cache / "imagenet", HASHNET_CLASSES, train=4, val=2)
    images = load("imagenet:100")
    got = drawn_protocol(images, train=3)
    assert got.query.tolist() == list(range(400, 600))
    assert got.database.tolist() == list(range(400))
    assert np.bincount(images.class_ids()[got.train]).tolist() == [3] * 100
    imagenet(cache / "flat" / "imagenet", HASHNET_CLASSES, train=4, val=2, flat=True)
    flat = drawn_protocol(load("imagenet:100", root=cache / "flat" / "imagenet"), train=3)
    assert flat.hash == got.hash


def test_sizes_are_those_of_the_literature():
    labels = (np.random.default_rng(1).random((21000, 21)) < 0.2).astype(np.uint8)
    got = drawn_protocol(made("nus_wide", labels))
    assert (got.name, len(got.query), len(got.train)) == ("nus_wide-concepts", 2100, 10500)
    assert labels[got.query].sum(0).min() >= 100
    assert labels[got.train].sum(0).min() >= 500
    got = drawn_protocol(made("nus_wide", labels), "random")
    assert (len(got.query), len(got.train), len(got.database)) == (5000, 10000, 16000)
    assert np.isin(got.train, got.database).all()


def test_the_order_of_the_set_and_its_folder_do_not_matter():
    labels = (np.random.default_rng(2).random((90, 3)) < 0.5).astype(np.uint8)
    first = made("nus_wide", labels)
    mixed = np.random.default_rng(3).permutation(90)
    paths = [f"elsewhere/{first.images[i].name}" for i in mixed]
    second = made("nus_wide", labels[mixed], paths)
    a, b = (drawn_protocol(s, "concepts", query=3, train=9) for s in (first, second))
    for part in ("query", "train"):
        names = [{s.images[i].name for i in getattr(p, part)} for s, p in ((first, a), (second, b))]
        assert names[0] == names[1]


def test_a_drawn_protocol_is_written_and_read_back(nus_wide, tmp_path):
    got = drawn_protocol(load("nus_wide"), "random", query=4, train=6)
    save_protocol(got, tmp_path / "mine.json", "all_but_query")
    assert protocol(tmp_path / "mine.json").hash == got.hash


def test_impossible_draws_are_refused():
    images = made("nus_wide", np.eye(3, dtype=np.uint8)[np.arange(30) % 3])
    with pytest.raises(ValueError, match=r"500 images of 'c0' asked, 5 left"):
        drawn_protocol(images, query=5)
    with pytest.raises(ValueError, match=r"5000 \+ 10000 of 30 images"):
        drawn_protocol(images, "random")
    with pytest.raises(ValueError, match=r"no split 'validation' of 'nus_wide'"):
        drawn_protocol(images, "validation")
    with pytest.raises(ValueError, match=r"no split '' of 'digits'.*concepts of nus_wide"):
        drawn_protocol(made("digits", np.ones((3, 1), np.uint8)))
