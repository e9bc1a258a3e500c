"""Result grids: each image at its place, right and wrong told apart without colour."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cbir_lite import plots
from cbir_lite.plots.style import text_width


@pytest.fixture
def grid():
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    results = rng.integers(0, 256, (2, 4, 12, 12, 3), dtype=np.uint8)
    return queries, results, np.array([[True, False, True, True], [False] * 4])


def test_images_stand_at_their_place(grid):
    queries, results, relevant = grid
    ax = plots.retrieval_grid(queries, results, relevant)
    rows = {}
    for image in ax.images:
        left, _, _, top = image.get_extent()
        rows.setdefault(round(top, 3), []).append((left, image.get_array()))
    for q, (_, row) in enumerate(sorted(rows.items())):
        shown = [array for _, array in sorted(row, key=lambda cell: cell[0])]
        np.testing.assert_array_equal(shown, [queries[q], *results[q]])


def test_relevance_is_told_by_sign_and_dash(grid):
    ax = plots.retrieval_grid(*grid)
    marks = [t.get_text() for t in ax.texts if t.get_gid() == "mark"]
    assert marks == ["✓", "✗", "✓", "✓", "✗", "✗", "✗", "✗"]
    frames = [p for p in ax.patches if not p.get_fill() and p.get_linewidth() == 2]
    solid = [p.get_linestyle() in ("-", "solid") for p in frames]
    assert solid == [m == "✓" for m in marks]


def test_nothing_is_marked_where_relevance_is_unknown(grid):
    queries, results, relevant = grid
    ax = plots.retrieval_grid(queries, results, None)
    assert len(ax.images) == len(plots.retrieval_grid(queries, results, relevant).images)
    assert [t for t in ax.texts if t.get_gid() == "mark"] == []
    with pytest.raises(ValueError, match=r"2 queries with \[3, 4\] results"):
        plots.retrieval_grid(queries, [results[0], results[1][:3]], None)


def test_labels_fit_below_their_images(grid, labels_of, overlapping):
    queries, results, relevant = grid
    names = [["dog", "a name that is far too long for one image", "cat", "ox"]] * 2
    ax = plots.retrieval_grid(
        queries, results, relevant, query_labels=["dog", "ship"], result_labels=names
    )
    found = labels_of(ax, "label", "rank", "mark")
    assert overlapping(found) == []
    texts = [t.get_text() for t, _ in found if t.get_gid() == "label"]
    assert len(texts) == 10
    cut = next(t for t in texts if t.endswith("…"))
    side = ax.images[0].get_extent()[1] - ax.images[0].get_extent()[0]
    assert text_width(cut) <= side


def test_tall_and_grey_images_keep_their_shape():
    tall = np.full((40, 10), 90, np.uint8)
    ax = plots.retrieval_grid([tall], [[tall, tall[..., None]]], [[True, False]])
    for image in ax.images:
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(4)
        assert (np.asarray(image.get_array()) == 90).all()
    box = ax.get_window_extent()
    width, height = ax.get_xlim()[1], ax.get_ylim()[0]
    assert box.width / width == pytest.approx(box.height / height)


def test_description(grid):
    relevant = grid[2]
    assert plots.describe_grid(relevant[:1]) == (
        "1 query with the top 4 results each. Query 1: 3 of 4 relevant; not relevant at rank 2."
    )
    text = plots.describe_grid(
        relevant, query_labels=["cat", "dog"], result_labels=[list("abcd"), list("efgh")]
    )
    assert "Query 1 (cat): 3 of 4 relevant; not relevant at rank 2 (b)." in text
    assert text.endswith("Query 2 (dog): 0 of 4 relevant; "
                         "not relevant at ranks 1 (e), 2 (f), 3 (g), 4 (h).")  # fmt: skip
    assert plots.describe_grid([[True]]).endswith("Query 1: 1 of 1 relevant.")


def test_bad_input(grid):
    queries, results, relevant = grid
    with pytest.raises(ValueError, match=r"relevant must be bool .*int64"):
        plots.retrieval_grid(queries, results, relevant.astype(int))
    with pytest.raises(ValueError, match=r"\(2, 4\), but there are 1 queries"):
        plots.retrieval_grid(queries[:1], results, relevant)
    with pytest.raises(ValueError, match=r"uint8 .*float64"):
        plots.retrieval_grid(queries / 255, results, relevant)
    with pytest.raises(ValueError, match=r"\(12, 12, 4\)"):
        plots.retrieval_grid(np.zeros((2, 12, 12, 4), np.uint8), results, relevant)
    with pytest.raises(ValueError, match="3 query labels for 2"):
        plots.retrieval_grid(queries, results, relevant, query_labels=list("abc"))
    with pytest.raises(ValueError, match=r"result_labels must have shape \(2, 4\)"):
        plots.describe_grid(relevant, result_labels=[["a"], ["b"]])
    with pytest.raises(ValueError, match="show fewer"):
        plots.retrieval_grid(queries, results, relevant, width=1.2)
    _, ax = plt.subplots(figsize=(7, 1))
    with pytest.raises(ValueError, match="the grid needs"):
        plots.retrieval_grid(queries, results, relevant, ax=ax)


def test_captions_may_be_names_of_any_file(grid, tmp_path):
    queries, results, relevant = grid
    names = ["price $5_$ x.png", b"caf\xe9.png".decode(errors="surrogateescape")]
    ax = plots.retrieval_grid(queries, results, relevant, query_labels=names)
    ax.figure.savefig(tmp_path / "grid.png")
    shown = [t.get_text() for t in ax.texts if t.get_gid() == "label"]
    assert shown == ["price $5_$ x.png", "caf�.png"]
