import json
from pathlib import Path

import numpy as np
import pytest

from cbir_lite.retrieval import (
    evaluate_codes,
    hamming_distances,
    hamming_histograms,
    stable_sort_ap,
)

from .bench_retrieval import compare, faiss_index, linearity, loop_and_argsort, main, make_codes


def test_loop_faiss_and_histograms_agree() -> None:
    rng = np.random.default_rng(7)
    centres = np.where(rng.random((10, 48)) < 0.5, -1, 1)
    query, query_labels = make_codes(rng, 40, 48, centres)
    database, labels = make_codes(rng, 3000, 48, centres)
    items, _ = hamming_histograms(query, database, query_labels, labels)
    nearest, _ = faiss_index(database).search(np.packbits(query > 0, axis=1), 500)
    for row, counts in zip(nearest, items, strict=True):
        np.testing.assert_array_equal(np.sort(row), np.repeat(np.arange(49), counts)[:500])

    one_hot = np.eye(10, dtype=np.float32)
    for k in (500, 3000):
        loop = loop_and_argsort(
            query.astype(np.float32), database.astype(np.float32),
            one_hot[query_labels], one_hot[labels], k, kind="stable",
        )  # fmt: skip
        distances = hamming_distances(query, database)
        by_sort = stable_sort_ap(distances, query_labels, labels, (k,))[k, "found"].mean()
        result = evaluate_codes(query, database, query_labels, labels, (k,))
        low, high = result.interval(k)
        assert loop == pytest.approx(by_sort, abs=1e-6)
        assert low < loop < high
        assert low < result.mean_ap(k) < high


def test_histograms_are_faster_than_the_loop_and_than_faiss() -> None:
    # Far below what an idle machine gives, so that a busy one does not fail it.
    row = compare(queries=200, items=20000, bits=64, repeat=6, top=2000)
    assert row["ratio_loop"] > 8
    assert row["ratio_faiss"] > 1


def test_memory_does_not_grow_with_queries_times_items() -> None:
    rows = linearity(queries=2000, sizes=[10000, 40000], bits=12, repeat=1)
    for row in rows:
        assert row["peak_bytes"] < row["bytes_of_a_distance_matrix"] / 2
    growth = rows[1]["peak_bytes"] - rows[0]["peak_bytes"]
    assert growth < 4 * (
        rows[1]["bytes_of_codes_and_labels"] - rows[0]["bytes_of_codes_and_labels"]
    )


def test_the_script_prints_a_table_and_writes_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    sizes = ["--queries", "20", "--items", "1500", "--largest", "4000", "--bits", "16"]
    record = main([*sizes, "--repeat", "1", "--json", str(path)])
    assert json.loads(path.read_text())["comparison"]["items"] == 1500
    assert [row["items"] for row in record["linearity"]] == [500, 1000, 2000, 4000]
    printed = capsys.readouterr().out
    assert "FAISS search alone, top 1500" in printed
    assert "4000" in printed
