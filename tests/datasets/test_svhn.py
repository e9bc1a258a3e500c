"""SVHN from tiny MATLAB files in the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from cbir_lite.bench import Setting
from cbir_lite.datasets import DataCorrupt, DataUnavailable, Protocol, load
from cbir_lite.datasets.imageset import array_hash
from cbir_lite.methods.registry import create

SIZES = {"train": 30, "test": 12}


def write(file: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """As the publisher does: the number of the image last, labels as a column, compressed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]}, do_compression=True)


@pytest.fixture
def halves() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    rng = np.random.default_rng(0)
    return {
        half: (
            rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
            (1 + np.arange(n, dtype=np.uint8) % 10),
        )
        for half, n in SIZES.items()
    }


@pytest.fixture
def svhn(cache: Path, halves: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Path:
    for half, parts in halves.items():
        write(cache / "svhn" / f"{half}_32x32.mat", *parts)
    return cache / "svhn"


def test_training_then_test_images_and_ten_means_zero(svhn: Path, halves) -> None:
    loaded = load("svhn")
    (x, y), (x_test, y_test) = halves["train"], halves["test"]
    assert np.array_equal(loaded.images, np.concatenate([x, x_test]))
    published = np.concatenate([y, y_test])
    assert loaded.class_ids().tolist() == [0 if v == 10 else v for v in published.tolist()]
    assert loaded.class_names == tuple("0123456789")
    assert loaded.labels.dtype == np.uint8
    assert np.array_equal(loaded.read(30), x_test[0])
    assert loaded.images_hash == array_hash(np.concatenate([x, x_test]))
    assert not loaded.images.flags.writeable  # type: ignore[union-attr]
    assert "non-commercial" in loaded.licence
    assert "Netzer" in loaded.source


def test_a_folder_of_the_readers_own(svhn: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    svhn.rename(mine)
    assert len(load("svhn", root=mine)) == 42
    with pytest.raises(DataUnavailable):
        load("svhn")


def test_what_torchvision_reads_is_the_same(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    # Its hashes are those of the published files.
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    loaded = load("svhn")
    for half, rows in (("train", slice(0, 30)), ("test", slice(30, 42))):
        theirs = SVHN(str(svhn), split=half)
        assert np.array_equal(loaded.images[rows], theirs.data.transpose(0, 2, 3, 1))
        assert loaded.class_ids()[rows].tolist() == theirs.labels.tolist()


def test_it_serves_a_setting(svhn: Path) -> None:
    images = load("svhn")
    rows = np.arange(42)
    setting = Setting(
        Protocol("svhn-tiny", "svhn", rows[30:], rows[:30], rows[:30], 42), "pixels", images
    )
    lsh = create("lsh", bits=8)
    assert 0 < setting.evaluate(lsh.fit(setting.split(lsh))).mean_ap() < 1


@pytest.mark.parametrize("half", SIZES)
def test_what_is_missing_is_named_with_size_licence_source_and_place(svhn: Path, half: str) -> None:
    (svhn / f"{half}_32x32.mat").unlink()
    with pytest.raises(DataUnavailable) as caught:
        load("svhn")
    for part in (
        f"{svhn / half}_32x32.mat does not exist",
        "put train_32x32.mat and test_32x32.mat",
        f"into {svhn}",
        "root=FOLDER",
        "0.25 GB",
        "non-commercial",
        "http://ufldl.stanford.edu/housenumbers",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("damage", ["half", "flip", "page", "empty"])
def test_a_damaged_file_is_named_with_the_remedy(svhn: Path, damage: str) -> None:
    file = svhn / "test_32x32.mat"
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 0xFF
    texts = {"half": bytes(raw[: len(raw) // 2]), "flip": bytes(raw), "empty": b""}
    file.write_bytes(texts.get(damage, b"<html>403 Forbidden</html>" * 20))
    with pytest.raises(DataCorrupt, match=r"test_32x32\.mat is truncated.*Replace it by an intact"):
        load("svhn")


def test_other_contents_are_named(svhn: Path, halves) -> None:
    file = svhn / "train_32x32.mat"
    x, y = halves["train"]
    for images, labels, said in (
        (x, y[:-1], r"expected X uint8 \(32, 32, 3, 29\), found uint8 \(32, 32, 3, 30\)"),
        (x[:, :28], y, r"found uint8 \(28, 32, 3, 30\)"),
        (x.astype(np.float32), y, "found float32"),
        (x, y - 1, "expected labels 1 to 10, found 0 to 9"),
        (x, y + 1, "found 2 to 11"),
    ):
        write(file, images, labels)
        with pytest.raises(DataCorrupt, match=rf"train_32x32\.mat is truncated.*{said}"):
            load("svhn")
    savemat(file, {"X": x})
    with pytest.raises(DataCorrupt, match=r"train_32x32\.mat.*'y'"):
        load("svhn")


def test_there_are_no_parts_of_it(svhn: Path) -> None:
    with pytest.raises(ValueError, match="unknown part 'extra' of svhn"):
        load("svhn:extra")
