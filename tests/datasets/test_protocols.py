from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from cbir_lite.bench import pairs
from cbir_lite.datasets import (
    Emoji,
    ImageSet,
    Protocol,
    make_protocols,
    protocol,
    protocol_files,
    protocol_names,
    save_protocol,
    subsample,
)
from cbir_lite.datasets.emoji_sources import STYLES
from cbir_lite.datasets.loaders import load as real_load
from cbir_lite.datasets.protocol_files import balanced_draw, shuffled
from cbir_lite.datasets.specs import SPECS

# name: queries, training images, database, whether the training images are in the database, hash
FROZEN = {
    "cifar10-54k": (
        1000,
        5000,
        54000,
        False,
        "6403bc4ed2dbaae5f6aaed797ab45db0ebe52bf62e7b45229341995a8759bbcc",
    ),
    "cifar10-59k": (
        1000,
        5000,
        59000,
        True,
        "518b5c9512435b15f219f0cf0c2aad5e3c06bed0e6e3f793163b24f933d44de0",
    ),
    "cifar10-official": (
        10000,
        50000,
        50000,
        True,
        "a5fbcc49a23532d220a17aacff9d73c2d4f6fe503c93ffd2a3d216fafe252dd0",
    ),
    "cifar10-validation": (
        300,
        4000,
        700,
        False,
        "d32df6d95b0bd6e3856270c2bae55791e9c7c31e7f8f37b85cc34a4440ee786a",
    ),
    "digits": (
        200,
        600,
        997,
        False,
        "24a7053d2ef060b3c3a68dbfef0df58799382e8085b4471a926694882e0a6408",
    ),
    "mnist-60k": (
        10000,
        60000,
        60000,
        True,
        "cb5ad1ba7349fdbd30480514a5a499430b5a10cc2fe54c43b895e132706d9db1",
    ),
    "mnist-64k": (
        1000,
        5000,
        64000,
        False,
        "a67c0fc4f9e7c8c1c53d15a47f144d16426e230d4508caa50c634ccb44bc4078",
    ),
    "mnist-69k": (
        1000,
        5000,
        69000,
        True,
        "974597bdf23a26711169dc042eaaff22caa6af619317b533909d2323cbcec81e",
    ),
}
NAMES = sorted(FROZEN)
IDS = np.load(Path(__file__).with_name("class_ids.npz"))


def labels_only(name: str) -> ImageSet:
    """The real set without its pixels, which no protocol looks at."""
    if name == "digits":
        return real_load(name)
    ids = IDS[name]
    images = np.zeros((len(ids), 1, 1, 1), np.uint8)
    return ImageSet(name, images, np.eye(10, dtype=np.uint8)[ids], tuple("0123456789"))


@pytest.fixture(autouse=True)
def no_pixels(monkeypatch):
    monkeypatch.setattr(protocol_files, "load", labels_only)
    monkeypatch.setattr(make_protocols, "load", labels_only)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_the_labels_used_here_are_the_published_ones(name):
    n_train = {"cifar10": 50000, "mnist": 60000}[name]
    for part, ids in (("train", IDS[name][:n_train]), ("test", IDS[name][n_train:])):
        found = hashlib.sha256(ids.tobytes()).hexdigest()
        assert found == SPECS[name].sha256[f"{part}_labels"]


def test_the_package_holds_these_protocols():
    assert protocol_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_frozen_sizes_and_hash(name):
    p = protocol(name)
    n_query, n_train, n_database, included, frozen = FROZEN[name]
    assert (p.name, p.query.size, p.train.size, p.database.size) == (
        name,
        n_query,
        n_train,
        n_database,
    )
    query, train, database = (set(a.tolist()) for a in (p.query, p.train, p.database))
    assert not query & train
    assert not query & database
    assert (train <= database) if included else not (train & database)
    digest = hashlib.sha256()
    for indices in (p.query, p.train, p.database):
        digest.update(struct.pack(f"<{indices.size + 1}q", indices.size, *indices.tolist()))
    digest.update(p.dataset.encode())
    assert p.hash == digest.hexdigest() == frozen
    assert p.description


def test_validation_holds_training_images_only():
    whole, held = protocol("cifar10-59k"), protocol("cifar10-validation")
    for indices in (held.query, held.train, held.database):
        assert np.isin(indices, whole.train).all()


@pytest.mark.parametrize(
    ("name", "query", "train"),
    [
        ("cifar10-54k", 100, 500),
        ("cifar10-59k", 100, 500),
        ("mnist-64k", 100, 500),
        ("mnist-69k", 100, 500),
        ("digits", 20, 60),
    ],
)
def test_drawn_parts_are_balanced_and_leave_no_image_out(name, query, train):
    p = protocol(name)
    ids = labels_only(p.dataset).class_ids()
    assert ids.size == p.n_images
    assert np.bincount(ids[p.query]).tolist() == [query] * 10
    assert np.bincount(ids[p.train]).tolist() == [train] * 10
    everything = set(p.query.tolist()) | set(p.train.tolist()) | set(p.database.tolist())
    assert everything == set(range(p.n_images))


@pytest.mark.parametrize(("dataset", "first_test"), [("cifar10", 50000), ("mnist", 60000)])
def test_published_halves_are_respected(dataset, first_test):
    for name in NAMES:
        p = protocol(name)
        if p.dataset == dataset and not name.endswith("-validation"):
            assert p.query.min() >= first_test
            assert p.train.max() < first_test
    official = protocol({"cifar10": "cifar10-official", "mnist": "mnist-60k"}[dataset])
    assert official.train.tolist() == official.database.tolist() == list(range(first_test))


def test_the_two_cifar_databases_differ_by_the_training_images():
    small, large = protocol("cifar10-54k"), protocol("cifar10-59k")
    assert small.query.tolist() == large.query.tolist()
    assert small.train.tolist() == large.train.tolist()
    assert set(large.database.tolist()) - set(small.database.tolist()) == set(small.train.tolist())


def test_drawing_again_gives_the_same_bytes(tmp_path):
    made = make_protocols.make_all(tmp_path)
    assert sorted(p.stem for p in made) == NAMES
    for path in made:
        assert path.read_bytes() == (make_protocols.FOLDER / path.name).read_bytes()


# Files ------------------------------------------------------------------------------------------


def write(path, **changes) -> str:
    data = {"name": "mine", "dataset": "folder:x", "n_images": 8, "query": [5, 1], "train": [2, 3]}
    data |= {"database": "rest", **changes}
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
    return str(path)


@pytest.mark.parametrize(
    ("rule", "database"),
    [
        ("rest", [0, 4, 6, 7]),
        ("all_but_query", [0, 2, 3, 4, 6, 7]),
        ("train", [2, 3]),
        ([7, 6], [6, 7]),
        ({"range": [6, 8]}, [6, 7]),
    ],
)
def test_your_own_file(tmp_path, rule, database):
    p = protocol(write(tmp_path / "mine.json", database=rule))
    assert p.query.tolist() == [1, 5]
    assert p.train.tolist() == [2, 3]
    assert p.database.tolist() == database
    assert p.query.dtype == p.train.dtype == p.database.dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": [1, 2]}, r"query and train share images: 2 \(1 in all\)"),
        ({"database": [1, 5, 6]}, r"query and database share images: 1, 5 \(2 in all\)"),
        ({"query": [8, 1]}, r"query has indices outside 0..7: 8"),
        ({"train": [-1, 3]}, r"train has indices outside 0..7: -1"),
        ({"train": [2, 2, 3]}, r"train has duplicates: 2"),
        ({"query": []}, r"query must be a non-empty"),
        ({"query": [1.5]}, r"whole numbers"),
        ({"query": [True]}, r"whole numbers"),
        ({"query": None}, r"entry 'query' is missing"),
        ({"n_images": None}, r"entry 'n_images' is missing"),
        ({"database": "others"}, r"'others' is none of rest, all_but_query, train"),
        ({"hash": "0" * 64}, r"not those that were frozen: expected hash 0000.*found [0-9a-f]{64}"),
    ],
)
def test_a_faulty_file_is_named_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"mine.json: .*{message}"):
        protocol(write(tmp_path / "mine.json", **changes))


def test_one_changed_index_is_noticed(tmp_path):
    data = json.loads((make_protocols.FOLDER / "digits.json").read_text())
    outside = set(range(1797)) - set(data["query"]) - set(data["train"])
    data["query"][0] = min(outside)
    (tmp_path / "digits.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"digits.json: .*expected hash.*Restore the file"):
        protocol(tmp_path / "digits.json")


def test_no_json_and_no_such_name(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x.json"):
        protocol(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"'cifar10-55k'; known: cifar10-54k, cifar10-59k"):
        protocol("cifar10-55k")
    with pytest.raises(ValueError, match=r"'emojis'; known: .*\.json.*emoji-category.*-tags"):
        pairs.frozen_protocol("emojis")
    with pytest.raises(FileNotFoundError):
        protocol(tmp_path / "none.json")


def test_save_and_read_back(tmp_path):
    p = protocol(write(tmp_path / "mine.json"))
    for rule in (None, "rest"):
        save_protocol(p, tmp_path / "again.json", database=rule)
        again = protocol(tmp_path / "again.json")
        assert (again.hash, again.name, again.n_images) == (p.hash, p.name, p.n_images)
    with pytest.raises(ValueError, match="not those that were frozen"):
        save_protocol(p, tmp_path / "again.json", database="train")


def test_indices_cannot_be_changed():
    p = protocol("digits")
    with pytest.raises(ValueError, match="read-only"):
        p.query[0] = 1


# Draws ------------------------------------------------------------------------------------------


def test_the_random_order_is_that_of_sha256():
    indices = np.arange(20, 40, dtype=np.int64)
    expected = sorted(range(20, 40), key=lambda i: hashlib.sha256(b"key:%d" % i).digest())
    assert shuffled(indices, "key").tolist() == expected
    assert expected != list(range(20, 40))


def test_a_balanced_draw_is_proportional_to_within_one():
    rng = np.random.default_rng(0)
    for case in range(20):
        ids = rng.integers(0, 4, 60)
        pool = np.sort(rng.choice(60, 41, replace=False)).astype(np.int64)
        count = int(rng.integers(0, 42))
        drawn = balanced_draw(pool, np.eye(4, dtype=np.uint8)[ids], count, f"case {case}")
        assert drawn.size == count == np.unique(drawn).size
        assert np.isin(drawn, pool).all()
        share = np.bincount(ids[pool], minlength=4) * count / pool.size
        assert (np.abs(np.bincount(ids[drawn], minlength=4) - share) < 1).all()


def test_class_ids_and_multi_hot_give_the_same_draw():
    whole = protocol("digits")
    ids = labels_only("digits").class_ids()
    hot = np.eye(11, dtype=np.uint8)[ids]
    draws = {subsample(whole, 30, 60, 90, labels=labels).hash for labels in (ids, hot, None)}
    assert len(draws) == 1


def test_validation_is_a_balanced_part_of_the_training_images():
    p = protocol("cifar10-59k")
    ids = IDS["cifar10"]
    train, validation = p.validation_split()
    assert np.bincount(ids[train]).tolist() == [400] * 10
    assert np.bincount(ids[validation]).tolist() == [100] * 10
    assert np.union1d(train, validation).tolist() == p.train.tolist()
    assert np.array_equal(p.validation_split(seed=0)[1], validation)
    assert not np.array_equal(p.validation_split(seed=1)[1], validation)
    assert p.validation_split(0.1)[1].size == 500


def test_validation_takes_labels_of_your_own(tmp_path):
    p = protocol(write(tmp_path / "m.json", train=[2, 3, 6, 7]))
    labels = np.array([[1, 1]] * 4 + [[0, 1]] * 4, np.uint8)
    train, validation = p.validation_split(0.5, labels=labels)
    assert len(set(train.tolist()) & {2, 3}) == len(set(validation.tolist()) & {2, 3}) == 1
    with pytest.raises(ValueError, match="speaks of 8 images, got 3 labels"):
        p.validation_split(0.5, labels=labels[:3])
    for fraction in (0, 1, -0.5, 0.01):
        with pytest.raises(ValueError, match="fraction"):
            p.validation_split(fraction, labels=labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_subsample_keeps_the_meaning_and_is_found_by_its_name(name):
    whole = protocol(name)
    part = subsample(whole, query=50, train=100, database=300, seed=3)
    ids = labels_only(whole.dataset).class_ids()
    assert (part.query.size, part.train.size, part.database.size) == (50, 100, 300)
    for drawn, of in ((part.query, whole.query), (part.train, whole.train)):
        assert np.isin(drawn, of).all()
        share = np.bincount(ids[of]) * drawn.size / of.size
        assert (np.abs(np.bincount(ids[drawn], minlength=10) - share) < 1).all()
    assert np.isin(part.database, whole.database).all()
    included = FROZEN[name][3]
    assert np.isin(part.train, part.database).sum() == (100 if included else 0)
    assert part.name == f"{name}@50q-100t-300d-s3"
    again = protocol(part.name)
    assert (again.hash, again.name) == (part.hash, part.name)
    others = [subsample(whole, query=50, train=100, database=300, seed=4), whole]
    assert part.hash not in {o.hash for o in others}


def test_parts_not_named_stay_whole():
    whole = protocol("digits")
    part = subsample(whole, query=20)
    assert part.train.tolist() == whole.train.tolist()
    assert part.database.tolist() == whole.database.tolist()
    assert protocol(part.name).hash == part.hash


def test_impossible_subsamples_are_refused():
    with pytest.raises(ValueError, match=r"query must be in 1..200, got 201"):
        subsample(protocol("digits"), query=201)
    with pytest.raises(ValueError, match=r"train must be in 1..600, got 0"):
        subsample(protocol("digits"), train=0)
    with pytest.raises(ValueError, match=r"database=10 cannot be smaller than train=20"):
        subsample(protocol("cifar10-59k"), train=20, database=10)
    with pytest.raises(ValueError, match=r"'small'"):
        protocol("digits@small")


def test_a_protocol_made_in_code_is_checked_too():
    a = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match="share images: 1"):
        Protocol("p", "digits", a, np.array([1, 2], np.int64), np.array([3], np.int64), 9)
    with pytest.raises(ValueError, match="int64"):
        Protocol("p", "digits", a.astype(np.int32), a + 2, a + 4, 9)


@pytest.mark.parametrize("part", ["query", "train", "database"])
def test_rows_that_are_not_ascending_are_refused(part):
    rows = {k: np.arange(4, dtype=np.int64) + 4 * i for i, k in enumerate(("query", "train"))}
    rows["database"] = rows["train"]
    Protocol("p", "digits", **rows, n_images=9)
    rows[part] = rows[part][[0, 2, 1, 3]]
    message = (
        rf"protocol p: {part} is not ascending \(use np.sort\), out of place: {rows[part][2]} "
    )
    with pytest.raises(ValueError, match=message):
        Protocol("p", "digits", **rows, n_images=9)


def test_the_emoji_protocols_that_are_told_are_those_of_the_bench(monkeypatch):
    count = 40
    made = Emoji(
        tuple(chr(0x1F400 + i) for i in range(count)),
        tuple(f"thing {i}" for i in range(count)),
        np.arange(count) % 2,
        ("Animals", "Smileys & Emotion"),
        np.eye(count, dtype=np.uint8),
        tuple(f"word {i}" for i in range(count)),
        np.zeros((len(STYLES) * count, 4, 4, 3), np.uint8),
    )
    monkeypatch.setattr(pairs, "load_emoji", lambda: made)
    assert {pairs.frozen_protocol(n).name for n in pairs.EMOJI} == set(pairs.EMOJI)
    with pytest.raises(ValueError, match=r"unknown task 'x': use ") as caught:
        pairs.frozen_protocol("emoji-x")
    tasks = str(caught.value).split("use ")[1].replace(" or ", ", ").split(", ")
    told = {f"emoji-{t}" for t in tasks} | {"emoji-tags"}
    told |= {f"emoji-{t}{judged}" for t in pairs.TASKS for judged in ("", "-concept")}
    assert told == set(pairs.EMOJI)
