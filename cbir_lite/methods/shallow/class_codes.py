"""Class codes: a classifier's answer as a code, the reference that supervised hashing must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from cbir_lite.datasets import Split
from cbir_lite.methods.base import Codes, Method, require_finite, sign
from cbir_lite.methods.shallow._linear import pooled

_DRAWS = 200
_BLOCK = 8192


def codewords(n: int, bits: int, seed: int) -> NDArray[np.int8]:
    """int8 (n, bits): of 200 random sets of n codewords, the one whose nearest two are farthest."""
    rng = np.random.default_rng(seed)
    best, found = -1, np.zeros((n, bits), np.int8)
    for _ in range(_DRAWS):
        words = sign(rng.standard_normal((n, bits)))
        product = words.astype(np.int32) @ words.T
        np.fill_diagonal(product, -bits)
        nearest = int(bits - product.max()) // 2
        if nearest > best:
            best, found = nearest, words
    return found


@dataclass(kw_only=True, eq=False)
class ClassCodes(Method):
    r"""Train a classifier, give every class a codeword, and hash an image to its class.

    Where relevance means "the same class", a code needs to say nothing but the class, and log2 C
    bits say it. The codeword of an image is the sign of the codewords' mean, weighted by the
    classifier's probabilities: that of one class where it is sure, something between where it
    doubts. No pair and no triplet is looked at; what a hashing system learns beyond the classes
    shows as the difference to this.

    Variant ``database`` stores for the database the codewords of its true labels, as systems do
    that learn the codes of a labelled database: the classifier then works for queries only.

    A set of labels counts as one class; its codeword is the sign of the sum of its labels'
    codewords, so that sets which share labels are nearer.

    :survey: none
    :name: Class codes
    :year: 2017
    :supervision: supervised
    :network: none
    :descriptor: binary
    :cite: none
    :source: Sablayrolles, Douze, Usunier and Jegou, How should we evaluate supervised hashing?,
        ICASSP 2017 (a classifier's output, stored in few bits, against hashing with class labels)
    :objective: b=\mathrm{sgn}\Big(\sum_c p(c\mid x)\,w_c\Big),\quad
        p=\mathrm{softmax}(Vx+a)\ \text{by logistic regression},\ w_c\in\{\pm1\}^K
    :shapes: x (n, d), labels (n, C); codes int8 (n, bits)
    :defaults: C = 1e-3, the inverse weight of the penalty on standardised features, of 1e-4 to 1e-1
        on the validation split of CIFAR-10
    :departures: codewords are the best of 200 random sets instead of an enumeration of classes, so
        that every code length can be asked for
    :fidelity: simplified
    """

    supervision = "supervised"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"database": {"database": True}}

    C: float = 1e-3
    database: bool = False

    @property
    def learns_database(self) -> bool:  # type: ignore[override]
        """Whether the codes of the database come from its labels."""
        return self.database

    def fit(self, split: Split, **loop: Any) -> Self:
        """Fit the classifier; raises ``ValueError`` if one class is all there is.

        With ``database`` the classifier learns from all of ``split.database``.
        """
        from sklearn.linear_model import LogisticRegression

        if self.database:
            if split.database is None:
                raise ValueError(
                    "class codes of a database need its labels: pass a split with database= "
                    "(Split.from_protocol(..., with_database=True))"
                )
            split = split.database
        x = pooled(split.x, system="class codes")
        sets, kind = np.unique(split.labels, axis=0, return_inverse=True)
        if len(sets) < 2:
            raise ValueError("class codes need two classes or more among the training labels")
        words = codewords(sets.shape[1], self.bits, self.seed)
        self.words_ = sign(sets.astype(np.int32) @ words)
        self.mean_ = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = x.std(axis=0, dtype=np.float64).astype(np.float32)
        self.scale_ = np.where(spread > 1e-6 * spread.max(), spread, np.float32(1))
        model = LogisticRegression(C=self.C, max_iter=300, tol=1e-3)
        model.fit((x - self.mean_) / self.scale_, kind.ravel())
        weights, intercept = model.coef_, model.intercept_
        if len(sets) == 2:  # one row decides between two classes
            weights, intercept = np.stack([0 * weights[0], weights[0]]), np.array([0, intercept[0]])
        self.V_, self.a_ = weights.astype(np.float32), intercept.astype(np.float32)
        if self.database:
            self.codes_: Codes = self.words_[kind.ravel()]
        return self

    def probabilities(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """p(c | x) float32 (n, number of label sets) of features (n, d)."""
        z = (pooled(x, len(self.mean_), "class codes") - self.mean_) / self.scale_ @ self.V_.T
        z += self.a_
        p = np.exp(z - z.max(axis=1, keepdims=True))
        answer: NDArray[np.float32] = p / p.sum(axis=1, keepdims=True)
        return answer

    def encode(self, x: NDArray[Any]) -> Codes:
        """Codes int8 (n, bits) of features (n, d), in blocks."""
        self._require_fit()
        words = self.words_.astype(np.float32)
        blocks = [
            sign(self.probabilities(x[a : a + _BLOCK]) @ words) for a in range(0, len(x), _BLOCK)
        ]
        return np.concatenate(blocks)

    def encode_database(self, x: NDArray[Any]) -> Codes:
        """The codewords of the database's labels with ``database``, else those of the classifier.

        Raises ``ValueError`` where ``x`` has not as many rows as the database of ``fit``.
        """
        if not self.database:
            return self.encode(x)
        self._require_fit()
        require_finite(x, "class codes")
        if len(x) != len(self.codes_):
            raise ValueError(
                f"class codes hold the labels of a database of {len(self.codes_)} rows and got "
                f"{len(x)}: encode() hashes new images"
            )
        return self.codes_
