import shutil
from pathlib import Path

import pytest

import cbir_lite.survey as survey


@pytest.fixture
def data(tmp_path):
    """A private copy of the data folder that a test may break."""
    root = tmp_path / "data"
    shutil.copytree(Path(survey.__file__).with_name("data"), root)
    return root


@pytest.fixture
def edit(data):
    """Replace text in one file of the copy; the text must stand there exactly `count` times."""

    def replace(name, old, new, count=1):
        path = data / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == count, f"{old!r} stands {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return data

    return replace
