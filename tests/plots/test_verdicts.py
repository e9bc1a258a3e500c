"""Verdicts: in words and as a badge, on claims that exist."""

import pytest

from cbir_lite import survey
from cbir_lite.plots import verdict


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
