"""Verdicts: in words and as a badge, on claims that exist."""

import html
import json
import re

import pytest

from cbir_lite import survey
from cbir_lite.bench.compare import Difference
from cbir_lite.plots import verdict
from cbir_lite.plots.verdicts import DATA


def test_a_verdict_names_claim_outcome_and_number():
    claim = next(iter(survey.claims()))
    claim = getattr(claim, "id", claim)
    shown = verdict(claim, "mixed", "+0.1 < 0.2 & more")
    assert str(shown) == f"{claim} mixed: {survey.claim(claim).text} +0.1 < 0.2 & more"
    badge = shown._repr_html_()
    assert 'class="badge badge-mixed">mixed<' in badge
    assert "+0.1 &lt; 0.2 &amp; more" in badge


def test_unknown_claims_and_outcomes_are_refused():
    claim = next(iter(survey.claims()))
    claim = getattr(claim, "id", claim)
    with pytest.raises(ValueError, match="'perhaps': use one of supported"):
        verdict(claim, "perhaps", "")
    with pytest.raises(KeyError, match="no-such-claim"):
        verdict("no-such-claim", "mixed", "")


def test_a_verdict_is_data_too():
    claim = next(iter(survey.claims()))
    d = Difference(0.25, 0.2, 0.3, 40)
    shown = verdict(claim, "supported", "by +0.25", measure="mAP difference", by=d)
    held = re.search(rf'{DATA}="([^"]*)"', shown._repr_html_())
    assert json.loads(html.unescape(held[1])) == {
        "claim": claim,
        "section": survey.claim(claim).section,
        "verdict": "supported",
        "measure": "mAP difference",
        "value": 0.25,
        "low": 0.2,
        "high": 0.3,
        "n": 40,
        "note": "by +0.25",
    }
    bare = verdict(claim, "untestable", "needs tags").row()
    assert [bare[k] for k in ("value", "low", "high", "n")] == [None] * 4
    with pytest.raises(ValueError, match="no finite value"):
        verdict(claim, "mixed", "", measure="mAP", value=float("nan"))
