import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cbir_lite.datasets import Split
from cbir_lite.methods import registry
from cbir_lite.methods.networks import Dropout

from .bench_training import main, with_torchs_own


def test_the_script_prints_ratios_and_writes_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    words = ["--protocol", "digits", "--backbone", "pixels", "--epochs", "3", "--seeds", "2"]
    main([*words, "--systems", "greedyhash", "--bits", "8", "--json", str(path)])
    (row,) = json.loads(path.read_text())["systems"]
    assert row["ratio"] == pytest.approx(row["seconds_own"] / row["seconds"])
    assert row["difference"] == pytest.approx(sum(row["map"]) / 2 - sum(row["map_own"]) / 2)
    assert "greedyhash" in capsys.readouterr().out


def test_the_other_way_is_really_pytorchs_own() -> None:
    x = torch.rand(20, 5).numpy()
    y = torch.eye(2, dtype=torch.uint8)[torch.arange(20) % 2].numpy()
    params = {"bits": 4, "epochs": 1, "width": 8}
    ours, plain = registry.get("greedyhash"), with_torchs_own(registry.get("greedyhash"))
    kinds = [
        {type(m) for m in cls(**params).fit(Split(x, y)).network_.modules()}
        for cls in (ours, plain)
    ]
    assert (Dropout in kinds[0], nn.Dropout in kinds[0]) == (True, False)
    assert (Dropout in kinds[1], nn.Dropout in kinds[1]) == (False, True)
    weights = [nn.Parameter(torch.zeros(1))]
    assert ours(**params).adam(weights).defaults["fused"]
    assert not plain(**params).adam(weights).defaults["fused"]
