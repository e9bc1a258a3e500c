"""Every chapter runs at SCALE=smoke, says what it must, and measures what makes sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from book import build

CHAPTERS = build.notebooks()
GLUED: dict[str, dict[str, tuple[float, float]]] = {
    "01_introduction": {
        "handcrafted_map": (0.6, 0.85),
        "metric_map": (0.55, 0.8),
        "deep_map": (0.4, 0.65),
        "ring_linear": (0.5, 0.75),
        "ring_network": (0.9, 1.0),
    },
    "02_background": {
        "hand_ap": (0.69, 0.70),
        "hand_ap4_found": (0.80, 0.81),
        "whole_ranking_spread": (0.0, 1e-9),
        "itq_32_map": (0.35, 0.75),
        "dpsh_map": (0.45, 0.9),
    },
    "03_evolution": {
        "autoencoder_map": (0.4, 0.65),
        "random_map": (0.08, 0.15),
        "dpsh_map": (0.45, 0.7),
        "hashnet_map": (0.65, 0.9),
        "greedyhash_map": (0.6, 0.85),
        "pgdh_map": (0.35, 0.6),
    },
    "03b_recent_years": {
        "dqn_map": (0.55, 0.8),
        "dhn_map": (0.6, 0.85),
        "dsq_map": (0.65, 0.9),
        "tbh_map": (0.25, 0.5),
        "raw_precision": (0.45, 0.7),
        "distilled_precision": (0.55, 0.8),
    },
    "04_supervision": {
        "pairs_map": (0.45, 0.7),
        "classes_map": (0.6, 0.85),
        "all_terms": (-0.1, 0.1),
    },
    "04b_less_supervision": {
        "classes_map": (0.6, 0.85),
        "unsupervised_map": (0.4, 0.65),
        "label_gain": (0.1, 0.35),
        "tags_map": (0.2, 0.4),
        "flips_with": (0.27, 0.47),
    },
    "05_networks": {
        "shelf_map": (0.4, 0.65),
        "autoencoder_l2": (0.35, 0.6),
        "triplet_order": (0.8, 1.0),
    },
    "05b_network_families": {
        "entropy_both": (0.8, 1.0),
        "policy_map": (0.35, 0.6),
    },
    "06_descriptors": {
        "hamming_speed": (3.5, 55.0),
        "lost_short": (0.0, 0.25),
        "collisions_short": (0.55, 0.8),
        "collisions_long": (0.0, 0.2),
        "scene_best_map": (0.45, 0.7),
    },
    "07_retrieval_types": {
        "text_to_image": (0.4, 0.65),
        "untied": (0.1, 0.35),
    },
    "07b_sketches_and_labels": {
        "sketch_seen": (0.3, 0.5),
        "sketch_chance": (0.1, 0.2),
    },
    "07c_retrieval_objects": {
        "turned_one": (0.8, 1.0),
        "turned_pooled": (0.8, 1.0),
        "object_region": (0.15, 0.4),
    },
    "08_losses_applications": {
        "best_loss": (0.65, 0.9),
        "worst_loss": (0.58, 0.78),
        "triplet": (0.65, 0.9),
    },
    "10_conclusions": {
        "best_ten": (0.75, 1.0),
        "noise_left": (0.6, 0.85),
        "wins": (0.31, 0.32),
        "win_owners": (3, 3),
    },
    "09_performance": {
        "cells_needs_the_data": (173, 173),
        "cells_measured": (38, 161),
        "printed_series": (106, 106),
        "printed_dips": (13, 13),
        "rising_printed": (1.0, 1.0),
        "ratio_median": (0.9, 1.6),
        "same_k": (0.0, 1e-9),
        "live_map": (0.35, 0.75),
        "winners_own": (29, 29),
        "winners_own_chance": (10.3, 10.5),
        "measured_beyond": (8, 14),
    },
}
"""Glued numbers of a chapter and the range each must lie in at smoke scale."""


def glued(notebook: Any) -> dict[str, Any]:
    """What the cells of an executed chapter glued, by key."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                data = output["data"]
                found[name] = data["application/papermill.record/text/plain"]
    return found


@pytest.fixture(scope="session")
def executed() -> dict[str, Any]:
    """All chapters after one run at smoke scale."""
    build.run_chapters("smoke")
    folder = build.stage_dir("smoke") / "notebooks"
    return {c.stem: nbformat.read(folder / c.name, as_version=4) for c in CHAPTERS}


@pytest.mark.notebooks
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_chapter_runs_and_its_numbers_make_sense(chapter: Path, executed: dict[str, Any]) -> None:
    notebook = executed[chapter.stem]
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code if c.source.strip())
    numbers = glued(notebook)
    assert numbers, "no glued value"
    for key, (low, high) in GLUED[chapter.stem].items():
        assert low <= float(numbers[key]) <= high, key


def test_every_chapter_has_numbers_to_check() -> None:
    assert set(GLUED) == {chapter.stem for chapter in CHAPTERS}
    assert [stem for stem, ranges in GLUED.items() if not ranges] == []


@pytest.mark.notebooks
def test_a_failing_cell_names_chapter_and_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        cells=[
            nbformat.v4.new_code_cell(
                'SCALE = "book"', metadata={"tags": ["parameters"]}, id="parameters"
            ),
            nbformat.v4.new_code_cell('raise ValueError("broken on purpose")', id="broken"),
        ],
    )
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "99_broken.ipynb"
    nbformat.write(notebook, source)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build, "digest", lambda *_: "stamp")
    with pytest.raises(build.ChapterFailed, match=r"99_broken\.ipynb, cell .*broken on purpose"):
        build.run_chapter(source, "smoke")
    left = list((tmp_path / "_build" / "stage-smoke" / "notebooks").iterdir())
    assert left == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_chapter_is_whole_and_carries_no_outputs(chapter: Path) -> None:
    notebook = nbformat.read(chapter, as_version=4)
    text = "\n".join(c.source for c in notebook.cells)
    for part in (
        "What you will learn",
        "Survey sections",
        "Prerequisites",
        "## Summary",
        "## Exercises",
        "```{exercise}",
        "{solution}",
        "```{bibliography}",
        "verdict(",
    ):
        assert part in text, f"{chapter.name} lacks {part}"
    assert text.count("{exercise}") >= 2
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    parameters = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    assert parameters[0].source.startswith('SCALE = "book"')
    assert len(notebook.cells) <= 40
    for cell in code:
        if "plt.show()" in cell.source:
            myst = cell.metadata.get("mystnb", {})
            assert myst.get("image", {}).get("alt"), f"{chapter.name}: a figure without alt text"
            assert myst.get("figure", {}).get("caption")
