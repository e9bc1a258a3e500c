"""Figures and tables in one style. Every function returns the axes and shows nothing.

Imports the survey's data, Matplotlib, NumPy and pandas; no torch.
"""

from cbir_lite.plots.agreement import agreement
from cbir_lite.plots.curves import map_by_bits, pr_curve, precision_at_k
from cbir_lite.plots.diagrams import network_diagram
from cbir_lite.plots.grids import describe_grid, retrieval_grid
from cbir_lite.plots.heatmap import facet_counts, facet_heatmap
from cbir_lite.plots.style import OKABE_ITO, PAGE_WIDTH, use
from cbir_lite.plots.table_html import to_html
from cbir_lite.plots.tables import reported_measured
from cbir_lite.plots.timeline import timeline
from cbir_lite.plots.tree import taxonomy_tree
from cbir_lite.plots.verdicts import Verdict, verdict

__all__ = [
    "OKABE_ITO",
    "PAGE_WIDTH",
    "Verdict",
    "agreement",
    "describe_grid",
    "facet_counts",
    "facet_heatmap",
    "map_by_bits",
    "network_diagram",
    "pr_curve",
    "precision_at_k",
    "reported_measured",
    "retrieval_grid",
    "taxonomy_tree",
    "timeline",
    "to_html",
    "use",
    "verdict",
]
