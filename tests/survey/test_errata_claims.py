import pytest

from cbir_lite import survey


def test_claims_and_their_sections():
    assert len(survey.claims()) == 76
    per_section = [ident for s in survey.sections().values() for ident in s.claims]
    assert sorted(per_section) == sorted(survey.claims())
    assert survey.claim("C-IVA-2").section == "IV-A"
    assert survey.section("IX").claims == ("C-IX-1", "C-IX-2", "C-IX-3")
    assert survey.claim("C-IVB-1").errata == ("E12",)


def test_sections_in_order_with_their_systems():
    ids = list(survey.sections())
    assert ids.index("II-A") < ids.index("III.1") < ids.index("IV-C") < ids.index("X-B")
    assert survey.section("III.4").parent == "III"
    assert survey.section("V-C.2").parent == "V-C"
    assert survey.section("V").parent is None
    # The five systems of the survey's heading "2018", [75]-[79].
    assert survey.section("III.6").methods == (
        *("greedyhash", "dch", "pgdh", "series_expansion_hash", "dich"),
    )
    assert len(survey.section("VII-H").methods) == 5
    assert survey.section("II-A").methods == ()
    assert survey.section("IX").tables == ("II", "III", "IV")
    figures = [f for s in survey.sections().values() for f in s.figures]
    assert figures == [1, 2, 3, 4, 5, 6, 7, 8]


def test_every_section_of_a_method_lists_it():
    for m in survey.methods().values():
        for ident in m.sections:
            assert m.id in survey.section(ident).methods


def test_unknown_section_claim_erratum():
    with pytest.raises(KeyError, match="no section with id 'IV-Z'"):
        survey.section("IV-Z")
    with pytest.raises(KeyError, match="did you mean C-IVA-"):
        survey.claim("C-IVA-9")
    with pytest.raises(KeyError, match="no erratum with id 'E99'"):
        survey.erratum("E99")


def test_errata():
    known = survey.errata()
    assert len(known) == 48
    assert list(known) == sorted(known)
    assert survey.erratum("E40").finding
    assert survey.erratum("E01").finding is None
    assert {e.id for e in survey.errata_of("tbh")} >= {"E08", "E30", "E43"}
    assert "E01" in {e.id for e in survey.errata_of("hashgan_cao")}


def test_every_flag_in_a_table_is_an_erratum_of_that_table():
    for n in ("I", "II", "III", "IV"):
        ids = {i for e in survey.table(n).errata if e for i in e.split("; ")}
        assert ids
        for ident in ids:
            assert n in survey.erratum(ident).tables


def winners(n, protocol, dataset):
    t = survey.table(n, "likely").query("protocol == @protocol and dataset == @dataset")
    t = t.dropna(subset="value")
    return {int(bits): g.sort_values("value").method_id.iloc[-1] for bits, g in t.groupby("bits")}


def test_text_claims_read_off_the_tables():
    assert set(winners(2, "mAP@5000", "CIFAR-10").values()) == {"dth"}  # E40
    assert winners(2, "mAP@5000", "NUS-WIDE") == {16: "spdaq", 32: "spdaq", 64: "drdh"}  # E40
    assert set(survey.reported("dth").dataset) == {"CIFAR-10"}  # E40
    assert set(survey.reported("dsah").protocol) == {"mAP@All"}  # E41
    best = winners(4, "mAP@54000", "CIFAR-10")
    assert best == {16: "dtq", 32: "drdh", 48: "drdh", 64: "drdh"}  # E42
    cifar = winners(3, "mAP@1000", "CIFAR-10")
    assert cifar == {16: "tbh", 32: "tbh", 64: "tbh"}  # E43
    assert set(winners(3, "mAP@1000", "ImageNet").values()) == {"dpah"}  # E44
    assert set(winners(3, "mAP@1000", "MNIST").values()) == {"sdh_liong"}  # E45
    for ident in survey.erratum("E65").methods:
        assert survey.reported(ident).empty
