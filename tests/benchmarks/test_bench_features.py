import json
from pathlib import Path

import pytest

from cbir_lite.features.runtimes import processor_has_bf16

from .bench_features import main


def test_the_script_prints_ratios_and_writes_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBIR_LITE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bench.json"
    words = ["--dataset", "digits", "--images", "40", "--size", "32", "--repeat", "1"]
    words += ["--threads", "1", "--json", str(path)]
    wanted = 2
    if processor_has_bf16():
        wanted = 3
        words += ["--map", "--protocol", "digits", "--parts", "20", "100", "200"]
        words += ["--map-size", "32", "--bits", "8", "--seeds", "2"]
    main(words)
    record = json.loads(path.read_text())
    assert len(record["speeds"]) == wanted
    for row in record["speeds"]:
        assert row["images_per_second"] == pytest.approx(40 / row["seconds"])
        assert row["ratio"] == pytest.approx(record["speeds"][0]["seconds"] / row["seconds"])
        assert row["cosine_mean"] > 0.98
    printed = capsys.readouterr().out
    assert "openvino f32" in printed
    for row in record.get("map", []):
        assert len(row["map_f32"]) == len(row["map_bf16"]) == 2
        assert abs(row["difference"]) < 0.1
        assert row["system"] in printed
