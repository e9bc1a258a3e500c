"""The heat map against a count over the methods, one by one."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from cbir_lite import plots, survey
from cbir_lite.plots.heatmap import FACETS, facet_counts


@pytest.mark.parametrize("facet", FACETS)
def test_each_cell_is_a_count_of_systems(facet):
    table = facet_counts(facet)
    assert table.sum(axis=1).is_monotonic_decreasing
    for value in table.index:
        for year in table.columns:
            expected = 0
            for system in survey.methods().values():
                values = [v.replace("_", " ") for v in getattr(system, facet)]
                expected += system.year == year and value in values
            assert table.loc[value, year] == expected, (value, year)


def test_every_number_of_the_picture_is_in_the_table():
    table = facet_counts("network")
    with plots.use():
        ax = plots.facet_heatmap("network")
        written = sorted(int(t.get_text()) for t in ax.texts if t.get_text())
    plt.close(ax.figure)
    assert written == sorted(int(v) for v in table.to_numpy().ravel() if v)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(table.index)


def test_an_unknown_facet_is_named():
    with pytest.raises(ValueError, match="'colour': use supervision"):
        facet_counts("colour")
