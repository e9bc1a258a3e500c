"""The table of verdicts is taken from the outputs of executed chapters."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from book import claims
from cbir_lite import survey
from cbir_lite.bench.compare import Difference
from cbir_lite.plots import verdict

IDS = list(survey.claims())


def chapter(folder: Path, name: str, *said: object) -> Path:
    """An executed notebook whose cells displayed these verdicts."""
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": v._repr_html_()})  # type: ignore[attr-defined]
        for v in said
    ]
    other = nbformat.v4.new_output("stream", text="nothing to see")
    cell = nbformat.v4.new_code_cell("", outputs=[other, *outputs])
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_verdicts_of_all_chapters_stand_in_the_order_of_the_survey(tmp_path: Path) -> None:
    d = Difference(-0.1, -0.2, -0.05, 7)
    first = chapter(tmp_path, "b", verdict(IDS[3], "mixed", "so so", measure="gain", by=d))
    second = chapter(tmp_path, "a", verdict(IDS[0], "untestable", "needs the data"))
    frame = claims.collect([first, second], "smoke")
    assert list(frame.columns) == list(claims.COLUMNS)
    assert frame["claim"].tolist() == [IDS[0], IDS[3]]
    assert frame["chapter"].tolist() == ["a", "b"]
    assert frame.loc[1, ["value", "low", "high", "n"]].tolist() == [-0.1, -0.2, -0.05, 7]
    assert frame["scale"].unique().tolist() == ["smoke"]


def test_two_chapters_do_not_speak_on_one_claim(tmp_path: Path) -> None:
    files = [chapter(tmp_path, n, verdict(IDS[0], "mixed", n)) for n in ("a", "b")]
    with pytest.raises(ValueError, match=rf"{IDS[0]} has a verdict in a and in b"):
        claims.collect(files, "smoke")
