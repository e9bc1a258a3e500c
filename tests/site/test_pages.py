"""The pages that are written from data, without building the site."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from book import build
from book._ext.cbir_pages import generate, measured, reference, systems, text
from cbir_lite import survey
from cbir_lite.bench.run import code_hash
from cbir_lite.methods import registry


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the pages are made from, with its pages."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copy(build.ROOT / "_toc.yml", folder)
    shutil.copytree(build.ROOT / "notebooks", folder / "notebooks")
    shutil.copytree(build.ROOT / "book" / "results", folder / "book" / "results")
    (folder / "book" / "methods").mkdir()
    (folder / "book" / "methods" / "system-gone.md").write_text("# A system that was removed\n")
    generate(folder)
    return folder


def test_there_is_a_page_for_each_system_and_no_other(root: Path) -> None:
    found = {p.stem for p in (root / "book" / "methods").glob("*.md")}
    assert found == {"index", *(f"system-{id_}" for id_ in registry.cards())}


def test_a_second_run_touches_nothing(root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert len(before) > len(registry.cards())
    generate(root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before


def test_a_system_page_says_what_its_card_says(root: Path) -> None:
    page = (root / "book" / "methods" / "system-dpsh.md").read_text(encoding="utf-8")
    card = registry.cards()["dpsh"]
    assert f"{{cite}}`{card.cite}`" in page
    assert text.plain(card.departures) in page
    assert 'badge-simplified">simplified<' in page
    assert "def loss(self, batch: Batch)" in page
    printed = survey.reported("dpsh")
    rows = [r for r in page.splitlines() if re.match(r"\| (II|III|IV) \|", r)]
    assert len(rows) == len(printed)
    assert all(f"| {value:.1f} |" in row for value, row in zip(printed["value"], rows, strict=True))


def test_a_system_links_to_the_chapters_that_run_it(root: Path) -> None:
    page = (root / "book" / "methods" / "system-bingan.md").read_text(encoding="utf-8")
    assert "](../../notebooks/05b_network_families.ipynb)" in page
    assert "](../../notebooks/06_descriptors.ipynb)" not in page
    linked = systems.chapters_of(root / "notebooks")
    assert len(linked["dpsh"]) > 5
    assert set(linked) <= set(registry.cards())


def test_the_index_counts_every_system_once(root: Path) -> None:
    index = (root / "book" / "methods" / "index.md").read_text(encoding="utf-8")
    counted = index[index.index("tab-fidelity") :]
    numbers = [int(n) for n in re.findall(r"\| (\d+) (?=\|)", counted)]
    assert sum(numbers) == len(registry.cards())


def test_measured_values_are_means_of_the_records(root: Path) -> None:
    frame = measured.records(root / "book" / "results")
    runs = frame[(frame["method"] == "itq") & (frame["bits"] == 32)]
    runs = runs[runs["protocol"] == "cifar10-59k"]
    assert len(runs) >= 3
    mean, spread = 100 * runs["map_all"].mean(), 100 * runs["map_all"].std()
    assert f"{mean:.1f} ± {spread:.1f}" in measured.measured_mean("itq", frame)
    assert f"{mean:.1f} ± {spread:.1f}" in (root / "book" / "methods" / "index.md").read_text()


def test_without_records_a_dash_says_so(tmp_path: Path) -> None:
    frame = measured.records(tmp_path)
    page = systems.page(registry.cards()["dpsh"], frame, measured.beside(frame))
    assert "No record of this system yet" in page
    index = systems.index(list(registry.cards().values()), frame)
    assert index.count('title="not measured yet">—</span>') == len(registry.cards())


def test_records_of_an_earlier_state_of_the_code_are_marked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = measured.records(root / "book" / "results").iloc[[0]].drop(columns="stale")
    now = row.assign(code_hash=code_hash(row["method"].iloc[0]))
    monkeypatch.setattr(measured, "read_records", lambda *_: now)
    assert measured.records(tmp_path)["stale"].tolist() == [False]
    monkeypatch.setattr(measured, "read_records", lambda *_: row.assign(code_hash="old"))
    assert measured.records(tmp_path)["stale"].tolist() == [True]


def test_reported_range_spans_the_tables_and_carries_flags() -> None:
    cell = measured.reported_range("sdh_shen")
    printed = survey.reported("sdh_shen", columns="likely")
    values = printed[(printed["dataset"] == "CIFAR-10") & (printed["bits"] == 32)]["value"]
    assert cell.startswith(f"{values.min():.1f}–{values.max():.1f} ")
    assert "[E06](#erratum-e06)" in cell


def test_systems_that_share_an_abbreviation_name_each_other() -> None:
    assert [m.id for m in systems.same_name("sdh_shen")] == ["sdh_liong"]
    assert [m.id for m in systems.same_name("hashgan_cao")] == ["hashgan_ghasedi"]
    assert systems.same_name("dpsh") == []


def test_errata_page_holds_every_erratum_with_its_anchor() -> None:
    page = reference.errata()
    for erratum in survey.errata().values():
        assert page.count(f"(erratum-{erratum.id.lower()})=") == 1


def test_guessed_identities_are_not_printed() -> None:
    page = reference.numbers()
    hidden = [r for r in survey.references().values() if not r.printable]
    assert hidden
    assert not [r.title for r in hidden if r.title and text.plain(r.title) in page]
    assert all(f'id="ref-{r.number}"' in page for r in survey.references().values())


def test_status_page_shows_the_build_or_how_to_get_one() -> None:
    assert "`make book`" in reference.status(None)
    page = reference.status(build.status("smoke"))
    assert all(f"`{n.stem}`" in page for n in build.notebooks())
    assert "| Scale | `smoke` |" in page


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        ("u_i and a*b", r"u\_i and a\*b"),
        ("``history_`` holds [98] | $5", r"`history_` holds \[98\] \| \$5"),
        ("see :func:`~cbir_lite.survey.check`", "see `cbir_lite.survey.check`"),
    ],
)
def test_text_is_escaped_except_code(raw: str, escaped: str) -> None:
    assert text.plain(raw) == escaped


def test_errata_and_numbers_become_links() -> None:
    assert text.linked("E04 and [98]", "../") == (
        r'[E04](#erratum-e04) and <a href="../references.html#ref-98">[98]</a>'
    )


def test_a_formula_of_several_parts_gets_a_line_for_each() -> None:
    one = r"\min_{B,\quad R} f(B)"
    assert text.display_math(one) == f"$$\n{one}\n$$"
    two = text.display_math(r"a = b,\quad c;\ \quad d")
    assert two == "$$\n\\begin{aligned}\n&a = b,\\\\\n&c;\\\\\n&d\n\\end{aligned}\n$$"
