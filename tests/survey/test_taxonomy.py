import pytest

from cbir_lite import survey


def test_fig3_covers_every_year_and_every_citation_from_58_to_89():
    t = survey.timeline(3)
    assert sorted(set(t.year)) == list(range(2011, 2021))
    assert sorted(t.citation) == list(range(58, 90))
    assert set(t.group) == {"2011-2015", "2016-2020"}
    assert (t.group == "2011-2015").sum() == (t.year <= 2015).sum() == 7


@pytest.mark.parametrize(
    ("figure", "counts"),
    [
        (
            5,
            {
                **{"cnn": 25, "autoencoder": 10, "siamese": 11, "triplet": 12, "gan": 15},
                **{"attention": 10, "rnn": 3, "rl": 2, "variational": 1, "dnn": 2},
            },
        ),
        (8, {"binary": 25, "real": 9, "aggregation": 20}),
        ("retrieval", {"cross_modal": 12, "sketch": 9, "semantic": 17, "asymmetric": 5}),
        ("supervision", {"supervised": 19, "unsupervised": 18, "semi": 7, "self": 2}),
    ],
)
def test_citations_by_group(figure, counts):
    t = survey.timeline(figure).drop_duplicates(["group", "citation"])
    actual = t.groupby("group").size()
    assert {g: actual[g] for g in counts} == counts


def test_years_are_ordered_with_unknown_last():
    for figure in (5, 8):
        t = survey.timeline(figure)
        assert list(t.columns) == [
            *("year", "method_id", "label", "group", "citation", "year_basis"),
        ]
        known = t.year.dropna()
        assert known.is_monotonic_increasing
        assert known.index.max() == len(known) - 1
        assert t.year.isna().any()
        assert known.min() == 2011
        assert known.max() == 2020


def test_timeline_years_are_the_canonical_ones():
    for figure in (3, 5, 8, "supervision", "retrieval"):
        for row in survey.timeline(figure).itertuples():
            year = survey.method(row.method_id).year
            assert year is None or year == row.year


def test_descriptor_figure_agrees_with_the_sections():
    t = survey.timeline(8)
    for group, section in (("binary", "VI-A"), ("real", "VI-B"), ("aggregation", "VI-C")):
        assert set(t[t.group == group].method_id) == set(survey.section(section).methods)


def test_unknown_figure():
    with pytest.raises(ValueError, match="no timeline 4; choose one of 3, 5, 8"):
        survey.timeline(4)


def test_tree():
    top = survey.tree()
    assert [(b.name, b.section) for b in top.children] == [
        ("Supervision", "IV"),
        ("Network type", "V"),
        ("Descriptor type", "VI"),
        ("Retrieval type", "VII"),
        ("Miscellaneous", "VIII"),
    ]
    assert len(list(top.leaves())) == 32
    assert survey.node("Semi-supervised").section == "IV-C"
    assert "ssah_jin" in survey.node("Semi-supervised").methods
    assert set(survey.node("Weakly-supervised").methods) == {"wmh", "guan_tag", "wdht", "sgh"}
    assert set(survey.node("Reinforcement learning").methods) == {"pgdh", "drdh"}
    assert survey.node("PTN (Parametric Transformation Network)").methods == (
        *("sdh_shen", "dpah", "sdh_liong"),
    )
    for leaf in top.leaves():
        assert leaf.methods, leaf.name
    with pytest.raises(KeyError, match="did you mean Triplet"):
        survey.node("Triplets")


def test_taxonomy_is_a_copy():
    survey.taxonomy()["fig8_descriptors"]["branches"].clear()
    assert survey.taxonomy()["fig8_descriptors"]["colours"]["binary"] == "red"
    assert len(survey.taxonomy()["fig8_descriptors"]["branches"]) == 3
