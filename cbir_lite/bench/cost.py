"""What a grid still has to do, and how long that takes by what is measured already."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cbir_lite.bench.records import IDENTITY
from cbir_lite.bench.run import Spec

SECONDS = ("train_seconds", "encode_seconds", "eval_seconds")
"""Columns of a record that make up the time of its run."""


def missing(specs: Sequence[Spec], records: pd.DataFrame) -> list[Spec]:
    """Those specs that lack a record of one of their protocols by the systems' present code."""
    done = {tuple(map(str, row)) for row in records[list(IDENTITY)].itertuples(index=False)}
    return [s for s in specs if not done.issuperset(s.identities())]


def expected_seconds(specs: Sequence[Spec], records: pd.DataFrame) -> pd.Series:
    """Seconds of one thread (len(specs),) that each run takes; NaN where nothing is known.

    The least that the system needed on the spec's first protocol: with as many bits, or, if there
    is no such record, with any. The least is that of the fastest machine that measured it.
    """
    seconds = records[list(SECONDS)].sum(axis=1)
    where = [records["method"], records["protocol"]]
    of_length = seconds.groupby([*where, records["bits"]]).min().to_dict()
    of_any = seconds.groupby(where).min().to_dict()
    found = [
        of_length.get((s.method, s.protocols[0], s.bits), of_any.get((s.method, s.protocols[0])))
        for s in specs
    ]
    return pd.Series(found, dtype=float)
