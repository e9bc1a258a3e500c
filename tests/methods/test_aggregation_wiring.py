"""What each system aggregates, against loops over places and channels in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Method
from cbir_lite.methods.cnn._aggregation import Aggregation
from cbir_lite.methods.registry import classes, create

Map = NDArray[np.float64]
N, H, W, D = 40, 4, 5, 6


def some_maps(n: int, seed: int) -> NDArray[np.float32]:
    """Maps (n, H, W, D) as after a rectifier: half of the activations are zero."""
    x = np.random.default_rng(seed).standard_normal((n, H, W, D))
    # Channels of their own strength, so that exchanging two is seen.
    return np.maximum(x * np.linspace(0.5, 2, D), 0).astype(np.float32)


def some_images(n: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 9, 8, 3), dtype=np.uint8)


def places() -> Iterator[tuple[int, int]]:
    return ((r, c) for r in range(H) for c in range(W))


def unit(v: Map) -> Map:
    length = math.sqrt(sum(float(a) ** 2 for a in v))
    return v / length if length > 0 else v * 0


def signed_root(v: Map) -> Map:
    return np.array([math.copysign(math.sqrt(abs(a)), a) for a in v])


def reduced(method: Any, m: Map) -> list[Map]:
    """The local vectors of a map, of unit length before and after the local axes."""
    rows = m.reshape(-1, m.shape[-1])
    return [unit((unit(row) - method.local_mean_) @ method.local_axes_) for row in rows]


def by_distance(method: Any, z: Map) -> list[int]:
    """The words of a codebook from the nearest on."""
    return sorted(range(len(method.words_)), key=lambda k: math.dist(z, method.words_[k]))


def scda(method: Any, m: Map) -> Map:
    total = {p: sum(m[p]) for p in places()}
    above = {p for p in places() if total[p] > sum(total.values()) / (H * W)}
    largest: list[tuple[int, int]] = []
    for start in places():
        part, new = [], [start] if start in above else []
        while new:
            r, c = new.pop()
            if (r, c) in above:
                above.remove((r, c))
                part.append((r, c))
                new += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        largest = part if len(part) > len(largest) else largest
    mean = np.array([sum(m[p][k] for p in largest) / len(largest) for k in range(D)])
    top = np.array([max(m[p][k] for p in largest) for k in range(D)])
    return np.concatenate([unit(mean), unit(top)])


def pwa(method: Any, m: Map) -> Map:
    sums = []
    for detector in method.detectors_:
        norm = sum(m[p][detector] ** method.a for p in places()) ** (1 / method.a)
        total = np.zeros(D)
        for p in places():
            total += (m[p][detector] / max(norm, 1e-12)) ** (1 / method.b) * m[p]
        sums.append(total)
    return np.concatenate(sums)


def cooccurrence(method: Any, m: Map) -> Map:
    mean = sum(sum(m[p]) for p in places()) / (H * W * D)
    f = np.zeros(D)
    for r, c in places():
        for k in range(D):
            if m[r, c, k] <= mean:
                continue
            around = 0.0
            for i, j in places():
                if max(abs(i - r), abs(j - c)) <= method.radius:
                    around += sum(m[i, j, o] for o in range(D) if o != k and m[i, j, o] > mean)
            f[k] += m[r, c, k] * around
    return f


def bilinear(method: Any, m: Map) -> Map:
    total = np.zeros((method.reduced, method.reduced))
    for p in places():
        y = m[p] @ method.stream_axes_
        for i in range(method.reduced):
            for j in range(method.reduced):
                total[i, j] += y[i] * y[j] / (H * W)
    return signed_root(total.ravel())


def bags(method: Any, m: Map) -> Map:
    counts = np.zeros(len(method.words_))
    for z in reduced(method, m):
        counts[by_distance(method, z)[0]] += 1
    return counts


def vlad(method: Any, m: Map) -> Map:
    sums = np.zeros(method.words_.shape)
    for z in reduced(method, m):
        k = by_distance(method, z)[0]
        sums[k] += z - method.words_[k]
    return np.concatenate([unit(signed_root(v)) for v in sums])


def robust(method: Any, m: Map) -> Map:
    sums = np.zeros(method.words_.shape)
    for z in reduced(method, m):
        for k, weight in zip(by_distance(method, z)[:3], (4, 2, 1), strict=True):
            sums[k] += weight * unit((z - method.words_[k]) @ method.rotations_[k])
    return signed_root(sums.ravel())


def contributions(method: Any, m: Map) -> Map:
    sums = [sum(m[p][k] for p in places()) for k in range(D)]
    fires = [sum(m[p][k] > 0 for p in places()) / (H * W) for k in range(D)]
    strong = sorted(range(D), key=lambda k: -sums[k])[: round(method.share * D)]
    stack = {p: sum(m[p][k] for k in strong) for p in places()}
    f = np.zeros(D)
    for k in range(D):
        telling = math.log(sum(fires) / fires[k]) + math.log(sum(sums) / sums[k])
        f[k] = telling * sum(stack[p] / max(stack.values()) * m[p][k] for p in places())
    return f


def masked(method: Any, m: Map) -> Map:
    total = {p: sum(m[p]) for p in places()}
    if method.mask == "sum":
        middle = np.median(list(total.values()))
        kept = [p for p in places() if total[p] >= middle]
    else:
        peaks = {max(places(), key=lambda p: m[p][k]) for k in range(D)}
        kept = [p for p in places() if p in peaks]
    vectors = []
    for p, z in zip(places(), reduced(method, m), strict=True):
        if p in kept:
            directions = np.concatenate([unit(z - word) for word in method.words_])
            vectors.append(unit((directions - method.embedding_mean_) @ method.embedding_axes_))
    n = len(vectors)
    weight = np.ones(n)
    for _ in range(10):
        rows = [
            sum(weight[i] * weight[j] * max(vectors[i] @ vectors[j], 0) for j in range(n))
            for i in range(n)
        ]
        weight = weight / np.sqrt(rows)
    return signed_root(sum(w * v for w, v in zip(weight, vectors, strict=True)))


def competed(method: Any, m: Map) -> Map:
    """The weights themselves are compared with loops in ``test_replicator``."""
    weights = method.weights(torch.from_numpy(m[None]).float())[0].numpy()
    return sum(w * m[p] for w, p in zip(weights, places(), strict=True))


def co_weighted(method: Any, m: Map) -> Map:
    total = {p: sum(m[p]) for p in places()}
    middle = np.median(list(total.values()))
    front = [p for p in places() if total[p] >= middle]
    mass = sum(total[p] for p in front)
    top, left = (sum(p[axis] * total[p] for p in front) / mass for axis in (0, 1))
    f = np.zeros(D)
    for r, c in front:
        far = ((r - top) / (H / 3)) ** 2 + ((c - left) / (W / 3)) ** 2
        f += math.exp(-far / 2) * m[r, c]
    sums = [sum(m[p][k] for p in places()) for k in range(D)]
    return f * [math.log(sum(sums) / s) for s in sums]


def nested(method: Any, m: Map) -> Map:
    best = np.zeros(D)
    for r, c in places():
        squares = np.zeros(D)
        for s in range(1, method.scales + 1):
            reach = math.ceil((max(H, W) - 1) * s / method.scales)
            near = [m[p] for p in places() if max(abs(p[0] - r), abs(p[1] - c)) <= reach]
            squares += (sum(near) / len(near)) ** 2 / method.scales
        best = np.maximum(best, np.sqrt(squares))
    return best


def patches(method: Any, image: Map) -> Map:
    """The vectors of patches are compared with loops in ``test_patch_ckn``."""
    return vlad(method, method.described(image[None].astype(np.float32)).numpy()[0].astype(float))


LOCAL = {"words": 4, "local": 5}
NAIVE: dict[str, tuple[Callable[[Any, Map], Map], dict[str, Any]]] = {
    "scda": (scda, {}),
    # Unequal powers, so that exchanging them is seen.
    "pwa_xu": (pwa, {"parts": 3, "a": 3.0, "b": 2.0}),
    "bow_local_conv": (bags, LOCAL),
    "vlad_cnn_ng": (vlad, LOCAL),
    "cooccurrence_forcen": (cooccurrence, {}),
    "bilinear_cnn_retrieval": (bilinear, {"reduced": 4}),
    "selective_masks_hoang": (masked, LOCAL),
    "selective_masks_hoang/sum": (masked, LOCAL),
    "selective_binary_hoang": (masked, LOCAL),
    "rvd_aggregation": (robust, LOCAL),
    "spatial_channel_contrib": (contributions, {}),
    "replicator": (competed, {}),
    "co_weighting": (co_weighted, {}),
    "group_invariant": (nested, {}),
    "patch_ckn": (patches, {**LOCAL, "patches": 6, "filters": 8, "steps": 3}),
}


def fitted(name: str) -> Method:
    method = create(name, bits=4, **NAIVE[name][1])
    x = some_images(N, 0) if method.reads == "images" else some_maps(N, 0)
    return method.fit(Split(x, supervision="unsupervised"))


@pytest.mark.parametrize("name", NAIVE)
def test_aggregate_is_what_the_objective_says(name: str) -> None:
    method: Any = fitted(name)
    x = (some_images if method.reads == "images" else some_maps)(7, 1).astype(np.float32)
    found = method.aggregate(torch.from_numpy(x)).numpy()
    expected = np.array([NAIVE[name][0](method, m) for m in x.astype(float)])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["vlad_cnn_ng", "bow_local_conv"])
def test_local_axes_are_principal_components_of_unit_vectors(name: str) -> None:
    method: Any = fitted(name)
    rows = np.array([unit(m[p]) for m in some_maps(N, 0).astype(float) for p in places()])
    np.testing.assert_allclose(method.local_mean_, rows.mean(0), atol=1e-5)
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1][:5]
    left = method.local_axes_.T @ np.cov(rows.T) @ method.local_axes_
    np.testing.assert_allclose(left, np.diag(values ** (1 - method.local_whiten)), atol=1e-4)


def test_every_aggregation_system_has_a_loop() -> None:
    systems = {id_ for id_, cls in classes().items() if issubclass(cls, Aggregation)}
    assert systems == {name.split("/")[0] for name in NAIVE}
