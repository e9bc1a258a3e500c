"""Search by detection: object-level features [126] (survey Sections V-A, VII-E)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbir_lite.features import aggregation as A
from cbir_lite.methods.base import Descriptors
from cbir_lite.methods.cnn._aggregation import BLOCK, BUDGET, MapReader, evenly


def windows(h: int, w: int) -> Tensor:
    """Every rectangle of places as a mask (R, h w) of zeros and ones; the whole map is the last."""

    def spans(length: int) -> Tensor:
        pairs = [(a, b) for a in range(length) for b in range(a + 1, length + 1)]
        pairs.sort(key=lambda p: p[1] - p[0])
        places = torch.arange(length)
        return torch.stack([(places >= a) & (places < b) for a, b in pairs]).float()

    rows, columns = spans(h), spans(w)
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(-1, h * w)


def detect(maps: Tensor, masks: Tensor, count: int, overlap: float) -> Tensor:
    """Rows of ``masks`` (R, P) that are the objects of each map, int64 (n, count).

    The objectness of a window is the sum of what its places fire above the mean of the map. After
    the best one, windows whose intersection over union with it exceeds ``overlap`` are dropped,
    then the next best one is taken. Where no window is left, the best one is repeated.
    """
    energy = maps.sum(3).flatten(1)
    score = (energy - energy.mean(1, keepdim=True)) @ masks.T
    size = masks.sum(1)
    shared = masks @ masks.T
    near = shared / (size[:, None] + size - shared) > overlap
    found: list[Tensor] = []
    for _ in range(count):
        best = score.argmax(1)
        gone = score.gather(1, best[:, None]).squeeze(1) == -torch.inf
        found.append(torch.where(gone, found[0], best) if found else best)
        score = score.masked_fill(near[best], -torch.inf)
    return torch.stack(found, 1)


@dataclass(kw_only=True, eq=False)
class SearchByDetection(MapReader):
    r"""Detect the objects first, then describe each one and look for it in the other image.

    One vector for a whole image mixes the object with its surroundings. Here a general detector of
    objects proposes a few regions, whatever their class, and each has a feature of its own, as has
    the image as a whole. In the search the regions of the query are matched with those of a
    database image one by one, no region twice, in the way that makes the matched features closest.

    :survey: Sections V-A, VII-E
    :cite: sun2014detection
    :source: the survey's row and sentence, and the abstract of the first author's later work (few
        regions from a general object detector, each with a learned feature); the paper could not
        be had, so detection and matching are as described here
    :objective: d(q,x)=\min_{\pi}\frac1K\sum_{k=1}^K\big(1-f(q_k)^\top f(x_{\pi(k)})\big),\quad
        f(r)=\mathrm{norm}\Big(P^\top\big(\mathrm{norm}(\tfrac1{|r|}\sum_{p\in r}\phi(p))-\mu\big)
        \Big)
    :shapes: maps x (n, h, w, d); K = regions + 1; descriptors float32 (n, K bits); the whole image
        comes first
    :defaults: regions = 3, overlap = 0.5 of windows, whiten = 0.5 of the components; chosen here
    :departures: the detector is not a trained one: windows of the maps that hold most of what fires
        above the mean are the objects; regions are windows of one run of the network, not images
        of their own; features are compared exhaustively, not in an index; no SIFT features beside
        them
    :fidelity: sketch
    """

    regions: int = 3
    overlap: float = 0.5
    whiten: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.regions <= 5:
            raise ValueError(
                f"regions={self.regions}: all orders of matching are tried, use 0 to 5"
            )

    def features(self, maps: Tensor) -> Tensor:
        """Means over the whole image and over the detected regions, unit length (n, K, d)."""
        masks = windows(*maps.shape[1:3])
        found = detect(maps, masks, self.regions, self.overlap) if self.regions else None
        places = maps.flatten(1, 2)
        whole = places.mean(1, keepdim=True)
        if found is None:
            return A.l2n(whole)
        share = masks / masks.sum(1, keepdim=True)
        return A.l2n(torch.cat([whole, share[found] @ places], 1))

    def learn(self, x: NDArray[Any]) -> None:
        """Principal components of the training images' regions."""
        rows = evenly(len(x), BUDGET // ((self.regions + 1) * x.shape[-1]))
        parts = [
            self.features(torch.from_numpy(self._check(x[rows[a : a + BLOCK]], a)))
            for a in range(0, len(rows), BLOCK)
        ]
        vectors = torch.cat(parts).flatten(0, 1)
        self.keep("object", A.principal_whitening(vectors, self.bits, self.whiten))

    def describe(self, maps: Tensor) -> Tensor:
        """Features (n, K bits) of the image and its objects, each of the same length."""
        return self.axes("object")(self.features(maps)).flatten(1)

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Features of image and objects, each of unit length, float32 (n, K bits)."""
        f: Descriptors = super().embed(x) * np.float32((self.regions + 1) ** 0.5)
        return f

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """One minus the mean cosine of the best one-to-one matching, (n_queries, n_database)."""
        K = self.regions + 1
        q, b = (
            np.asarray(side, np.float32).reshape(len(side), K, -1) for side in (queries, database)
        )
        cosine = [[q[:, k] @ b[:, j].T for j in range(K)] for k in range(K)]
        best = np.full((len(q), len(b)), -np.inf, np.float32)
        for order in permutations(range(K)):
            total = sum((cosine[k][j] for k, j in enumerate(order)), np.float32(0))
            np.maximum(best, total, out=best)
        d: NDArray[np.float32] = 1 - best / np.float32(K)
        return d
