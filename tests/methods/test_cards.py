"""Cards: complete and true to the survey's data for every system; broken ones are named."""

from __future__ import annotations

import json
import re

import pytest

from cbir_lite import survey
from cbir_lite.methods import card, registry
from cbir_lite.methods.card import CardError

IDS = list(registry.classes())
FOLDERS = {
    "cnn": {"cnn"},
    "dnn": {"cnn", "shallow"},
    "autoencoder": {"autoencoder"},
    "variational": {"autoencoder"},
    "siamese": {"siamese"},
    "triplet": {"triplet"},
    "gan": {"gan"},
    "attention": {"attention"},
    "rnn": {"recurrent"},
    "rl": {"reinforcement"},
    "ptn": {"shallow", "cnn"},
    "none": {"shallow"},
}
"""Network type of the survey (Section V) to folder."""

GOOD = r"""One line of summary
in two.

More prose.

:survey: Sections IV-A, V-A
:cite: li2016dpsh
:source: the paper
:objective: \min L,\quad
    L = 1
:shapes: x (n, d)
:defaults: none
:departures: none
:fidelity: simplified
"""

every_card = pytest.mark.parametrize("id_", IDS)


def system(doc: str, module: str = "cbir_lite.methods.cnn.dpsh", name: str = "Demo") -> type:
    return type(name, (), {"__doc__": doc, "__module__": module})


@every_card
def test_no_field_is_empty_and_all_goes_into_json(id_):
    c = registry.cards()[id_]
    plain = json.loads(json.dumps(c.to_dict()))
    for name in ("name", "folder", "tier", "survey", "cite", "source", "summary", "prose"):
        assert plain[name].strip(), name
    for name in ("objective", "shapes", "defaults", "departures"):
        assert plain[name].strip(), name
    assert plain["id"] == id_
    assert c.fidelity in card.FIDELITIES
    assert 1990 < c.year < 2022
    assert c.tier in {"A", "B", "C", "baseline"}
    assert "\n" not in c.summary


@every_card
def test_only_a_faithful_card_may_declare_no_departures(id_):
    c = registry.cards()[id_]
    assert c.fidelity == "faithful" or c.departures.strip(" .").lower() != "none"


@every_card
def test_cited_work_is_printable_and_the_systems_own(id_):
    c = registry.cards()[id_]
    printable = {r.key: r.number for r in survey.references().values() if r.printable}
    if c.tier == "baseline":
        assert c.cite == "none" or c.cite in printable
    elif set(c.citations) & set(printable.values()):
        assert printable[c.cite] in c.citations
    else:
        assert c.cite == "none"
        assert all(f"[{number}]" in c.source for number in c.citations)


@every_card
def test_folder_is_where_the_survey_puts_the_system(id_):
    c = registry.cards()[id_]
    # Where the survey names no type of network, a hidden layer or none at all is the plain reading.
    allowed = set().union(*(FOLDERS[n] for n in c.network or ("dnn",)))
    if c.tier != "baseline":
        sections = survey.method(id_).sections
        allowed |= {"cross_modal"} if "VII-A" in sections else set()
        allowed |= {"sketch"} if "VII-B" in sections else set()
    assert c.folder in allowed
    assert registry.classes()[id_].__module__ == f"cbir_lite.methods.{c.folder}.{id_}"


@every_card
def test_sections_exist_and_cover_those_of_the_surveys_row(id_):
    c = registry.cards()[id_]
    if c.tier == "baseline":
        assert c.survey == "none"
        return
    text = re.split("Tables?", c.survey)[0]
    named = re.findall(r"\b[IVX]+(?:-[A-I])?(?:\.\d)?(?![\w-])", text)
    assert named
    assert set(named) <= set(survey.sections())
    missing = [s for s in survey.method(id_).sections if not any(s.startswith(n) for n in named)]
    assert missing == []


def test_a_good_card_is_read_with_its_continued_lines():
    c = card.read(system(GOOD))
    assert c.summary == "One line of summary in two."
    assert c.prose.endswith("More prose.")
    assert c.objective == r"\min L,\quad L = 1"
    assert (c.id, c.folder, c.name, c.year) == ("dpsh", "cnn", "DPSH", 2016)
    assert c.citations == (98,)


@pytest.mark.parametrize(
    "field",
    ["survey", "cite", "source", "objective", "shapes", "defaults", "departures", "fidelity"],
)
def test_a_missing_or_empty_field_is_named(field):
    gone = re.sub(rf"(?m)^:{field}:.*\n(    .*\n)*", "", GOOD)
    empty = re.sub(rf"(?m)^:{field}:.*\n(    .*\n)*", f":{field}:\n", GOOD)
    assert gone != GOOD
    for doc in (gone, empty):
        with pytest.raises(CardError, match=rf"dpsh\.Demo: the card lacks :{field}:"):
            card.read(system(doc))


def test_all_missing_fields_are_named_at_once():
    with pytest.raises(CardError, match=r":cite:, :source:"):
        card.read(system("No card.\n\n:survey: Section V-A\n"))
    with pytest.raises(CardError, match=r"Demo: the card lacks :survey:"):
        card.read(system(""))


def test_an_unknown_fidelity_is_named():
    with pytest.raises(CardError, match="'exact' is not one of"):
        card.read(system(GOOD.replace("simplified", "exact")))


def test_a_system_the_survey_does_not_know_must_say_so():
    module = "cbir_lite.methods.cnn.no_such_system"
    with pytest.raises(CardError, match=r"no row 'no_such_system'.*:survey: none"):
        card.read(system(GOOD, module))


def test_a_baseline_states_its_facts_itself():
    doc = GOOD.replace("Sections IV-A, V-A", "none")
    facts = {"name": "Demo", "year": "2001", "supervision": "unsupervised"}
    facts |= {"network": "none", "descriptor": "binary"}
    whole = doc + "".join(f":{k}: {v}\n" for k, v in facts.items())
    c = card.read(system(whole, "cbir_lite.methods.shallow.demo"))
    assert (c.name, c.year, c.tier, c.folder) == ("Demo", 2001, "baseline", "shallow")
    assert c.citations == ()
    for k, v in facts.items():
        with pytest.raises(CardError, match=f"lacks :{k}:"):
            card.read(system(whole.replace(f":{k}: {v}\n", ""), "cbir_lite.methods.shallow.demo"))
    with pytest.raises(CardError, match="'long ago' is not a year"):
        card.read(system(whole.replace("2001", "long ago"), "cbir_lite.methods.shallow.demo"))


@pytest.mark.parametrize("id_", sorted(registry.cards()))
def test_values_among_the_defaults_are_those_of_the_code(id_: str) -> None:
    """The first "name = value" of each hyper-parameter; what follows tells of other sources."""
    fields = registry.get(id_).parameters()
    told: dict[str, float] = {}
    number = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
    for m in re.finditer(rf"\b(\w+) = {number}(?: / {number})?", registry.cards()[id_].defaults):
        told.setdefault(m[1], float(m[2]) / float(m[3] or 1))
    method = registry.create(id_)
    wrong = {
        name: (value, getattr(method, name))
        for name, value in told.items()
        if name in fields and getattr(method, name) != pytest.approx(value)
    }
    assert not wrong, f"{id_}: card and code differ: {wrong}"
