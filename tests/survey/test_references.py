from collections import Counter

import pytest
from pybtex.database import parse_string
from pybtex.richtext import Text

from cbir_lite import survey
from cbir_lite.survey._references import latex


@pytest.fixture(scope="module")
def parsed():
    return parse_string(survey.bibtex(), "bibtex")


def test_counts():
    known = survey.references()
    assert list(known) == list(range(1, 230))
    assert Counter(r.confidence for r in known.values()) == {
        **{"certain": 167, "likely": 25, "guess": 12, "unknown": 25},
    }
    assert sum(r.printable for r in known.values()) == 192


def test_citation_key_only_for_identified_works():
    assert survey.citation_key(5) == "lowe2004sift"
    assert survey.citation_key(1) is None
    assert survey.reference(227).confidence == "guess"
    assert survey.citation_key(227) is None
    with pytest.raises(KeyError, match=r"\[1\] to \[229\], not \[230\]"):
        survey.citation_key(230)


def test_bibtex_has_exactly_the_printable_keys(parsed):
    keys = [r.key for r in survey.references().values() if r.printable]
    assert list(parsed.entries) == keys
    assert len(keys) == 192


def test_bibtex_says_what_the_rows_say(parsed):
    venue_field = {
        **{"article": "journal", "inproceedings": "booktitle"},
        **{"techreport": "institution", "misc": "howpublished"},
    }
    for ref in survey.references().values():
        if not ref.printable:
            continue
        entry = parsed.entries[ref.key]
        assert entry.fields["year"] == str(ref.year)
        assert str(ref.venue).endswith(entry.fields[venue_field[entry.type]])
        people = entry.persons["author"]
        assert len(people) == len(ref.authors)
        for person, name in zip(people, ref.authors, strict=True):
            parts = [*person.rich_first_names, *person.rich_middle_names]
            parts += [*person.rich_prelast_names, *person.rich_last_names]
            assert " ".join(str(p) for p in parts) == name
        title = str(Text.from_latex(entry.fields["title"]))
        assert title == ref.title
        assert entry.fields.get("eprint") == ref.arxiv
        assert entry.fields.get("doi") == ref.doi


def test_entry_types(parsed):
    types = {key: entry.type for key, entry in parsed.entries.items()}
    assert types["lowe2004sift"] == "article"
    assert types["krizhevsky2009cifar"] == "techreport"
    assert types["ong2017siamfv"] == "misc"
    assert types["chen2019spdaq"] == "inproceedings"


def test_capitals_are_protected():
    text = survey.bibtex()
    assert "title = {{HashNet}: deep learning to hash by continuation}" in text
    assert "title = {{CNN} features off-the-shelf: an astounding baseline" in text
    assert "title = {Features for image retrieval" in text
    assert "a {Procrustean} approach" in text


def test_ascii_and_written_the_same_twice(tmp_path):
    path = survey.write_bibtex(tmp_path / "deep" / "references.bib")
    survey.bibtex.cache_clear()
    assert path.read_bytes() == survey.bibtex().encode("ascii")
    assert b"\r" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("R&D 50% $5 #1 a_b {x}", r"R\&D 50\% \$5 \#1 a\_b \{x\}"),
        ("Jégou", r"J{\'{e}}gou"),
        ("ř ä ñ ô ç", r"{\v{r}} {\"{a}} {\~{n}} {\^{o}} {\c{c}}"),
        ("í", r"{\'{\i}}"),
        ("a~b^c\\", r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}"),
    ],
)
def test_latex(text, expected):
    assert latex(text) == expected


def test_latex_refuses_what_it_cannot_write():
    with pytest.raises(ValueError, match="no LaTeX form known for '漢'"):
        latex("漢字")


def test_methods_and_references_link_both_ways():
    assert survey.methods_of(110) == ("sdh_liong", "dh_liong")
    assert survey.methods_of(17) == ()
    assert [r.key for r in survey.references_of("spdaq")] == ["chen2019spdaq"]
    assert [r.number for r in survey.references_of("pseudo_label_kmeans")] == [176, 177]
    for ident in survey.methods():
        for ref in survey.references_of(ident):
            assert ident in survey.methods_of(ref.number)
