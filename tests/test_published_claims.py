"""The committed verdicts: one for every claim of the survey, each with its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cbir_lite
from cbir_lite import survey

TREE = Path(cbir_lite.__file__).parents[1]


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.read_csv(TREE / "book" / "results" / "claims.csv")


def test_every_claim_has_one_verdict(published: pd.DataFrame) -> None:
    assert published["claim"].tolist() == list(survey.claims())
    assert set(published["verdict"]) <= {"supported", "contradicted", "mixed", "untestable"}
    assert set(published["scale"]) == {"full"}
    sections = [survey.claim(c).section for c in published["claim"]]
    assert published["section"].tolist() == sections


def test_every_verdict_comes_from_a_chapter_and_says_why(published: pd.DataFrame) -> None:
    chapters = {path.stem for path in (TREE / "notebooks").glob("*.ipynb")}
    assert set(published["chapter"]) <= chapters
    assert (published["note"].str.len() > 20).all()


def test_what_was_tested_has_a_measure_and_a_finite_value(published: pd.DataFrame) -> None:
    tested = published[published["verdict"] != "untestable"].set_index("claim")
    assert tested.index[tested["measure"].fillna("").str.strip() == ""].tolist() == []
    assert tested.index[~np.isfinite(tested["value"])].tolist() == []
    by = tested.dropna(subset=["low", "high"])
    assert by.index[~((by["low"] <= by["value"]) & (by["value"] <= by["high"]))].tolist() == []
    assert by.index[~(by["n"] > 0)].tolist() == []
    # An interval has two ends or none.
    assert tested.index[tested["low"].isna() != tested["high"].isna()].tolist() == []
