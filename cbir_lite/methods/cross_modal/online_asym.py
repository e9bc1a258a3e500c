"""Online asymmetric similarity learning [202] (survey Sections VII-A, VII-H)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Descriptors, Method, require_finite
from cbir_lite.methods.shallow._linear import pooled, principal_components

Float64 = NDArray[np.float64]


def unit(x: NDArray[Any]) -> NDArray[Any]:
    """Rows (n, d) scaled to unit length; zero rows stay."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    out: NDArray[Any] = x / np.where(norms > 0, norms, 1)
    return out


def passive_aggressive(W: Float64, a: Float64, good: Float64, bad: Float64, C: float) -> float:
    """One update in place of W (d, e) so that a W good exceeds a W bad by one; returns the hinge.

    Passive if it does already; else the smallest change of W that would make it so, cut at C.
    """
    difference = good - bad
    hinge = max(0.0, 1 - float(a @ W @ difference))
    size = float((a @ a) * (difference @ difference))
    if hinge > 0 and size > 0:
        W += np.outer(min(C, hinge / size) * a, difference)
    return hinge


@dataclass(kw_only=True, eq=False)
class OnlineAsymmetric(Method):
    r"""A similarity between pictures and texts is learned from one triplet after the other.

    The similarity of a picture x and a text t is bilinear, so the two need not have the same
    dimensions nor be put into a common space. Each arriving pair brings two hinge constraints: the
    picture must be nearer to its text than to an irrelevant one, and the text nearer to its
    picture than to an irrelevant one. The passive-aggressive rule changes the matrix just as much
    as a violated constraint asks for, and not at all otherwise.

    :survey: Sections VII-A, VII-H
    :cite: wu2017oasl
    :source: the paper's abstract (bi-directional hinge constraints on triplets, margin-based
        passive-aggressive optimisation) and the survey's objective; the update is that of the
        passive-aggressive literature with a cut
    :objective: W\leftarrow W+\tau\,x(t^+-t^-)^\top,\ W\leftarrow W+\tau\,(x^+-x^-)t^\top,\quad
        \tau=\min\Big(C,\frac{\ell}{\|x\|^2\|t^+-t^-\|^2}\Big),\
        \ell=\max\big(0,1-S(x,t^+)+S(x,t^-)\big),\ S(x,t)=x^\top Wt
    :shapes: x (n, d) reduced to (n, components), other (n, e), labels (n, C); W (components, e);
        descriptors float32 (n, bits) of both modalities, compared by inner product
    :defaults: C = 0.1, ten pairs an item, 256 components, unit length of both sides; chosen here
    :departures: only the linear similarity: the kernel extension and the hedging over layers of a
        CNN are left out, features come from the one layer of a frozen backbone, as principal
        components; positive and negative partners are drawn at random among those that share a
        label or do not; W is cut to its ``bits`` largest singular values at the end, so that both
        sides keep ``bits`` numbers, where the paper keeps W whole; the survey files the system
        under asymmetric hashing, but it has no codes
    :fidelity: simplified
    """

    descriptor: ClassVar[str] = "real"
    modality: ClassVar[str | None] = "text"

    C: float = 0.1
    epochs: int = 10
    components: int = 256

    def fit(self, split: Split, **loop: Any) -> Self:
        """Stream pairs in random order; raises ``ValueError`` without a second modality."""
        if split.other is None:
            raise ValueError(
                "OnlineAsymmetric learns from pairs of image and text: give Split(other=...)"
            )
        require_finite(split.other, "OnlineAsymmetric")
        features = pooled(split.x, system="OnlineAsymmetric")
        self.dimensions_ = int(features.shape[1])
        self.other_dimensions_ = int(split.other.shape[1])
        k = min(self.components, self.dimensions_)
        mean, V, _ = principal_components(features, k)
        self.mean_, self.V_ = mean.astype(np.float32), V.astype(np.float32)
        x = self._components(features).astype(np.float64)
        t = unit(np.asarray(split.other, np.float64))
        W, self.hinges_ = self._stream(x, t, split.labels)
        left, s, right = np.linalg.svd(W, full_matrices=False)
        half = np.sqrt(s[: self.bits])
        self.P_ = (left[:, : self.bits] * half).astype(np.float32)
        self.Q_ = (right[: self.bits].T * half).astype(np.float32)
        return self

    def _stream(
        self, x: Float64, t: Float64, labels: NDArray[np.uint8]
    ) -> tuple[Float64, list[float]]:
        """W after all pairs, and the mean hinge of each tenth of the stream."""
        random = np.random.default_rng(self.seed)
        W = np.zeros((x.shape[1], t.shape[1]))
        relevant = labels.astype(np.float32) @ labels.T.astype(np.float32) > 0
        anchors = random.integers(0, len(x), self.epochs * len(x))
        hinges = np.zeros(len(anchors))
        for step, i in enumerate(anchors):
            near, far = np.flatnonzero(relevant[i]), np.flatnonzero(~relevant[i])
            if not len(near) or not len(far):
                continue
            good, bad = random.choice(near, 2), random.choice(far, 2)
            hinges[step] = passive_aggressive(W, x[i], t[good[0]], t[bad[0]], self.C)
            # The same rule with the roles turned round works on the transposed view of W.
            hinges[step] += passive_aggressive(W.T, t[i], x[good[1]], x[bad[1]], self.C)
        return W, [float(part.mean()) for part in np.array_split(hinges, 10)]

    def _components(self, features: NDArray[Any]) -> NDArray[Any]:
        return unit((features - self.mean_) @ self.V_)

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Descriptors float32 (n, bits) of pictures."""
        self._require_fit()
        features = pooled(x, self.dimensions_, "OnlineAsymmetric")
        return np.asarray(self._components(features) @ self.P_, np.float32)

    def encode_other(self, other: NDArray[Any]) -> NDArray[Any]:
        """Descriptors float32 (n, bits) of texts (n, e); ``ValueError`` for others."""
        self._require_fit()
        if other.ndim != 2 or other.shape[1] != self.other_dimensions_:
            raise ValueError(
                f"OnlineAsymmetric was fitted on text (n, {self.other_dimensions_}) and got "
                f"{other.shape}"
            )
        require_finite(other, "text")
        return np.asarray(unit(np.asarray(other, np.float32)) @ self.Q_, np.float32)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Minus the similarity x W t."""
        return np.asarray(-(queries @ database.T), np.float32)
