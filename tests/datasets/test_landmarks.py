"""Oxford5k and Paris6k from tiny files in both published forms; pickles that try something."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_lite.datasets import DataCorrupt, DataUnavailable
from cbir_lite.datasets.landmarks import load_landmarks

NAMES = ["all_souls_000000", "all_souls_000001", "oxford_000100", "keble_000007"]
QUERIES = ["all_souls_000013", "keble_000055"]


def picture(path, value, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3) + value
    ).save(path, quality=100)


def entries(array):
    """Ground truth of two queries, as lists or as arrays."""
    made = [
        {"bbx": [1.4, 2.0, 5.6, 4.0], "easy": [1], "hard": [0], "junk": [3]},
        {"bbx": [0.0, 0.0, 8.0, 6.0], "easy": [], "hard": [3], "junk": [0, 1]},
    ]
    if array:
        made = [{k: np.array(v) for k, v in e.items()} for e in made]
    return made


@pytest.fixture
def revisited(tmp_path):
    def make(gnd=None, **other):
        for k, name in enumerate(NAMES + QUERIES):
            picture(tmp_path / "jpg" / f"{name}.jpg", k)
        data = {"imlist": NAMES, "qimlist": QUERIES, "gnd": gnd or entries(False)} | other
        (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(data))
        return tmp_path

    return make


@pytest.mark.parametrize("array", [False, True])
def test_revisited_oxford(revisited, array):
    loaded = load_landmarks("roxford5k", revisited(entries(array)))
    assert [p.stem for p in loaded.database.images] == NAMES
    assert [p.stem for p in loaded.queries.images] == QUERIES
    assert loaded.boxes.tolist() == [[1.4, 2.0, 5.6, 4.0], [0.0, 0.0, 8.0, 6.0]]
    assert {k: [r.tolist() for r in v] for k, v in loaded.truth.items()} == {
        "easy": [[1], []],
        "hard": [[0], [3]],
        "junk": [[3], [0, 1]],
    }
    assert loaded.database.class_names == ("all_souls", "keble", "oxford")
    assert loaded.database.labels.argmax(1).tolist() == [0, 0, 2, 1]
    assert "Radenovic" in loaded.database.source
    whole = loaded.queries.read(0)
    assert np.array_equal(loaded.query_image(0), whole[2:4, 1:6])
    assert np.array_equal(loaded.query_image(1), loaded.queries.read(1))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_every_age_are_read(revisited, protocol):
    folder = revisited()
    data = {"imlist": NAMES, "qimlist": QUERIES, "gnd": entries(True)}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(data, protocol=protocol))
    assert [r.tolist() for r in load_landmarks("roxford5k", folder).truth["junk"]] == [[3], [0, 1]]


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("deep", [False, True])
def test_a_pickle_can_run_nothing(revisited, tmp_path, deep):
    target = tmp_path / "ran"
    evil = Evil(target)
    gnd = [{**e, "easy": [evil]} for e in entries(False)] if deep else evil
    folder = revisited(gnd=gnd)
    with pytest.raises(DataCorrupt, match=r"gnd_roxford5k.pkl is .*it names pathlib.*arrays only"):
        load_landmarks("roxford5k", folder)
    assert not target.exists()
    for code in (b"cbuiltins\neval\n(S'1'\ntR.", b"cos\nsystem\n(S'true'\ntR."):
        (folder / "gnd_roxford5k.pkl").write_bytes(code)
        with pytest.raises(DataCorrupt, match=r"it names (builtins.eval|os.system)"):
            load_landmarks("roxford5k", folder)


def test_numpy_is_allowed_for_its_arrays_alone(revisited):
    folder = revisited()
    code = b"cnumpy\nload\n(S'x.npy'\ntR."
    (folder / "gnd_roxford5k.pkl").write_bytes(code)
    with pytest.raises(DataCorrupt, match=r"it names numpy.load"):
        load_landmarks("roxford5k", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gnd": entries(False)[:1]}, "2 queries, but ground truth for 1"),
        ({"gnd": [{**entries(False)[0], "easy": [4]}, entries(False)[1]]}, "names image 4 of 4"),
        ({"gnd": [{**entries(False)[0], "easy": [3]}, entries(False)[1]]}, "3 under two grades"),
        ({"gnd": [{"easy": [1]}, entries(False)[1]]}, "KeyError: 'bbx'"),
        ({"gnd": [{**entries(False)[0], "bbx": [1, 2]}, entries(False)[1]]}, "ValueError"),
    ],
)
def test_wrong_ground_truth_is_refused(revisited, change, message):
    with pytest.raises(DataCorrupt, match=rf"gnd_roxford5k.pkl is truncated or altered.*{message}"):
        load_landmarks("roxford5k", revisited(**change))


def test_what_is_missing_is_named(revisited, tmp_path):
    with pytest.raises(DataUnavailable, match=r"gnd_rparis6k.pkl does not exist.*3 GB.*Philbin"):
        load_landmarks("rparis6k", tmp_path)
    folder = revisited()
    (folder / "jpg" / "keble_000007.jpg").unlink()
    with pytest.raises(DataUnavailable, match=r"keble_000007.jpg does not exist \(1 of 4"):
        load_landmarks("roxford5k", folder)
    cut = (folder / "gnd_roxford5k.pkl").read_bytes()[:-20]
    (folder / "gnd_roxford5k.pkl").write_bytes(cut)
    with pytest.raises(DataCorrupt, match="truncated"):
        load_landmarks("roxford5k", folder)
    with pytest.raises(ValueError, match=r"unknown set of landmarks 'oxford'.*rparis6k"):
        load_landmarks("oxford", folder)


# Classic ------------------------------------------------------------------------------------------


@pytest.fixture
def classic(tmp_path):
    """Oxford: images in one folder, queries of the database named after their visual words."""
    for k, name in enumerate(reversed(NAMES + QUERIES)):
        picture(tmp_path / "jpg" / f"{name}.jpg", k)
    gt = tmp_path / "gt"
    gt.mkdir()
    texts = {
        "all_souls_1_query": "oxc1_all_souls_000013 1.5 2 5.5 4\n",
        "all_souls_1_good": "all_souls_000001\nall_souls_000013\n",
        "all_souls_1_ok": "all_souls_000000\n",
        "all_souls_1_junk": "keble_000055\n",
        "keble_1_query": "oxc1_keble_000055 0 0 8 6",
        "keble_1_good": "keble_000007",
        "keble_1_ok": "",
        "keble_1_junk": "",
    }
    for name, text in texts.items():
        (gt / f"{name}.txt").write_text(text)
    return tmp_path


def test_classic_oxford(classic):
    loaded = load_landmarks("oxford5k", classic)
    stems = [p.stem for p in loaded.database.images]
    assert stems == sorted(NAMES + QUERIES)
    assert [p.stem for p in loaded.queries.images] == QUERIES
    named = {k: [[stems[r] for r in rows] for rows in v] for k, v in loaded.truth.items()}
    assert named == {
        "good": [["all_souls_000001", "all_souls_000013"], ["keble_000007"]],
        "ok": [["all_souls_000000"], []],
        "junk": [["keble_000055"], []],
    }
    assert loaded.boxes[0].tolist() == [1.5, 2, 5.5, 4]


def test_images_of_paris_lie_in_folders(classic):
    for path in list((classic / "jpg").iterdir()):
        (classic / "jpg" / path.stem[:3]).mkdir(exist_ok=True)
        path.rename(classic / "jpg" / path.stem[:3] / path.name)
    for path in (classic / "gt").glob("*_query.txt"):
        path.write_text(path.read_text().replace("oxc1_", ""))
    loaded = load_landmarks("paris6k", classic)
    assert [p.stem for p in loaded.database.images] == sorted(NAMES + QUERIES)
    assert loaded.name == "paris6k"
    assert loaded.queries.read(1).shape == (6, 8, 3)


def test_broken_and_missing_classic_files_are_named(classic):
    (classic / "gt" / "keble_1_query.txt").write_text("oxc1_keble_000055 0 0 8")
    with pytest.raises(DataCorrupt, match=r"keble_1_query.txt is .*an image and four numbers"):
        load_landmarks("oxford5k", classic)
    (classic / "gt" / "keble_1_query.txt").write_text("oxc1_keble_000055 0 0 8 6")
    (classic / "gt" / "keble_1_ok.txt").write_text("keble_000099")
    with pytest.raises(DataUnavailable, match=r"keble_000099.jpg does not exist.*keble_1_ok.txt"):
        load_landmarks("oxford5k", classic)
    (classic / "gt" / "keble_1_ok.txt").write_text("keble_000007")
    with pytest.raises(DataCorrupt, match="query 1 has image 3 under two grades"):
        load_landmarks("oxford5k", classic)
    (classic / "gt" / "keble_1_ok.txt").unlink()
    with pytest.raises(DataUnavailable, match=r"keble_1_ok.txt does not exist"):
        load_landmarks("oxford5k", classic)
    for path in (classic / "gt").glob("*_query.txt"):
        path.unlink()
    with pytest.raises(DataUnavailable, match=r"\*_query.txt does not exist"):
        load_landmarks("oxford5k", classic)
