"""Indexes of a folder: ranks by brute force, what is read and written, and what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cbir_lite import datasets, features
from cbir_lite.bench import Setting
from cbir_lite.bench import index as package
from cbir_lite.bench.index import Index, build_index, list_folder, load_index
from cbir_lite.features import extract, handcrafted
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method

HISTOGRAM = "colour_histogram"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))


def draw(path: Path, seed: int) -> Path:
    """A picture of its own, of a size of its own."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).resize((20 + seed, 30), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Fourteen pictures, some in the folder itself, some two folders below."""
    root = tmp_path / "own"
    for i in range(14):
        draw(root / ("", "a", "a/b [x]")[i % 3] / f"{i:02d}.png", i)
    return root


def made(folder: Path, name: str = "itq", backbone: str = HISTOGRAM, **params: Any) -> Index:
    return build_index(
        list_folder(folder), registry.create(name, **{"bits": 16, **params}), backbone
    )


def brute_force(index: Index, row: int) -> list[tuple[float, int]]:
    """(distance, row) of all images, nearest first, ties in order of path."""
    paths = [index.listing.path(i) for i in range(len(index))]
    x = features.load(datasets.unlabelled(paths, "all"), index.backbone, index.method.reads)
    method = index.method
    if method.descriptor == "binary":
        codes = method.encode(x)
        found = [int((code != codes[row]).sum()) for code in codes]
    else:
        sides = method.encode_query(x[row : row + 1]), method.encode_database(x)
        found = list(map(float, method.distance(*sides)[0]))
    return sorted(zip(found, range(len(paths)), strict=True))


@pytest.mark.parametrize("bits", [16, 70])
def test_every_image_finds_itself_and_ranks_are_those_of_brute_force(own: Path, bits: int) -> None:
    index = made(own, bits=bits)
    paths = [index.listing.path(i) for i in range(len(index))]
    rows, distances = index.search(paths, 6)
    assert rows.shape == distances.shape == (14, 6)
    for row in range(14):
        expected = brute_force(index, row)[:6]
        assert list(zip(distances[row].tolist(), rows[row].tolist(), strict=True)) == expected
        assert (distances[row, 0], row in rows[row][distances[row] == 0]) == (0, True)


def test_real_valued_systems_are_ranked_by_their_own_distance(own: Path) -> None:
    index = made(own, "neural_codes", bits=5)
    assert index.described == f"NeuralCodes, 5 numbers, {HISTOGRAM}"
    rows, distances = index.search([own / "00.png"], 5)
    expected = brute_force(index, index.listing.files.index("00.png"))[:5]
    np.testing.assert_allclose(distances[0], [d for d, _ in expected], atol=1e-3)
    assert rows[0, 0] == expected[0][1]
    np.testing.assert_allclose(distances[0, 0], 0, atol=1e-3)


def test_nested_folders_hidden_files_and_files_that_cannot_be_read(own: Path) -> None:
    draw(own / ".thumbs" / "x.png", 50)
    draw(own / ".x.png", 51)
    (own / "notes.txt").write_text("no image")
    (own / "a" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    whole = draw(own / "cut.png", 52)
    whole.write_bytes(whole.read_bytes()[:-40])
    listing = list_folder(own)
    assert list(listing.files) == sorted(listing.files, key=lambda f: Path(f).parts)
    assert len(listing) == 14
    assert {"00.png", "a/01.png", "a/b [x]/02.png"} <= set(listing.files)
    assert [line.split(": ")[0] for line in listing.skipped] == [
        str(own / "a" / "broken.jpg"),
        str(own / "cut.png"),
    ]
    assert all("not a readable image" in line for line in listing.skipped)


@pytest.mark.parametrize("name", ["itq", "neural_codes"])
def test_what_is_written_is_what_is_read(own: Path, tmp_path: Path, name: str) -> None:
    index = made(own, name, bits=8)
    for place in (own / package.NAME, tmp_path / "elsewhere.idx"):
        index.save(place)
        again = load_index(place)
        assert again.listing.root.resolve() == own
        assert (again.listing.files, again.listing.digests, again.backbone, again.sources.sets) == (
            (index.listing.files, index.listing.digests, index.backbone, index.sources.sets)
        )
        np.testing.assert_array_equal(again.listing.stamps, index.listing.stamps)
        assert again.method.params == index.method.params
        for a, b in zip(again.search([own / "00.png"], 9), index.search([own / "00.png"], 9),
                        strict=True):  # fmt: skip
            np.testing.assert_array_equal(a, b)
        with np.load(place, allow_pickle=False) as content:
            assert all(content[k].dtype != object for k in content.files)
            assert json.loads(content["meta"].tobytes())["made_with"].keys() == {
                *("cbir_lite", "numpy", "torch")
            }
    # An index in its folder moves with it.
    moved = own.rename(tmp_path / "moved")
    found = load_index(moved / package.NAME)
    assert found.gone() == []
    assert found.listing.path(0) == moved / index.listing.files[0]


def test_codes_are_packed(own: Path) -> None:
    index = made(own, bits=70)
    index.save(own / package.NAME)
    with np.load(own / package.NAME) as content:
        assert content["database"].shape == (14, 2)
        assert content["database"].dtype == np.uint64


def test_names_that_are_no_text(own: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    draw(own / odd, 60)
    made(own).save(own / package.NAME)
    assert odd in load_index(own / package.NAME).listing.files


def test_files_that_have_vanished_are_told_and_drawn_grey(own: Path) -> None:
    made(own).save(own / package.NAME)
    index = load_index(own / package.NAME)
    query = own / "00.png"
    rows, distances = index.search([query], 4)
    gone = index.listing.path(int(rows[0, 1]))
    gone.unlink()
    assert index.gone() == [rows[0, 1]]
    np.testing.assert_array_equal(index.search([query], 4)[0], rows)
    figure = package.picture(index, [query], rows, distances)
    shown = figure.axes[0].get_images()
    assert len(shown) == 5
    assert (np.asarray(shown[2].get_array()) == 200).all()
    captions = [t.get_text() for t in figure.axes[0].texts if t.get_gid() == "label"]
    assert captions[1] == "00.png, d=0"


# -- again -----------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of a descriptor is given, as they come."""
    calls: list[int] = []
    original = handcrafted.describe

    def describe(images: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(images))
        return original(images, *args, **options)

    monkeypatch.setattr(handcrafted, "describe", describe)
    return calls


def again(folder: Path, **params: Any) -> Index:
    """`cbir index` once more."""
    place = folder / package.NAME
    earlier = package.earlier_index(place)
    method = registry.create("itq", **{"bits": 16, **params})
    index = build_index(list_folder(folder, earlier), method, HISTOGRAM, earlier)
    index.save(place)
    return index


def test_only_what_is_new_is_extracted(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    again(own)
    assert calls == [14]
    again(own, bits=8)
    assert calls == [14]
    draw(own / "new" / "1.png", 70)
    draw(own / "0000.png", 71)
    (own / "01.png").write_bytes((own / "a" / "01.png").read_bytes())  # a copy
    again(own)
    assert calls == [14, 2]
    (own / "00.png").unlink()
    draw(own / "a" / "01.png", 72)
    grown = again(own)
    assert calls == [14, 2, 1]
    assert [n for _, n in grown.sources.sets] == [14, 2, 1]
    fresh = made(own)
    assert grown.listing.files == fresh.listing.files
    np.testing.assert_array_equal(grown.database.words, fresh.database.words)  # type: ignore[union-attr]


def test_everything_is_extracted_again_if_the_cache_was_emptied(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    again(own)
    shutil.rmtree(tmp_path / "cache")
    draw(own / "z.png", 70)
    again(own)
    assert calls == [14, 15]


def test_files_that_did_not_change_are_not_read_again(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = again(own)
    read: list[str] = []
    original = package.sha256_file

    def hashed(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(package, "sha256_file", hashed)
    draw(own / "z.png", 70)
    os.utime(own / "00.png", (1, 1))
    assert list_folder(own, index).digests == list_folder(own).digests
    assert read[:2] == ["00.png", "z.png"]
    assert len(read) == 2 + 15
    # The stamps of another folder say nothing.
    read.clear()
    list_folder(own / "a", index)
    assert len(read) == len(list_folder(own / "a").files)


def test_backbone_features_are_extracted_once_too(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "choose", lambda *_: "torch")
    backbone = "efficientnet_lite0-32"
    index = made(own, "lsh", backbone)
    draw(own / "z.png", 70)
    grown = build_index(list_folder(own, index), registry.create("lsh", bits=16), backbone, index)
    assert [n for _, n in grown.sources.sets] == [14, 1]
    kinds = [("pooled", True), ("maps", False), ("images", False), ("pooled+hog", False)]
    whole = datasets.unlabelled([own] * 14, "", index.sources.sets[0][0])
    assert [(k, features.is_cached(whole, backbone, k)) for k, _ in kinds] == kinds


def test_sets_of_which_no_image_is_left_are_forgotten(own: Path) -> None:
    first = again(own)
    for path in own.rglob("*.png"):
        draw(path, 200 + int(path.stem))
    second = again(own)
    assert [n for _, n in first.sources.sets] == [n for _, n in second.sources.sets] == [14]
    assert first.sources.sets != second.sources.sets


def test_a_system_that_works_in_place_changes_no_features(own: Path) -> None:
    class Centred(registry.get("lsh")):  # type: ignore[misc]
        def fit(self, split: Any, **loop: Any) -> Any:
            split.x[:] = 0
            return super().fit(split, **loop)

    for _ in range(2):  # a memory map, then rows of several
        earlier = package.earlier_index(own / package.NAME)
        index = build_index(list_folder(own, earlier), Centred(bits=16), HISTOGRAM, earlier)
        paths = [index.listing.path(i) for i in range(len(index))]
        x = features.load(datasets.unlabelled(paths, "all"), HISTOGRAM, progress=False)
        assert (x.max(axis=1) > 0).all()
        expected = package.pack(index.method.encode(x)).words
        np.testing.assert_array_equal(index.database.words, expected)  # type: ignore[union-attr]
        made(own, "lsh").save(own / package.NAME)
        draw(own / "0000.png", 300)


# -- searching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [HISTOGRAM, "efficientnet_lite0-32"])
def test_searches_leave_nothing_in_the_cache(own: Path, tmp_path: Path, backbone: str) -> None:
    index = made(own, "lsh", backbone)
    before = sorted((tmp_path / "cache").rglob("*"))
    for i in range(3):
        query = draw(tmp_path / "queries" / f"{i}.png", 400 + i)
        rows, distances = index.search([query], 5)
        x = np.array(features.load(datasets.unlabelled([query], "q"), backbone, keep=False))
        expected = package.nearest(index.method, x, index.database, 5)
        for found, wanted in zip((rows, distances), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert sorted((tmp_path / "cache").rglob("*")) == before


# -- saved systems ---------------------------------------------------------------------------------


def trained(tmp_path: Path, name: str, **params: Any) -> Method:
    """A system fitted on two classes of other pictures."""
    for i in range(24):
        draw(tmp_path / "taught" / "xy"[i % 2] / f"{i}.png", 100 + i)
    rows = [np.array(r, np.int64) for r in ([0, 12], range(1, 12), [*range(1, 12), *range(13, 24)])]
    protocol = datasets.Protocol("taught", f"folder:{tmp_path / 'taught'}", *rows, 24)
    setting = Setting(protocol, HISTOGRAM)
    method = registry.create(name, **{"bits": 16, **params})
    return method.fit(setting.split(method))


@pytest.mark.parametrize("name", ["dpsh", "adsh", "dpq"])
def test_a_saved_system_is_used_as_it_is(own: Path, tmp_path: Path, name: str) -> None:
    system = trained(tmp_path, name, epochs=1)
    index = build_index(list_folder(own), system, HISTOGRAM, fitted=True)
    index.save(own / package.NAME)
    rows, distances = load_index(own / package.NAME).search([own / "00.png"], 14)
    if name == "dpq":
        expected = brute_force(index, 0)
        np.testing.assert_allclose(distances[0], [d for d, _ in expected], rtol=1e-4)
    else:
        found = list(zip(distances[0].tolist(), rows[0].tolist(), strict=True))
        assert found == brute_force(index, 0)


def test_a_saved_system_of_other_features_is_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"LSH does not read lbp .*512.*28.*--backbone"):
        build_index(list_folder(own), trained(tmp_path, "lsh"), "lbp", fitted=True)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "backbone", "message"),
    [
        ("dpsh", {}, HISTOGRAM, r"DPSH is supervised.*cbir train dpsh --save.*--model"),
        ("ssdh_semi", {}, HISTOGRAM, r"semi-supervised.*cbir train ssdh_semi --save"),
        ("corr_ae", {}, HISTOGRAM, r"pairs of images and text.*--model"),
        ("deepbit", {}, HISTOGRAM, r"views.*cbir train deepbit"),
        ("itq", {"bits": 600}, HISTOGRAM, r"600 bits cannot be fitted on 14.*fewer --bits"),
        ("pseudo_label_kmeans", {}, HISTOGRAM, r"cannot be fitted on 14 images.*add images"),
        ("itq", {}, "bow_patches", r"bow_patches learns its words.*another --backbone"),
        ("itq", {}, "vgg", r"NETWORK-SIZE"),
        ("rmac", {}, HISTOGRAM, r"colour_histogram has no maps"),
    ],
)
def test_what_cannot_be_fitted_on_a_folder(
    own: Path, name: str, params: dict[str, Any], backbone: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(own, name, backbone, **params)


def test_folders_that_hold_too_little(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder"):
        list_folder(tmp_path / "nowhere")
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(ValueError, match=r"bare: no images there"):
        list_folder(bare)
    (bare / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none of 1 images can be read.*x\.png"):
        list_folder(bare)
    draw(bare / "one.png", 1)
    with pytest.raises(ValueError, match=r"ITQ cannot learn from one image"):
        made(bare)
    draw(bare / "two.png", 2)
    assert made(bare).search([bare / "two.png"], 2)[0].tolist() == [[1, 0]]


def test_bad_searches_are_named(own: Path, tmp_path: Path) -> None:
    index = made(own)
    for k in (0, 15):
        with pytest.raises(ValueError, match=rf"k={k}: the index holds 14 images"):
            index.search([own / "00.png"], k)
    with pytest.raises(ValueError, match=r"none\.png: no such file"):
        index.search([tmp_path / "none.png"], 3)
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.png: not a readable image"):
        index.search([own / "00.png", tmp_path / "x.png"], 3)


def rewritten(
    source: Path, target: Path, meta: dict[str, Any] | None = None, **arrays: Any
) -> Path:
    """An index with other contents."""
    with np.load(source) as content:
        found = {k: content[k] for k in content.files}
    text = json.loads(found["meta"].tobytes()) | (meta or {})
    found |= {"meta": np.frombuffer(json.dumps(text).encode(), np.uint8), **arrays}
    with target.open("wb") as stream:
        np.savez(stream, **found)
    return target


def test_what_is_no_index(own: Path, tmp_path: Path) -> None:
    good = own / package.NAME
    made(own).save(good)
    bad = tmp_path / "bad.idx"
    pickled = io.BytesIO()
    np.savez(pickled, meta=np.array([{"format": package.FORMAT}], object))
    for content in (b"", b"text", good.read_bytes()[:900], pickled.getvalue()):
        bad.write_bytes(content)
        with pytest.raises(package.NoIndex, match=r"bad\.idx is no index.*cbir index DIR"):
            load_index(bad)
    with np.load(good) as content:
        words = content["database"]
    for meta, arrays in (
        ({"format": "other"}, {}),
        ({"files": ["../x.png"] * 14}, {}),
        ({"files": ["/etc/x.png"] * 14}, {}),
        ({"files": ["x.png"]}, {}),
        ({"packed": False}, {}),
        ({"backbone": "vgg"}, {}),
        ({}, {"database": words[:5]}),
        ({}, {"database": np.concatenate([words, words], 1)}),
        ({}, {"system": np.zeros(50, np.uint8)}),
        ({}, {"stamps": np.zeros((3, 2), np.int64)}),
    ):
        with pytest.raises(package.NoIndex, match="is no index"):
            load_index(rewritten(good, bad, meta, **arrays))
    with pytest.raises(FileNotFoundError, match=r"none\.idx: no such index.*cbir index DIR"):
        load_index(tmp_path / "none.idx")


def test_an_index_of_another_version_is_refused_and_replaced(own: Path, tmp_path: Path) -> None:
    good = own / package.NAME
    made(own).save(good)
    for meta, message in (
        ({"version": 0}, r"has version 0, this package reads 1"),
        ({"provenance": {"weights": "none", "version": 0}}, r"other features of colour_histogram"),
    ):
        other = rewritten(good, tmp_path / "other.idx", meta)
        with pytest.raises(package.OtherVersion, match=rf"{message}.*run `cbir index.*again"):
            load_index(other)
        assert package.earlier_index(other) is None
        made(own).save(other)
        assert len(load_index(other)) == 14


def test_other_files_are_never_replaced(own: Path, tmp_path: Path) -> None:
    index = made(own)
    photo = own / "00.png"
    before = photo.read_bytes()
    with pytest.raises(package.NoIndex, match=r"00\.png is no index and is not replaced.*--out"):
        index.save(photo)
    assert photo.read_bytes() == before
    with pytest.raises(OSError, match=r"own is a folder.*--out"):
        index.save(own)
    with pytest.raises(OSError, match=r"cannot write .*nowhere.*--out"):
        index.save(tmp_path / "nowhere" / "x.idx")


def test_a_killed_write_leaves_the_old_index(own: Path) -> None:
    made(own, bits=8).save(own / package.NAME)
    before = (own / package.NAME).read_bytes()
    script = f"""
import os, signal
import numpy as np
from cbir_lite.bench import index as package

def half(stream, **arrays):
    stream.write(b"half of it")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

np.savez_compressed = half
package.load_index({str(own / package.NAME)!r}).save({str(own / package.NAME)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (own / package.NAME).read_bytes() == before
    assert len(load_index(own / package.NAME)) == 14
    assert len(list_folder(own)) == 14


def test_a_write_that_fails_leaves_the_old_index_and_nothing_else(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made(own)
    index.save(own / package.NAME)
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"cannot write .*has room with --out"):
        index.save(own / package.NAME)
    assert {p: p.read_bytes() for p in own.rglob("*") if p.is_file()} == before


def test_the_index_that_is_searched(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = own / package.NAME
    made(own).save(place)
    monkeypatch.chdir(tmp_path)
    deep = Path("own/a/b [x]/02.png")
    assert package.find_index(None, deep).resolve() == place
    assert package.find_index(None, deep.resolve()) == place
    assert package.find_index(own, Path("q.png")) == place
    assert package.find_index(tmp_path / "x.idx", deep) == tmp_path / "x.idx"
    with pytest.raises(FileNotFoundError, match=r"no index in the current folder.*q\.png.*--index"):
        package.find_index(None, Path("q.png"))
    monkeypatch.chdir(own)
    assert package.find_index(None, tmp_path / "q.png") == Path(package.NAME)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder where root cannot write either")
def test_a_place_where_nobody_can_write_is_told() -> None:
    with pytest.raises(OSError, match=r"/proc/x\.idx"):
        package.check_place(Path("/proc/x.idx"))
