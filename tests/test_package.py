"""What importing does (nothing), and what the tracked files must not hold."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cbir_lite

ROOT = Path(cbir_lite.__file__).parent
TREE = ROOT.parent

WATCH = """
import json, random, sys, warnings
sockets = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and sockets.append(event))
{first}
before = set(sys.modules), list(warnings.filters), state()
{then}
print(json.dumps({{
    "modules": sorted(set(sys.modules) - before[0]),
    "sockets": sockets,
    "filters": before[1] == list(warnings.filters),
    "random": before[2] == state(),
}}))
"""


def watch(first: str, then: str) -> dict[str, Any]:
    """What the statements ``then`` change in a fresh process in which ``first`` has run."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH.format(first=first, then=then)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_import_does_nothing() -> None:
    seen = watch("state = random.getstate", "import cbir_lite")
    assert seen["modules"] == ["cbir_lite"]
    assert (seen["sockets"], seen["filters"], seen["random"]) == ([], True, True)


def test_the_survey_needs_no_torch() -> None:
    then = "from cbir_lite import survey, plots; survey.methods(); survey.table(2)"
    seen = watch("state = random.getstate", then)
    assert "cbir_lite.survey" in seen["modules"]
    assert {"torch", "torchvision", "cbir_lite.methods"}.isdisjoint(seen["modules"])
    assert seen["sockets"] == []


def test_no_module_seeds_filters_warnings_or_opens_a_connection() -> None:
    first = """
import numpy, pandas, scipy.stats, sklearn, numba, torch, torchvision, seaborn, tqdm.auto, typer
import matplotlib.pyplot, PIL.Image, multiprocessing.connection, importlib, pkgutil, rich.table
def state():
    words = numpy.random.get_state()
    return random.getstate(), words[1].tolist(), words[2], torch.get_rng_state().tolist()
"""
    then = """
import cbir_lite
for info in pkgutil.walk_packages(cbir_lite.__path__, "cbir_lite."):
    importlib.import_module(info.name)
"""
    seen = watch(first, then)
    assert {"cbir_lite.cli", "cbir_lite.bench.grid", "cbir_lite.methods.cnn.dpsh"} <= set(
        seen["modules"]
    )
    assert (seen["sockets"], seen["filters"], seen["random"]) == ([], True, True)


def test_public_modules_say_what_they_are_for() -> None:
    files = [p for p in ROOT.rglob("*.py") if p.name == "__init__.py" or p.name[0] != "_"]
    assert len(files) > 50
    bare = [
        str(p.relative_to(TREE)) for p in files if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert bare == []


def source_files() -> list[Path]:
    """The tracked files; outside a git tree, those that belong to the source."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return [TREE / name for name in done.stdout.split("\0") if name]
    folders = [TREE / name for name in ("cbir_lite", "tests", "book", "notebooks", ".ci")]
    return [
        *(p for folder in folders for p in folder.rglob("*") if "__pycache__" not in p.parts),
        *(p for p in TREE.iterdir() if p.suffix in (".toml", ".md", ".yml", ".cff")),
    ]


# In parts, so that this file does not hold what it forbids.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs")
PLACES = ("work", "root", "home", "Users", "tmp/w")
FORBIDDEN = {
    "a registry's host": re.compile("|".join(map(re.escape, HOSTS))),
    "a path of one machine": re.compile(r"(?<![\w.~/})-])/(?:" + "|".join(PLACES) + r")/[\w.-]"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = []
    files = [p for p in source_files() if p.is_file()]
    assert TREE / "pyproject.toml" in files
    for path in files:
        text = path.read_bytes().decode("utf-8", "ignore")
        found += [f"{path.relative_to(TREE)}: {m[0]}" for m in FORBIDDEN[what].finditer(text)]
    assert found == []


def test_the_forbidden_patterns_find_what_they_are_for() -> None:
    host, place = FORBIDDEN.values()
    assert host.search("https://" + HOSTS[0] + "/simple")
    assert place.search("open('/" + "work/main/x')")
    assert place.search("see /" + "home/ann/x")
    assert not place.search("https://example.org/" + "home/page")
    assert not place.search("book/" + "work/x")
