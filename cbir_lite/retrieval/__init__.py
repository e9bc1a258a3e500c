"""Codes, Hamming ranking and tie-aware metrics (survey, Section II-A). NumPy and Numba only."""

from cbir_lite.retrieval.codes import (
    PackedCodes,
    bit_balance,
    bit_correlation,
    distinct_codes,
    pack,
    unpack,
)
from cbir_lite.retrieval.compatibility import stable_sort_ap
from cbir_lite.retrieval.curves import PrecisionRecall, curve_by_radius, curve_by_rank
from cbir_lite.retrieval.distances import cosine_distances, distance_blocks, l2_distances
from cbir_lite.retrieval.evaluation import (
    DEFAULT_CUTOFFS,
    cutoffs_within,
    evaluate_codes,
    evaluate_distances,
)
from cbir_lite.retrieval.hamming import (
    hamming_distance_blocks,
    hamming_distances,
    hamming_histograms,
)
from cbir_lite.retrieval.landmarks import (
    LandmarkScores,
    as_distances,
    landmark_scores,
    revisited_scores,
)
from cbir_lite.retrieval.result import Evaluation
from cbir_lite.retrieval.ties import DENOMINATORS, tie_aware_ap
from cbir_lite.retrieval.topk import top_k

__all__ = [
    "DEFAULT_CUTOFFS",
    "DENOMINATORS",
    "Evaluation",
    "LandmarkScores",
    "PackedCodes",
    "PrecisionRecall",
    "as_distances",
    "bit_balance",
    "bit_correlation",
    "cosine_distances",
    "curve_by_radius",
    "curve_by_rank",
    "cutoffs_within",
    "distance_blocks",
    "distinct_codes",
    "evaluate_codes",
    "evaluate_distances",
    "hamming_distance_blocks",
    "hamming_distances",
    "hamming_histograms",
    "l2_distances",
    "landmark_scores",
    "pack",
    "revisited_scores",
    "stable_sort_ap",
    "tie_aware_ap",
    "top_k",
    "unpack",
]
