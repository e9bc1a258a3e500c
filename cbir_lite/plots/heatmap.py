"""How the systems of the survey spread over years and facets, as a heat map."""

from __future__ import annotations

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes

from cbir_lite import survey
from cbir_lite.plots.style import new_axes

Facet = Literal["supervision", "network", "descriptor", "retrieval"]
FACETS = ("supervision", "network", "descriptor", "retrieval")


def facet_counts(facet: Facet) -> pd.DataFrame:
    """Number of systems by value of a facet (rows, most frequent first) and year (columns).

    A system with two values counts in both; one without a value, or not dated 2011 or later, counts
    nowhere. Raises ``ValueError`` for another facet.

    Source: the survey's Sections III to VII by way of :func:`cbir_lite.survey.methods`.
    """
    if facet not in FACETS:
        raise ValueError(f"unknown facet {facet!r}: use {', '.join(FACETS)}")
    pairs = [
        (value, system.year)
        for system in survey.methods().values()
        for value in getattr(system, facet)
        if system.year and system.year >= 2011
    ]
    frame = pd.DataFrame(pairs, columns=[facet, "year"])
    table = pd.crosstab(frame[facet], frame["year"])
    table.index = [str(v).replace("_", " ") for v in table.index]
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def facet_heatmap(facet: Facet, *, ax: Axes | None = None) -> Axes:
    """Systems a year for each value of a facet; empty cells had none.

    >>> facet_heatmap("network")  # doctest: +SKIP
    """
    # Here, because it takes seconds to import and `cbir` is a command line.
    import seaborn as sns

    table = facet_counts(facet)
    ax = ax or new_axes(0.6 + 0.24 * len(table))
    sns.heatmap(
        table.mask(table == 0), annot=table.where(table > 0), fmt=".0f", cmap="cividis_r", vmin=0,
        linewidths=1, annot_kws={"fontsize": 8}, cbar=False, ax=ax,
    )  # fmt: skip
    ax.grid(False)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)
    return ax
