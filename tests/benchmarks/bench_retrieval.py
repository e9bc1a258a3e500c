"""Time the evaluation of Hamming rankings against a loop over queries and against FAISS.

Run ``python tests/benchmarks/bench_retrieval.py --json out.json`` on an idle machine. Every time is
the best of several runs after one warm-up, on the threads given by ``--threads``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numba
import numpy as np

from cbir_lite.retrieval import (
    DEFAULT_CUTOFFS,
    Evaluation,
    PackedCodes,
    cutoffs_within,
    evaluate_codes,
    pack,
)

TOP = 5000


def make_codes(
    rng: np.random.Generator, n: int, bits: int, centres: np.ndarray, noise: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 (n, bits) around one centre a class, a share ``noise`` of the bits flipped."""
    labels = rng.integers(0, len(centres), n)
    flipped = rng.random((n, bits), dtype=np.float32) < noise
    return np.where(flipped, -centres[labels], centres[labels]).astype(np.int8), labels


def loop_and_argsort(
    query: np.ndarray,
    database: np.ndarray,
    query_labels: np.ndarray,
    labels: np.ndarray,
    k: int,
    kind: Any = None,
) -> float:
    """mAP@k by relevant items found, one query at a time, as most public hashing scripts do.

    Codes and one-hot labels as float32. Ties fall as the sort leaves them.
    """
    relevance = (query_labels @ labels.T > 0).astype(np.float32)
    total = 0.0
    for code, hits in zip(query, relevance, strict=True):
        distances = 0.5 * (database.shape[1] - database @ code)
        ranked = hits[np.argsort(distances, kind=kind)][:k]
        positions = np.flatnonzero(ranked) + 1.0
        if len(positions):
            total += float(np.mean(np.arange(1, len(positions) + 1) / positions))
    return total / len(query)


def faiss_index(codes: np.ndarray) -> faiss.IndexBinaryFlat:
    """An exact FAISS index over the codes."""
    index = faiss.IndexBinaryFlat(codes.shape[1])
    index.add(np.packbits(codes > 0, axis=1))
    return index


def best(run: Callable[[], Any], repeat: int) -> float:
    """Seconds of the fastest of ``repeat`` runs, after one warm-up."""
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def compare(queries: int, items: int, bits: int, repeat: int, top: int = TOP) -> dict[str, Any]:
    """Time the three ways on one problem; the loop does one cut-off, the library all."""
    rng = np.random.default_rng(0)
    centres = np.where(rng.random((10, bits)) < 0.5, -1, 1)
    query, query_labels = make_codes(rng, queries, bits, centres)
    database, labels = make_codes(rng, items, bits, centres)
    one_hot = np.eye(10, dtype=np.float32)
    floats = query.astype(np.float32), database.astype(np.float32)
    hot = one_hot[query_labels], one_hot[labels]
    index, packed = faiss_index(database), np.packbits(query > 0, axis=1)
    cutoffs = cutoffs_within(items, DEFAULT_CUTOFFS)
    result = evaluate_codes(query, database, query_labels, labels, cutoffs)
    ours = best(lambda: evaluate_codes(query, database, query_labels, labels, cutoffs), repeat)
    loop = best(lambda: loop_and_argsort(*floats, *hot, items), max(1, repeat // 3))
    search = best(lambda: index.search(packed, top), max(1, repeat // 3))
    return {
        "queries": queries,
        "items": items,
        "bits": bits,
        "cutoffs": [k or "all" for k in cutoffs],
        "seconds": ours,
        "seconds_loop_one_cutoff": loop,
        f"seconds_faiss_top_{top}": search,
        "ratio_loop": loop / ours,
        "ratio_faiss": search / ours,
        "map_all": result.mean_ap(),
        "map_all_interval": result.interval(),
        "map_all_loop": loop_and_argsort(*floats, *hot, items),
    }


def linearity(queries: int, sizes: list[int], bits: int, repeat: int) -> list[dict[str, Any]]:
    """Seconds and peak allocated memory of an evaluation, for growing databases of packed codes."""
    rng = np.random.default_rng(1)
    query = pack(np.where(rng.random((queries, bits)) < 0.5, -1, 1).astype(np.int8))
    query_labels = rng.integers(0, 10, queries)
    rows = []
    for items in sizes:
        words = rng.integers(0, 2**64, (items, -(-bits // 64)), dtype=np.uint64)
        words[:, -1] &= np.uint64(2 ** (bits - 64 * (words.shape[1] - 1)) - 1)
        database, labels = PackedCodes(words, bits), rng.integers(0, 10, items)
        cutoffs = cutoffs_within(items)

        def run(
            database: PackedCodes = database,
            labels: np.ndarray = labels,
            cutoffs: tuple[int | None, ...] = cutoffs,
        ) -> Evaluation:
            return evaluate_codes(query, database, query_labels, labels, cutoffs)

        seconds = best(run, repeat)
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(
            {
                "items": items,
                "seconds": seconds,
                "nanoseconds_per_pair": 1e9 * seconds / (queries * items),
                "peak_bytes": peak,
                "bytes_of_codes_and_labels": words.nbytes + labels.nbytes,
                "bytes_of_a_distance_matrix": 2 * queries * items,
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, print its tables, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--items", type=int, default=59000)
    parser.add_argument("--bits", type=int, default=64, help="a multiple of 8, for FAISS")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--largest", type=int, default=1_000_000, help="items of the last size")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args(arguments)
    numba.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    top = min(TOP, options.items)
    record = {
        "threads": options.threads,
        "load_before": os.getloadavg()[0],
        "processor": platform.processor() or platform.machine(),
        "versions": {m.__name__: m.__version__ for m in (np, numba, faiss)},
        "comparison": compare(options.queries, options.items, options.bits, options.repeat, top),
        "linearity": linearity(
            options.queries,
            [options.largest // part for part in (8, 4, 2, 1)],
            options.bits,
            max(1, options.repeat // 3),
        ),
    }
    record["load_after"] = os.getloadavg()[0]
    _show(record, top)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _show(record: dict[str, Any], top: int) -> None:
    row = record["comparison"]
    print(
        f"{row['queries']} queries x {row['items']} items, {row['bits']} bits, "
        f"{record['threads']} threads, load {record['load_before']:.1f}"
    )
    title = f"evaluate_codes, cut-offs {row['cutoffs']}"
    print(f"{'way':60}{'seconds':>10}{'ratio':>9}")
    print(f"{title:60}{row['seconds']:10.4f}{1:9.1f}")
    for name, seconds, ratio in (
        ("loop and argsort, one cut-off", "seconds_loop_one_cutoff", "ratio_loop"),
        (f"FAISS search alone, top {top}", f"seconds_faiss_top_{top}", "ratio_faiss"),
    ):
        print(f"{name:60}{row[seconds]:10.4f}{row[ratio]:9.1f}")
    low, high = row["map_all_interval"]
    print(
        f"mAP: expected {row['map_all']:.6f} within [{low:.6f}, {high:.6f}], "
        f"loop {row['map_all_loop']:.6f}\n"
    )
    print(f"{'items':>10}{'seconds':>10}{'ns/pair':>10}{'peak MB':>10}{'codes+labels MB':>18}")
    for line in record["linearity"]:
        print(
            f"{line['items']:10d}{line['seconds']:10.4f}{line['nanoseconds_per_pair']:10.3f}"
            f"{line['peak_bytes'] / 2**20:10.1f}{line['bytes_of_codes_and_labels'] / 2**20:18.1f}"
        )


if __name__ == "__main__":
    main()
