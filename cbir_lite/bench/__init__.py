"""Specs to records: settings, runs, resumable grids, and the records themselves."""

from cbir_lite.bench.compare import Difference, difference, listed, together, weakest
from cbir_lite.bench.grid import load_suite, run_grid, suite_names
from cbir_lite.bench.lab import Lab
from cbir_lite.bench.pairs import PairSetting, home_protocol, open_setting
from cbir_lite.bench.records import COLUMNS, read_records, write_records
from cbir_lite.bench.run import Spec, run
from cbir_lite.bench.setting import SCALES, Setting, at_scale

__all__ = [
    "COLUMNS",
    "SCALES",
    "Difference",
    "Lab",
    "PairSetting",
    "Setting",
    "Spec",
    "at_scale",
    "difference",
    "home_protocol",
    "listed",
    "load_suite",
    "open_setting",
    "read_records",
    "run",
    "run_grid",
    "suite_names",
    "together",
    "weakest",
    "write_records",
]
