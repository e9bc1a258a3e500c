"""The wheel holds everything: built from a copy, installed elsewhere, used in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import cbir_lite
from cbir_lite import datasets
from cbir_lite.bench import suite_names
from cbir_lite.methods import registry

pytestmark = pytest.mark.wheel

SOURCE = Path(cbir_lite.__file__).parent
READ_ALL = """
import json
import cbir_lite
from cbir_lite import datasets, survey
from cbir_lite.bench import load_suite, suite_names
survey.check()
print(json.dumps({
    "file": cbir_lite.__file__,
    "tables": [len(survey.table(n)) for n in (1, 2, 3, 4)],
    "protocols": [datasets.protocol(n).name for n in datasets.protocol_names()],
    "suites": {n: len(load_suite(n)) for n in suite_names()},
}))
"""


def call(*words: str | Path, cwd: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy, so that a build folder left in the tree cannot slip into the wheel.
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(SOURCE, copy / "cbir_lite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE.parent / name, copy)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripts of an environment that has the wheel."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    call(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=home)
    names = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", names))
    # The dependencies are those of this environment. Hooks that stand in the added folder, such as
    # the one of an editable install, do not run, and the wheel comes first on the path.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        licences = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    expected = {
        p.relative_to(SOURCE.parent).as_posix()
        for p in SOURCE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert names == expected
    assert f"Version: {cbir_lite.__version__}\n" in text
    assert len(licences) == 1


def test_every_data_file_is_read_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    seen = json.loads(
        call(installed / "python", "-c", READ_ALL, cwd=tmp_path, CBIR_LITE_CACHE=str(tmp_path))
    )
    assert Path(seen["file"]).is_relative_to(installed.parent)
    assert all(seen["tables"])
    assert seen["protocols"] == datasets.protocol_names()
    assert sorted(seen["suites"]) == suite_names()
    assert all(seen["suites"].values())


def test_the_commands_work_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    work = tmp_path / "empty"
    work.mkdir()
    listed = call(installed / "cbir", "methods", "--json", cwd=work, CBIR_LITE_CACHE=cache)
    assert [c["id"] for c in json.loads(listed)] == list(registry.classes())
    words = ("train", "lsh", "--protocol", "digits", "--backbone", "pixels", "--bits", "16")
    trained = call(installed / "cbir", *words, cwd=work, CBIR_LITE_CACHE=cache)
    found = re.search(r"mAP (0\.\d+)", trained)
    assert found is not None
    assert 0.15 < float(found[1]) < 1
    assert list(work.iterdir()) == []
