"""The command line: what it prints and writes is what the library says, and errors are one line."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cbir_lite import datasets, features, survey
from cbir_lite.bench import Setting, read_records, write_records
from cbir_lite.bench import grid as grid_module
from cbir_lite.bench.run import code_hash
from cbir_lite.cli import app
from cbir_lite.features import handcrafted
from cbir_lite.methods import base, registry

COMMANDS = (
    *("methods", "fetch", "features", "train", "bench", "table", "timeline", "show"),
    *("index", "search"),
)
TINY = ("--protocol", "digits", "--backbone", "pixels", "--bits", "16")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBIR_LITE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cbir(*words: str, code: int = 0) -> str:
    """What a command prints, without progress bars and notes."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def fails(*words: str) -> str:
    """The one line a wrong command prints."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.output.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cbir_lite.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


# -- help ----------------------------------------------------------------------------------------


def example(command: str) -> str:
    found = re.findall(r"Example: (cbir .*)", cbir(command, "--help"))
    assert len(found) == 1, command
    return found[0].strip()


def photos() -> Path:
    """Six pictures: in a folder of its own each of ``cat`` and ``dog``, and four deeper."""
    rng = np.random.default_rng(0)
    for name in ("cat.png", "dog.png", *(f"old/far/{i}.png" for i in range(4))):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        small.resize((40, 30), Image.Resampling.NEAREST).save(path)
    return Path("photos")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_every_help_text_works(command: str) -> None:
    if command in ("index", "search"):
        photos()
    if command == "search":
        cbir("index", "photos", "--backbone", "colour_histogram")
    words = shlex.split(example(command))
    assert words[:2] == ["cbir", command]
    assert cbir(*words[1:]).strip()


def test_help_lists_every_command_in_less_than_a_second_without_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = run("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert set(COMMANDS) <= set(shown.split())
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0
    script = "import cbir_lite.cli, sys; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "pandas", "matplotlib", "scipy", "numba"}
    assert heavy.isdisjoint(loaded.stdout.split())


# -- what each command gives ---------------------------------------------------------------------


def test_methods_as_json_and_as_a_table() -> None:
    cards = json.loads(cbir("methods", "--json"))
    assert [c["id"] for c in cards] == list(registry.classes())
    wanted = {
        *("id", "name", "year", "citations", "folder", "tier", "fidelity"),
        *("supervision", "network", "descriptor", "retrieval"),
    }
    for card in cards:
        assert wanted <= set(card)
        if card["tier"] != "baseline":
            row = survey.method(card["id"])
            assert (card["name"], card["year"]) == (row.name, row.year)
            assert card["citations"] == list(row.citations)
    known = [n for c in cards for n in (c["id"], *(f"{c['id']}/{v}" for v in c["variants"]))]
    assert known == registry.names()
    text = cbir("methods")
    assert re.findall(r"\w+/\w+", text.partition("Variants: ")[2]) == [n for n in known if "/" in n]
    for card in cards:
        assert re.search(rf"\b{card['id']}\s+{card['year']}\b", text)
    one = cbir("methods", "--folder", "triplet")
    assert "dtsh" in one
    assert "dpsh" not in one
    assert one.endswith("\nVariants: drsch/bit_scalable\n")
    assert "Variants" not in cbir("methods", "--folder", "recurrent")


def test_fetch_counts_images_and_names_the_licence(tmp_path: Path) -> None:
    assert cbir("fetch", "digits") == "digits: 1797 images, 10 classes, licence: CC BY 4.0\n"
    for name in ("cat", "dog"):
        (tmp_path / "own[1]" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "own[1]" / name / "1.png")
    assert "own[1]: 2 images, 2 classes" in cbir("fetch", f"folder:{tmp_path / 'own[1]'}")


def test_features_are_extracted_once_into_the_cache(cache: Path) -> None:
    words = ("features", "digits", "--backbone", "efficientnet_lite0-32")
    assert cbir(*words).endswith("32 x 32 pixels, f32, ImageNet weights: float32 (1797, 1280)\n")
    (file,) = (cache / "features").glob("efficientnet_lite0-32-pooled-*.npy")
    written = file.stat().st_mtime_ns
    cbir(*words)
    assert file.stat().st_mtime_ns == written
    x = features.load(datasets.load("digits"), "efficientnet_lite0-32", progress=False)
    assert x.shape == (1797, 1280)
    assert "has no maps" in fails("features", "digits", "--backbone", "hog", "--maps")


def test_train_prints_the_measure_and_saves_the_system(tmp_path: Path) -> None:
    text = cbir("train", "itq", *TINY, "--seed", "3", "--save", "new/itq.pt")
    setting = Setting("digits", "pixels")
    itq = registry.create("itq", bits=16, seed=3)
    evaluation = setting.evaluate(itq.fit(setting.split(itq)))
    low, high = evaluation.interval()
    assert f"mAP {evaluation.mean_ap():.4f} (between {low:.4f} and {high:.4f}" in text
    saved = cbir("show", "5", "--model", "new/itq.pt", *TINY, "--k", "4", "--out", "a.png")
    trained = cbir("show", "5", "--method", "itq", *TINY, "-k", "4", "--out", "b.png")
    assert re.match(r"query 5: \d: top 4 of \d+ by ITQ, [0-4] of 4 relevant\n", saved)
    assert "written to b.png" in trained
    assert Image.open("a.png").size == Image.open("b.png").size


def test_show_takes_the_features_that_the_system_was_trained_on() -> None:
    cbir("train", "itq", *TINY, "--save", "own.pt")
    plain = ("show", "3", "--protocol", "digits", "--k", "4")
    trained = cbir(*plain, "--method", "itq", "--backbone", "pixels", "--bits", "16")
    assert cbir(*plain, "--model", "own.pt") == trained
    line = fails(*plain, "--model", "own.pt", "--backbone", "hog")
    assert "own.pt was trained on pixels: leave out --backbone" in line


def test_a_code_of_one_bit_is_measured() -> None:
    assert "lsh, 1 bits, digits" in cbir("train", "lsh", *TINY[:4], "--bits", "1")


def test_show_reads_an_image_file_of_any_size() -> None:
    digit = datasets.load("digits").read(7)[..., 0]
    Image.fromarray(digit).resize((40, 30)).convert("RGB").save("seven.png")
    text = cbir("show", "seven.png", "--method", "lsh", *TINY, "--k", "3", "--out", "s.svg")
    setting = Setting("digits", "pixels")
    assert text.startswith(f"seven.png: top 3 of {len(setting.frozen.database)} by LSH\n")
    assert "<image" in Path("s.svg").read_text()


def test_bench_measures_what_is_missing(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.yaml"
    line = "{{methods: [{}], protocols: [digits], backbone: pixels, bits: [8], seeds: [0]}}"
    suite.write_text("grids:\n - " + line.format("lsh, itq"))
    words = ("bench", "--suite", str(suite), "--output", "out", "--workers", "1")
    assert "on first use this may fetch and prepare it" in " ".join(
        re.sub(r"[^\w.:]", " ", cbir("bench", "--help")).split()
    )
    assert "0 of 2 runs are there" in cbir(*words, "--dry-run")
    assert not Path("out").exists()
    cbir(*words, "--methods", "lsh")
    assert list(read_records("out")["method"]) == ["lsh"]
    cbir(*words)
    assert "2 of 2 runs" in cbir(*words)
    assert sorted(read_records("out")["method"]) == ["itq", "lsh"]
    assert "no system no_such; it has itq, lsh" in fails(*words, "--methods", "lsh,no_such")


def test_bench_tells_which_runs_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "run_suite", lambda *_, **__: ["lsh 8 bits: it broke"])
    result = CliRunner().invoke(app, ["bench"])
    assert (result.exit_code, result.stderr) == (1, "failed: lsh 8 bits: it broke\n")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(grid_module, "run_suite", stop)
    assert "the same command goes on" in cbir("bench", code=130)


def record(seed: int, value: float, **more: Any) -> dict[str, Any]:
    base = {
        "method": "dpsh",
        "fidelity": "simplified",
        "supervision": "supervised",
        "descriptor": "binary",
        "learns_database": False,
        "dataset": "cifar10",
        "protocol": "cifar10-59k",
        "protocol_hash": "12",
        "backbone": "efficientnet_lite0-224",
        "weights_hash": "ab",
        "bits": 24,
        "seed": seed,
        "params": "{}",
        "code_hash": code_hash("dpsh"),
        "map_5000": value,
        "version": "0.1.0",
        "commit": "123456789012",
    }
    return base | more


def test_table_shows_reported_beside_measured(tmp_path: Path) -> None:
    rows = [record(0, 0.70), record(1, 0.80), record(2, 0.75)]
    rows += [record(3, 0.10, code_hash="old", bits=32), record(4, 0.20, params='{"lr": 1}')]
    rows += [record(5, 0.30, backbone="pixels"), record(0, 0.9, method="gone", code_hash="1")]
    write_records(tmp_path / "r" / "cifar10.csv", rows)
    result = CliRunner().invoke(app, ["table", "2", "--results", "r", "--csv", "new/t.csv"])
    text = result.stdout
    assert "2 records of earlier code are left out" in result.stderr
    printed = survey.table(2)
    cell = printed[
        (printed["method_id"] == "dpsh")
        & (printed["dataset"] == "CIFAR-10")
        & (printed["bits"] == 24)
        & printed["value"].notna()
    ].iloc[0]
    ratio = 75 / cell["value"]
    line = rf"\b24 +{cell['value']:.2f} +75\.0 ± 5\.0 +{ratio:.2f} +simplified"
    assert re.search(line, text), text
    assert text.index("CIFAR-10: mAP") != text.index("MS COCO: mAP")
    assert "needs the data" in text
    assert max(map(len, text.splitlines())) <= 160
    frame = pd.read_csv("new/t.csv")
    assert frame["reported"].notna().sum() == printed["value"].notna().sum()
    assert frame["measured"].notna().sum() == 1


def test_table_without_records_shows_the_printed_values(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["table", "iii", "--results", "none"])
    assert "nothing is measured" in result.stderr
    text = result.stdout
    assert text.count("Table III, mAP@1000") == 3
    values = survey.table(3)["value"].dropna()
    assert len(re.findall(r" \d+\.\d\d ", text)) == len(values)
    first = cbir("table", "1", "--csv", "one.csv")
    for name in survey.table(1)["dataset"]:
        assert name in first
    assert len(pd.read_csv("one.csv")) == len(survey.table(1))


@pytest.mark.parametrize("figure", ["3", "5", "8", "2"])
def test_timeline_writes_the_figure(figure: str) -> None:
    out = f"figure{figure}.png"
    assert cbir("timeline", figure, "--out", out) == f"Fig. {figure} written to {out}\n"
    assert np.asarray(Image.open(out).convert("L")).std() > 5


HISTOGRAM = ("--backbone", "colour_histogram", "--bits", "16")


def test_index_then_search_finds_the_image_itself() -> None:
    photos()
    (Path("photos") / "bad[1].jpg").write_text("no image")
    result = CliRunner().invoke(app, ["index", "photos", *HISTOGRAM])
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "6 images of photos, 1 skipped that cannot be read: ITQ, 16 bits, colour_histogram\n"
        f"written to {Path('photos') / '.cbir-index'}\n"
    )
    assert re.search(r"skipped: photos/bad\[1\]\.jpg: not a readable image", result.stderr)
    words = ("search", "photos/cat.png", "photos/old/far/2.png")
    text = cbir(*words, "--out", "found.png")
    assert text.count(": top 6 of 6 in photos by ITQ, 16 bits, colour_histogram\n") == 2
    assert re.search(r"^ +1 +0 +photos/cat\.png *$", text, re.MULTILINE)
    assert re.search(r"^ +1 +0 +photos/old/far/2\.png *$", text, re.MULTILINE)
    assert text.endswith("written to found.png\n")
    assert np.asarray(Image.open("found.png").convert("L")).std() > 5
    queries = json.loads(cbir(*words, "--json", "-k", "2", "--index", "photos"))
    assert [q["query"] for q in queries] == list(words[1:])
    for query in queries:
        assert [r["rank"] for r in query["results"]] == [1, 2]
        first = {"rank": 1, "distance": 0, "path": query["query"], "gone": False}
        assert query["results"][0] == first
    # Nothing else is written to where the JSON goes.
    json.loads(cbir(*words, "--json", "--out", "again.png"))


def test_search_tells_which_images_are_gone() -> None:
    photos()
    cbir("index", "photos", *HISTOGRAM, "--out", "my.idx")
    Path("photos/cat.png").rename("cat.png")
    result = CliRunner().invoke(app, ["search", "cat.png", "--index", "my.idx", "-k", "1"])
    assert result.exit_code == 0
    assert re.search(r"1 +0 +\S*photos/cat\.png \(gone\)", result.stdout)
    assert "1 of 6 images are gone since they were indexed: run `cbir index " in result.stderr
    (found,) = json.loads(cbir("search", "cat.png", "--index", "my.idx", "--json"))
    assert [r["gone"] for r in found["results"]] == [True] + [False] * 5


def test_index_with_a_saved_system() -> None:
    photos()
    words = ("train", "class_codes", "--protocol", "digits", "--backbone", "efficientnet_lite0-32")
    cbir(*words, "--bits", "16", "--save", "codes.pt")
    text = cbir("index", "photos", "--model", "codes.pt")
    assert "6 images of photos: ClassCodes, 16 bits, efficientnet_lite0-32\n" in text
    text = cbir("search", "photos/dog.png", "-k", "3")
    assert re.search(r"^ +\d +0 +photos/dog\.png *$", text, re.MULTILINE)
    line = fails("index", "photos", "--model", "codes.pt", *HISTOGRAM)
    assert "codes.pt was trained on efficientnet_lite0-32: leave out --backbone" in line
    # A system that was saved without the name of its features.
    base.load("codes.pt").save("old.pt")
    assert base.backbone_of("old.pt") is None
    line = fails("index", "photos", "--model", "old.pt", *HISTOGRAM)
    assert "ClassCodes does not read colour_histogram" in line
    assert "codes.pt" in fails("index", "photos", "--model", "none/codes.pt")


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("train", "dpsch", *TINY), ("dpsch", "dpsh", "cbir methods")),
        (("train", "dpsh/none", *TINY), ("DPSH", "none")),
        (("train", "itq", "--protocol", "cifar11"), ("cifar11", "cifar10-59k")),
        (("train", "itq", "--protocol", "digits", "--backbone", "vgg"), ("vgg", "NETWORK-SIZE")),
        (("train", "itq", "--protocol", "digits", "--bits", "0"), ("bits=0", "1..4096")),
        (("train", "itq", *TINY[:4], "--bits", "99"), ("99", "64")),
        (("train", "itq", *TINY, "--seed", "-1"), ("seed=-1", "0..4294967295")),
        (("index", ".", "--seed", "4294967296"), ("seed=4294967296", "0..4294967295")),
        (("train", "itq", *TINY, "--save", "."), ("cannot write .", "folder that is writable")),
        (("train", "itq", *TINY, "--save", os.devnull + "/m.pt"), ("cannot write", "/m.pt")),
        (("features", "cifar10", "--backbone", "vgg-1"), ("vgg-1", "NETWORK-SIZE")),
        (("features", "digits", "--runtime", "tpu"), ("tpu", "openvino")),
        (("fetch", "imagenet21k"), ("imagenet21k", "cifar10")),
        (("fetch", "folder:nowhere"), ("nowhere", "no such folder")),
        (("bench", "--suite", "surve"), ("surve", "survey")),
        (("bench", "--suite", "spin.yaml"), ("spin.yaml",)),
        (("bench", "--output", os.devnull), ("cannot write /dev/null", "File exists")),
        (("methods", "--folder", "rnn"), ("rnn", "recurrent")),
        (("table", "7"), ("7", "1 to 4")),
        (("table", "five"), ("FIVE", "1 to 4")),
        (("timeline", "4"), ("4", "3, 5, 8")),
        (("timeline", "3", "--out", "f.xyz"), ("xyz", "png")),
        (("show", "900", *TINY), ("900", "0..", "digits")),
        (("show", "cat.jpg", *TINY), ("cat.jpg", "no image file")),
        (("show", "0", *TINY, "--out", "a.xyz"), ("cannot write a.xyz", "png")),
        (("show", "0", *TINY, "--k", "0"), ("k must", "0")),
        (("show", "0", *TINY, "--k", "60"), ("60", "show fewer")),
        (("show", "0", *TINY, "--model", "none.pt"), ("none.pt",)),
        (("index", "nowhere"), ("nowhere", "no such folder")),
        (("index", ".", "--method", "dpsh"), ("DPSH is supervised", "cbir train dpsh", "--model")),
        (("index", ".", "--method", "dpsch"), ("dpsch", "dpsh", "cbir methods")),
        (("index", ".", "--backbone", "vgg"), ("vgg", "NETWORK-SIZE")),
        (("index", ".", "--backbone", "bow_patches"), ("bow_patches", "--backbone")),
        (("index", "."), ("no images there",)),
        (("index", ".", "--out", "no/x.idx"), ("cannot write", "no/x.idx", "--out")),
        (("search", "cat.jpg"), ("no index", "cbir index DIR", "--index")),
        (("search", "cat.jpg", "--index", "x.idx"), ("x.idx: no such index", "cbir index DIR")),
    ],
)
def test_errors_name_the_value_and_the_remedy(words: tuple[str, ...], parts: list[str]) -> None:
    line = fails(*words)
    for part in parts:
        assert part in line


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder where root cannot write either")
def test_places_that_cannot_be_written_are_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(grid_module, "run_grid", work)
    monkeypatch.setattr("cbir_lite.bench.open_setting", work)
    monkeypatch.setattr("cbir_lite.bench.records.read_records", work)
    suite = Path("tiny.yaml")
    suite.write_text(
        "grids: [{methods: [lsh], protocols: [digits], backbone: pixels, bits: [8], seeds: [0]}]"
    )
    for words, path in (
        (("bench", "--suite", str(suite), "--output"), "/proc"),
        (("train", "itq", *TINY, "--save"), "/proc/x.pt"),
        (("table", "2", "--csv"), "/proc/x.csv"),
        (("table", "2", "--csv"), "."),
    ):
        line = fails(*words, path)
        assert f"cannot write {path}: " in line
        assert "folder that is writable" in line
        assert "CBIR_LITE_CACHE" not in line


def test_a_file_that_is_no_image_and_one_that_is_no_system() -> None:
    Path("broken.png").write_text("not an image")
    assert "broken.png: not a readable image" in fails("show", "broken.png", *TINY)
    result = CliRunner().invoke(app, ["show", "0", *TINY, "--model", "broken.png"])
    assert result.exit_code == 2
    assert result.output.startswith("error: broken.png is not a system saved by this package")


def test_searches_that_cannot_be_made() -> None:
    photos()
    cbir("index", "photos", *HISTOGRAM)
    Path("broken.png").write_text("not an image")
    words = ("--index", "photos")
    assert "broken.png: not a readable image" in fails("search", "broken.png", *words)
    assert "none.png: no such file" in fails("search", "none.png", *words)
    assert "the index holds 6 images" in fails("search", "photos/cat.png", *words, "-k", "7")
    assert "broken.png is no index" in fails("search", "photos/cat.png", "--index", "broken.png")
    assert "is not replaced" in fails("index", "photos", *HISTOGRAM, "--out", "photos/cat.png")
    Path("one").mkdir()
    Path("photos/cat.png").rename("one/cat.png")
    assert "ITQ cannot learn from one image" in fails("index", "one", *HISTOGRAM)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(handcrafted, "import_module", missing)
    line = fails("features", "digits", "--backbone", "lbp")
    assert "pip install 'cbir-lite[handcrafted]'" in line


def test_defects_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "cards", lambda: None)
    result = CliRunner().invoke(app, ["methods"])
    assert isinstance(result.exception, AttributeError)


def test_the_process_exits_with_2_and_no_traceback() -> None:
    done = run("table", "7")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert run("tabel").returncode == 2


def test_without_a_network_the_error_says_what_was_tried_and_where_to_put_the_files(
    tmp_path: Path,
) -> None:
    nowhere = "http://127.0.0.1:9"
    done = run(
        "fetch",
        "cifar10",
        CBIR_LITE_CACHE=str(tmp_path / "empty"),
        PATH="/nonexistent",
        http_proxy=nowhere,
        https_proxy=nowhere,
    )
    assert done.returncode == 2
    for part in ("npm is not on PATH", "MB", str(tmp_path / "empty"), "licence"):
        assert part.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
