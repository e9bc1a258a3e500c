from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cbir_lite.datasets import list_images, load, read_image


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name, colour, size in (
        ("dog/b.png", (0, 0, 255), (5, 4)),
        ("dog/a.JPG", (0, 255, 0), (8, 8)),
        ("cat/deep/c.png", (255, 0, 0), (3, 2)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(folder / name)
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "._c.png").write_text("no image either")
    return folder


def write_csv(folder, *rows):
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def test_subfolders_are_classes(pictures):
    loaded = load(f"folder:{pictures}")
    assert loaded.class_names == ("cat", "dog")
    assert [p.name for p in loaded.images] == ["c.png", "a.JPG", "b.png"]
    assert loaded.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert loaded.class_ids().tolist() == [0, 1, 1]
    assert loaded.read(0).shape == (2, 3, 3)
    assert (loaded.read(2) == (0, 0, 255)).all()


def test_a_table_makes_a_multi_label_set(pictures):
    write_csv(
        pictures, "file,labels", "dog/b.png,pet|blue", "cat/deep/c.png, pet ", "dog/a.JPG,", ""
    )
    loaded = load(f"folder:{pictures}")
    assert loaded.class_names == ("blue", "pet")
    assert loaded.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert (loaded.read(0) == (0, 0, 255)).all()


def test_the_content_hash_follows_the_files(pictures):
    first = load(f"folder:{pictures}").images_hash
    assert load(f"folder:{pictures}").images_hash == first
    (pictures / "dog").rename(pictures / "hound")
    assert load(f"folder:{pictures}").images_hash == first
    Image.new("RGB", (5, 4), (1, 0, 255)).save(pictures / "hound" / "b.png")
    assert load(f"folder:{pictures}").images_hash != first


def test_images_are_read_upright_and_in_rgb(tmp_path):
    grey = Image.fromarray(np.array([[0, 50, 100]], np.uint8))
    grey.save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[0] * 3, [50] * 3, [100] * 3]]
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise to see it upright
    Image.new("RGB", (4, 2)).save(tmp_path / "lying.jpg", exif=exif)
    assert read_image(tmp_path / "lying.jpg").shape == (4, 2, 3)
    Image.new("RGB", (400, 160)).save(tmp_path / "large.jpg", exif=exif)
    assert read_image(tmp_path / "large.jpg", at_least=50).shape == (200, 80, 3)
    assert read_image(tmp_path / "large.jpg", at_least=300).shape == (400, 160, 3)
    assert read_image(tmp_path / "grey.png", at_least=1).shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["dog/z.png,pet"], r"row 1: .*dog/z.png does not exist"),
        (
            ["file,labels", "dog/b.png,pet", "dog/b.png,blue"],
            r"row 3: dog/b.png is already in row 2",
        ),
        (["dog/b.png,pet,blue"], r"row 1: expected 'file,label1\|label2'"),
        (["dog/b.png,"], r"names no labelled image"),
        (["file,labels"], r"names no labelled image"),
    ],
)
def test_a_faulty_table_is_named_with_its_row(pictures, rows, message):
    write_csv(pictures, *rows)
    with pytest.raises(ValueError, match=rf"labels.csv.*{message}"):
        load(f"folder:{pictures}")


def test_an_empty_or_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder.*one subfolder per class"):
        load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty holds no images in subfolders.*labels.csv"):
        load(f"folder:{tmp_path / 'empty'}")


def test_an_unreadable_image_is_named(pictures):
    whole = pictures / "dog" / "b.png"
    Image.effect_noise((64, 64), 80).save(whole)
    whole.write_bytes(whole.read_bytes()[:-1500])
    loaded = load(f"folder:{pictures}")
    with pytest.raises(ValueError, match=r"dog/b.png: not a readable image"):
        loaded.read(2)
    whole.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"dog/b.png: not a readable image"):
        load(f"folder:{pictures}")


def test_images_of_a_tree_are_listed_by_suffix(pictures):
    (pictures / "dog" / ".thumbs").mkdir()
    Image.new("RGB", (2, 2)).save(pictures / "dog" / ".thumbs" / "b.png")
    Image.new("RGB", (2, 2)).save(pictures / "dog" / ".b.png")
    names = [p.name for p in list_images(pictures)]
    assert names == ["c.png", "a.JPG", "b.png"]
    # Hidden is what is hidden below the folder.
    hidden = pictures.rename(pictures.with_name(".hidden"))
    assert [p.name for p in list_images(hidden)] == names
    hidden.rename(pictures)
    with pytest.raises(ValueError, match="no such folder"):
        list_images(pictures / "nowhere")


def test_sixteen_bits_and_transparent_images_keep_what_they_show(tmp_path):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(1, 256)
    Image.fromarray(ramp).save(tmp_path / "xray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "xray.png")[0, :, 0], np.arange(256))
    logo = np.zeros((2, 2, 4), np.uint8)
    logo[0, 0, 3] = 255
    Image.fromarray(logo).save(tmp_path / "logo.png")
    assert read_image(tmp_path / "logo.png")[..., 0].tolist() == [[0, 255], [255, 255]]
