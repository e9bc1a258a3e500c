"""Small experiments of the chapters: one setting, one code length, one training budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbir_lite._workers import quick_training
from cbir_lite.bench.setting import SCALES, Setting, at_scale
from cbir_lite.datasets import Split
from cbir_lite.datasets.split import SHOWS
from cbir_lite.methods import registry
from cbir_lite.methods.base import Method
from cbir_lite.retrieval import distance_blocks, evaluate_distances
from cbir_lite.retrieval.distances import Distance

SHORT_EPOCHS = {"smoke": 10, "book": 8, "full": 30}
"""Epochs of a chapter's experiment: a reader's laptop has minutes, published records have hours."""
PART = {"smoke": (None,) * 3, "book": (500, 3000, 10000), "full": (None,) * 3}
"""Queries, training and database images of a chapter's experiment (None: all of the setting)."""


@dataclass
class Lab:
    """What every run of a chapter shares.

    Its process multiplies matrices as the workers of a grid do from then on, see
    :func:`~cbir_lite._workers.quick_training`.

    Args:
        setting: images, features and labels.
        bits: code length.
        epochs: of systems that are trained in epochs.
        seeds: of repeated runs.

    >>> lab = Lab(Setting("digits", "pixels"), bits=16, epochs=5)
    >>> lab.ap(lab.train("itq")).shape
    (200,)
    """

    setting: Setting
    bits: int = 32
    epochs: int = 8
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        quick_training()

    @classmethod
    def at(cls, scale: str, bits: int = 32, *, progress: bool = False) -> Lab:
        """The lab of a chapter at ``smoke``, ``book`` or ``full`` size."""
        setting = at_scale(scale, progress=progress)
        if PART[scale][0] is not None:
            setting = setting.subset(*PART[scale])
        return cls(setting, bits, SHORT_EPOCHS[scale], SCALES[scale].seeds)

    def describe(self) -> str:
        """One sentence with the sizes, for the reader."""
        frozen = self.setting.frozen
        return (
            f"{self.setting.backbone}: {len(frozen.query)} queries, {len(frozen.train)} training "
            f"images, {len(frozen.database)} database images; {self.bits} bits, {self.epochs} "
            f"epochs, seeds {tuple(self.seeds)}"
        )

    def create(self, system: str | type[Method], **params: Any) -> Method:
        """An unfitted system, by id or class, with the lab's bits and epochs unless given."""
        cls = registry.get(system) if isinstance(system, str) else system
        shared: dict[str, Any] = {"bits": self.bits}
        if "epochs" in cls.parameters():
            shared["epochs"] = self.epochs
        params = {**shared, **params}
        return registry.create(system, **params) if isinstance(system, str) else cls(**params)

    def train(
        self,
        system: str | type[Method],
        *,
        labels: NDArray[np.uint8] | None = None,
        options: dict[str, Any] | None = None,
        **params: Any,
    ) -> Method:
        """A fitted system.

        ``labels`` (n_train, C) replace those of the training images, where the system sees them;
        ``options`` go to :meth:`Setting.split`, e.g. ``labelled_fraction``.
        """
        method = self.create(system, **params)
        split = self.setting.split(method, **(options or {}))
        if labels is not None:
            split = _relabelled(split, labels)
        return method.fit(split)

    def ap(self, method: Method) -> NDArray[np.float64]:
        """AP of each query over the whole ranking, as the system ranks.

        Shape (n_queries,); queries without anything relevant are left out, here and below.
        """
        return self.setting.evaluate(method, cutoffs=(None,), no_relevant="skip").ap[None, "all"]

    def runs(
        self, system: str | type[Method], seeds: Sequence[int] | None = None, **options: Any
    ) -> NDArray[np.float64]:
        """AP (n_seeds, n_queries) of a system trained with each seed."""
        chosen = self.seeds if seeds is None else seeds
        return np.stack([self.ap(self.train(system, seed=s, **options)) for s in chosen])

    def ranked(
        self, queries: NDArray[Any], database: NDArray[Any], metric: str | Distance = "cosine"
    ) -> NDArray[np.float64]:
        """AP of each query for vectors of the two sides, ranked by a distance."""
        rows = self.setting.labels
        blocks = distance_blocks(queries, database, metric)
        result = evaluate_distances(
            blocks,
            rows[self.setting.frozen.query],
            rows[self.setting.frozen.database],
            cutoffs=(None,),
            no_relevant="skip",
        )
        return result.ap[None, "all"]

    def chance(self) -> NDArray[np.float64]:
        """AP of each query if all distances are equal: the exact mean over all orders."""
        rows = self.setting.frozen.query, self.setting.frozen.database
        return self.ranked(*rows, lambda q, d: np.zeros((len(q), len(d)), np.float32))

    def relaxed(self, method: Method) -> NDArray[np.float64]:
        """AP of each query before the sign: cosine of the real-valued outputs."""
        queries, database = (
            method.embed(self.setting.rows(part, method.reads)) for part in ("query", "database")
        )
        return self.ranked(queries, database)


def _relabelled(split: Split, labels: NDArray[np.uint8]) -> Split:
    """The split with other labels (n, C); the rows that show theirs stay the same."""
    return Split(
        split.x,
        labels,
        split.supervision,
        split.indices,
        split.labelled if SHOWS[split.supervision] == "some" else None,
        split.database,
        split.views,
        split.other,
        split.parts,
        split.semantics,
    )
