import pickle
import subprocess
import sys
from collections import Counter

import pytest

from cbir_lite import survey


def test_counts_by_tier():
    tiers = Counter(m.tier for m in survey.methods().values())
    assert tiers == {"A": 39, "B": 107, "C": 28}
    assert len(survey.methods()) == 174


def test_ids_are_keys_and_rows_are_typed():
    for ident, m in survey.methods().items():
        assert m.id == ident
        assert m.year is None or 2011 <= m.year <= 2020
        assert m.citations
        assert all(isinstance(c, int) for c in m.citations)
        assert (m.objective is None) <= (m.objective_confidence == "unknown")


def test_one_method_in_full():
    m = survey.method("hashnet")
    assert (m.name, m.year, m.citations, m.tier) == ("HashNet", 2017, (71,), "A")
    assert m.supervision == ("supervised",)
    assert m.network == ("cnn",)
    assert m.descriptor == ("binary",)
    assert m.sections == ("III.5", "V-A")
    assert m.tables == ("II", "III", "IV")
    assert m.table_rows == 4
    assert m.facet_source["network"] == "survey"
    assert not m.quantization


def test_quantization_methods_are_told_from_sign_codes():
    marked = {m.id for m in survey.methods().values() if m.quantization}
    assert {"dqn", "dtq", "dvsq", "spdaq"} <= marked
    assert not marked & {"dpsh", "hashnet", "csq", "deepbit"}


def test_unknown_id_suggests_close_ones():
    with pytest.raises(KeyError, match="did you mean hashnet") as caught:
        survey.method("HashNett")
    assert "'HashNett'" in str(caught.value)
    with pytest.raises(KeyError, match="174 are known"):
        survey.method("zzzzqqqq")


def test_loads_are_cached_and_read_only():
    assert survey.methods() is survey.methods()
    with pytest.raises(TypeError):
        survey.methods()["new"] = survey.method("dpsh")  # type: ignore[index]
    with pytest.raises(AttributeError):
        survey.method("dpsh").year = 1999  # type: ignore[misc]


def test_rows_hash_and_pickle():
    m = survey.method("dpsh")
    assert hash(m) == hash(pickle.loads(pickle.dumps(m)))
    assert pickle.loads(pickle.dumps(m)) == m


def test_components_and_notation():
    uses = {c.name: c for c in survey.components()}
    assert uses["policy gradient"].sections == ("III.6", "V-G")
    assert survey.notation()["K"] == "bits"
    assert "2008" in survey.background_citations()[17]


def test_import_brings_no_torch():
    code = (
        "import sys, cbir_lite.survey as s; s.check(); s.bibtex(); s.timeline(3); s.tree();"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
