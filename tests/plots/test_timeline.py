"""Timelines and tree: everything is there, at its year, and legible."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from cbir_lite import plots, survey
from cbir_lite.plots import style
from cbir_lite.plots.timeline import GROUPS

FIGURES = [3, 5, 8]


def flat(text):
    """Letters and digits only: the line breaks and the hyphens of cut words are gone."""
    return re.sub(r"[^A-Za-z0-9\[\]+]", "", text)


@pytest.mark.parametrize("dpi", [100, 200])
@pytest.mark.parametrize("figure", [*FIGURES, "supervision", "retrieval"])
def test_no_labels_overlap_at_page_width(figure, dpi, labels_of, overlapping):
    ax = plots.timeline(figure)
    ax.figure.set_dpi(dpi)
    found = labels_of(ax, "label", "heading", "year")
    assert overlapping(found) == []
    page = ax.figure.bbox
    for text, box in found:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1, text
    assert ax.figure.get_figwidth() == pytest.approx(plots.PAGE_WIDTH)
    assert ax.figure.get_figheight() < 10


@pytest.mark.parametrize("figure", FIGURES)
def test_type_is_legible(figure):
    ax = plots.timeline(figure)
    sizes = [t.get_fontsize() for t in [*ax.texts, *ax.get_legend().get_texts()]]
    assert min(sizes) >= 7


@pytest.mark.parametrize("figure", [*FIGURES, "supervision", "retrieval"])
def test_every_system_stands_below_its_year(figure, labels_of):
    ax = plots.timeline(figure)
    years = {t.get_text().replace("\n", " "): box for t, box in labels_of(ax, "year")}
    labels = labels_of(ax, "label")
    centres = {year: (box.x0 + box.x1) / 2 for year, box in years.items()}
    for row in survey.timeline(figure).itertuples():
        year = "year unknown" if pd.isna(row.year) else str(row.year)
        mine = [
            box
            for text, box in labels
            if flat(row.label) in flat(text.get_text()) and f"[{row.citation}]" in text.get_text()
        ]
        assert mine, row.label
        nearest = {min(centres, key=lambda y: abs(centres[y] - (b.x0 + b.x1) / 2)) for b in mine}
        assert year in nearest, row.label


@pytest.mark.parametrize("figure", FIGURES)
def test_labels_stay_inside_their_boxes(figure, labels_of):
    ax = plots.timeline(figure)
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, Rectangle)]
    for text, box in labels_of(ax, "label"):
        around = [
            b
            for b in boxes
            if b.x0 <= box.x0 + 1 and box.x1 <= b.x1 + 1 and b.y0 <= box.y0 and box.y1 <= b.y1
        ]
        # The band of the year and the label's own frame.
        assert len(around) >= 1, text.get_text()
        assert min(b.height for b in around) < box.height + 10, text.get_text()


def test_years_that_the_survey_does_not_print_are_dashed():
    def dashed(ax):
        return sum(
            p.get_linestyle() not in ("-", "solid") and p.get_linewidth() > 0 for p in ax.patches
        )

    assert dashed(plots.timeline(3)) == 0
    frame = survey.timeline(8)
    merged = frame.groupby(["group", "year", "label"], dropna=False)["year_basis"].first()
    assert dashed(plots.timeline(8)) == merged.isin(["own", "unknown"]).sum()
    entries = [t.get_text() for t in plots.timeline(8).get_legend().get_texts()]
    assert "year not printed in the survey" in entries


def test_the_legend_names_every_group():
    entries = [t.get_text() for t in plots.timeline(5).get_legend().get_texts()]
    groups = survey.timeline(5)["group"].unique()
    assert {GROUPS[g][1] for g in groups} <= set(entries)


def test_given_axes_are_used_or_refused():
    _, ax = plt.subplots(figsize=(14, 12))
    assert plots.timeline(3, ax=ax) is ax
    _, small = plt.subplots(figsize=(7, 2))
    with pytest.raises(ValueError, match=r"needs \d+\.\d+ in"):
        plots.timeline(5, ax=small)
    with pytest.raises(ValueError, match="the tree needs"):
        plots.taxonomy_tree(ax=small)
    with pytest.raises(ValueError, match="no timeline 4"):
        plots.timeline(4)


def test_tree_shows_every_leaf(labels_of, overlapping):
    ax = plots.taxonomy_tree()
    found = labels_of(ax, "label")
    assert overlapping(found) == []
    page = ax.figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 for _, b in found)
    texts = [t.get_text() for t, _ in found]
    tree = survey.tree()
    for leaf in tree.leaves():
        mine = [t for t in texts if t.startswith(f"{leaf.name} (")]
        assert any(f"{len(leaf.methods)} system" in t for t in mine), leaf.name
    assert len(texts) == len(list(tree.leaves())) + len(tree.children) + 1


def test_wrap_keeps_the_text_and_the_width():
    text = "Supervised deep feature embedding with hand-crafted features [106]"
    for width in (0.45, 0.7, 1.2, 9.0):
        lines = style.wrap(text, width)
        assert flat("".join(lines)) == flat(text)
        assert all(style.text_width(line) <= width for line in lines)
    assert style.wrap(text, 9.0) == [text]
    assert style.wrap("heterogeneous", 0.6) == ["heteroge-", "neous"]


@pytest.mark.parametrize("colour", style.OKABE_ITO.values())
def test_ink_is_readable_on_every_colour(colour):
    def luminance(c):
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(c)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted([luminance(colour), luminance(style.ink_on(colour))])
    assert (high + 0.05) / (low + 0.05) >= 4.5
    tinted = luminance(style.tint(colour))
    assert (tinted + 0.05) / 0.05 >= 7


def test_line_styles_differ():
    looks = style.line_styles(f"m{i}" for i in range(42))
    kinds = {(v["color"], v["marker"]) for v in looks.values()}
    assert len(kinds) == 42
