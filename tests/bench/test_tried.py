"""Tables of a search over settings."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from cbir_lite.bench.tried import tried_alone, tried_together
from cbir_lite.methods import registry


def _records(*runs: tuple[str, dict[str, Any], float]) -> pd.DataFrame:
    rows = [
        {"method": m, "bits": 32, "params": json.dumps(p), "map_all": value} for m, p, value in runs
    ]
    return pd.DataFrame(rows)


def test_a_setting_stands_beside_the_card_and_a_gain_is_clear_above_every_seed() -> None:
    table = tried_alone(
        _records(
            ("dvsq", {}, 0.50),
            ("dvsq", {}, 0.54),
            ("dvsq", {"gain": 5.0}, 0.55),
            ("dvsq", {"gain": 5.0}, 0.57),
            ("dvsq", {"gain": 40.0}, 0.53),
            ("dvsq", {"gain": 40.0}, 0.60),
            ("dvsq", {"gain": 5.0, "lr": 0.1}, 0.9),
            ("drdh", {"play": 0.1}, 0.7),
        )
    )
    assert list(table.index) == [("dvsq", "gain")]
    row = table.iloc[0]
    assert row["card"] == registry.get("dvsq").parameters()["gain"]
    assert row["map_all"] == pytest.approx(0.52)
    assert row["gain of other values"] == "40.0: +0.045; 5.0: +0.040, clear"


def test_a_search_without_the_cards_own_values_is_shown_as_it_is() -> None:
    records = _records(
        ("dvsq", {}, 0.5),
        ("dvsq", {"gain": 5.0}, 0.6),
        ("drdh", {"play": 0.1}, 0.7),
        ("drdh", {"play": 0.1}, 0.8),
    )
    table = tried_together(records)
    assert list(table.index) == [("drdh", 32, '{"play": 0.1}')]
    assert table.iloc[0].to_dict() == pytest.approx(
        {"mean": 0.75, "min": 0.7, "max": 0.8, "count": 2}
    )
