"""A claim of the survey, what was measured, and the verdict, as a badge and as data."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass
from typing import Any

from cbir_lite import survey

OUTCOMES = ("supported", "contradicted", "mixed", "untestable")
DATA = "data-claim"
"""The attribute of a badge that holds the verdict as JSON, for who gathers verdicts."""


@dataclass(frozen=True)
class Verdict:
    """Shown by notebooks as a badge; ``str`` gives the same in words.

    ``measure`` names what ``value`` with its interval ``low``..``high`` over ``n`` items is.
    """

    claim: str
    outcome: str
    measured: str
    measure: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r}: use one of {', '.join(OUTCOMES)}")
        if self.outcome != "untestable" and self.measure and not math.isfinite(self.value):
            raise ValueError(f"{self.claim}: the measure {self.measure!r} has no finite value")

    @property
    def text(self) -> str:
        """The claim in this book's words."""
        return survey.claim(self.claim).text

    def __str__(self) -> str:
        return f"{self.claim} {self.outcome}: {self.text} {self.measured}"

    def row(self) -> dict[str, Any]:
        """The verdict as a row of claims.csv, without the chapter and scale."""
        numbers = {
            k: None if math.isnan(v) else float(f"{v:.6g}")
            for k, v in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {
            "claim": self.claim,
            "section": survey.claim(self.claim).section,
            "verdict": self.outcome,
            "measure": self.measure,
            **numbers,
            "n": self.n or None,
            "note": self.measured,
        }

    def _repr_html_(self) -> str:
        e = html.escape
        return (
            f'<p class="verdict verdict-{self.outcome}" {DATA}="{e(json.dumps(self.row()))}">'
            f"<strong>{e(self.claim)}</strong> "
            f'<span class="badge badge-{self.outcome}">{self.outcome}</span> '
            f"{e(self.text)} <em>{e(self.measured)}</em></p>"
        )


def verdict(
    claim: str,
    outcome: str,
    measured: str,
    *,
    measure: str = "",
    by: tuple[float, float, float, int] | None = None,
    value: float | None = None,
) -> Verdict:
    """The verdict on a claim (id as in :func:`cbir_lite.survey.claims`), with its numbers.

    Args:
        claim: id of the claim.
        outcome: one of :data:`OUTCOMES`.
        measured: what was measured, in words; for an untestable claim, what it would take.
        measure: what the number is, e.g. ``mAP, with minus without the term``.
        by: the comparison it rests on: mean, lower and upper end of its interval, and how many
            it rests on, as :func:`cbir_lite.bench.difference` gives them.
        value: the number, where there is no interval.

    Raises ``KeyError`` for an unknown claim and ``ValueError`` for an unknown outcome.

    >>> verdict("C-III1-1", "supported", "+0.2", measure="mAP difference", value=0.2).value
    0.2
    """
    survey.claim(claim)
    if by is None:
        return Verdict(claim, outcome, measured, measure, math.nan if value is None else value)
    return Verdict(claim, outcome, measured, measure, *by)
