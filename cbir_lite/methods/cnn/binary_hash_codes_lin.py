"""Deep learning of binary hash codes [51]: the latent layer (survey Sections II-B, IV-A, VI-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.methods.cnn._semantic import LatentLayer
from cbir_lite.methods.deep import Batch


@dataclass(kw_only=True, eq=False)
class LatentHash(LatentLayer):
    r"""A sigmoid layer before a classifier turns out to be a hash layer.

    Nothing but the classification error is minimised. Since the classes depend on the latent units,
    their rounded activations are codes. Search has two stages: codes give a pool of
    candidates, and :meth:`refine` puts the pool in order of the distance between the real-valued
    activations of the layer below. The records of this package rank by the codes alone.

    :survey: Sections II-B, IV-A, VI-A; Table I
    :cite: lin2015dlbhc
    :source: the authors' public Caffe code of the successor SSDH, whose layers are the same, and
        the survey; the search in two stages from a public summary of the paper
    :objective: \min\ -\mathrm{mean}_i\log p(y_i|x_i),\quad
        p(y|x)=\mathrm{softmax}(W a+c),\ a=\sigma(z),\ b_k=1\text{ if }a_k\ge\tfrac12
    :shapes: x (n, d), labels (n, C); z (n, bits); codes int8 (n, bits)
    :defaults: none besides those of every deep system
    :departures: AlexNet fine-tuned end to end is replaced by a hidden layer on frozen features,
        which also serves as the layer of the second stage; images with several labels get binary
        cross entropy; Adam with cosine decay instead of SGD
    :fidelity: simplified
    """

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The classification error."""
        a = self.network_(batch.x).sigmoid()
        return {"classification": self.classification(a, batch.labels)}

    def refine(
        self, query: NDArray[Any], database: NDArray[Any], pool: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Candidates in order of Euclidean distance between hidden activations.

        Args:
            query: inputs (q, ...).
            database: inputs (m, ...).
            pool: rows of the database that each query shall order, (q, p), e.g. the first by
                Hamming distance.

        Returns:
            (q, p), each row of ``pool`` from the nearest to the farthest.
        """
        if pool.ndim != 2 or len(pool) != len(query):
            raise ValueError(f"pool must be (q, p) with q={len(query)} queries, got {pool.shape}")
        self._require_fit()
        trunk: Any = self.network_.trunk
        hidden = self._in_blocks(trunk, query), self._in_blocks(trunk, database)
        candidates = torch.from_numpy(pool)
        order = [
            (hidden[1][row] - h).square().sum(1).argsort(stable=True)
            for h, row in zip(hidden[0], candidates, strict=True)
        ]
        return np.asarray(candidates.gather(1, torch.stack(order)))
