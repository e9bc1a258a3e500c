"""A claim of the survey, what was measured, and the verdict, as a badge."""

from __future__ import annotations

import html
from dataclasses import dataclass

from cbir_lite import survey

OUTCOMES = ("supported", "contradicted", "mixed", "untestable")


@dataclass(frozen=True)
class Verdict:
    """Shown by notebooks as a badge; ``str`` gives the same in words."""

    claim: str
    outcome: str
    measured: str

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r}: use one of {', '.join(OUTCOMES)}")

    @property
    def text(self) -> str:
        """The claim in this book's words."""
        return survey.claim(self.claim).text

    def __str__(self) -> str:
        return f"{self.claim} {self.outcome}: {self.text} {self.measured}"

    def _repr_html_(self) -> str:
        e = html.escape
        return (
            f'<p class="verdict verdict-{self.outcome}"><strong>{e(self.claim)}</strong> '
            f'<span class="badge badge-{self.outcome}">{self.outcome}</span> '
            f"{e(self.text)} <em>{e(self.measured)}</em></p>"
        )


def verdict(claim: str, outcome: str, measured: str) -> Verdict:
    """The verdict on a claim (id as in :func:`cbir_lite.survey.claims`), with its numbers.

    Raises ``KeyError`` for an unknown claim and ``ValueError`` for an unknown outcome.
    """
    survey.claim(claim)
    return Verdict(claim, outcome, measured)
