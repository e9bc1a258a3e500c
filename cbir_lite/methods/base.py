"""What every system of the survey has in common: fit, then encode or embed.

One protocol carries every kind. Binary systems give ``encode`` and are ranked by Hamming distance;
real-valued ones give ``embed`` and are ranked by the distance they name; quantization and
asymmetric systems hold different things on the two sides, so they override
:meth:`Method.encode_query`, :meth:`Method.encode_database` and :meth:`Method.distance`.
"""

from __future__ import annotations

import dataclasses
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cbir_lite._cache import atomic_write
from cbir_lite.datasets import Split

Codes = NDArray[np.int8]
Descriptors = NDArray[np.float32]


class NotFitted(RuntimeError):
    """``encode``, ``embed`` or ``save`` was called before ``fit``."""


def sign(z: NDArray[Any] | torch.Tensor) -> Any:
    """Sign with sign(0) = +1, as int8: the one rule of this package.

    >>> sign(np.array([-0.5, 0.0, 2.0]))
    array([-1,  1,  1], dtype=int8)
    """
    if isinstance(z, torch.Tensor):
        return torch.where(z >= 0, 1, -1).to(torch.int8)
    return np.where(z >= 0, np.int8(1), np.int8(-1))


def is_whole(value: object) -> bool:
    """Whether a hyper-parameter is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """A copy in float32. PyTorch converts half precision several times faster than NumPy."""
    own = np.require(x, requirements=["C", "W"])
    copy: NDArray[np.float32] = torch.from_numpy(own).to(torch.float32, copy=True).numpy()
    return copy


def require_finite(x: NDArray[Any], system: str, start: int = 0) -> None:
    """Raise ``ValueError`` naming the first row of inputs (n, ...) that holds NaN or infinity.

    ``start`` is the number of row 0 when ``x`` is a block of more rows.
    """
    if x.dtype == np.float16:
        # By the exponent, in a fifth of the time of isfinite; maps are large.
        exponent = np.uint16(0x7C00)
        finite = bool((x.view(np.uint16) & exponent != exponent).all())
    else:
        finite = not np.issubdtype(x.dtype, np.floating) or bool(np.isfinite(x).all())
    if not finite:
        wrong = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
        row = start + int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{system}: the input holds NaN or infinity, first in row {row}")


@dataclass(kw_only=True, eq=False)
class Method(ABC):
    """A system: hyper-parameters are the dataclass fields, what ``fit`` learns ends in ``_``.

    ``bits`` is the code length; for real-valued systems it is the number of dimensions.
    """

    supervision: ClassVar[str] = "supervised"
    """What the split shows: supervised, semi-supervised or unsupervised."""
    reads: ClassVar[str] = "pooled"
    """What ``x`` must be: ``pooled`` features (n, d), spatial ``maps`` (n, h, w, d), the ``stages``
    of a network side by side (n, sum d), or the ``images`` themselves; behind ``pooled`` or
    ``stages`` stand hand-crafted descriptors to be put beside them, as in ``pooled+hog``. The
    widths of what stands side by side are ``split.parts``.
    """
    descriptor: ClassVar[str] = "binary"
    """``binary`` (Hamming), ``quantization`` or ``real``."""
    learns_database: ClassVar[bool] = False
    """Whether ``fit`` needs ``split.database`` and learns its codes (its records are marked)."""
    views: ClassVar[tuple[str, ...]] = ()
    """Augmentations of the training images in ``split.views`` (see ``features.augment``)."""
    modality: ClassVar[str | None] = None
    """The second modality of a cross-modal system, ``text`` or ``sketch``: ``split.other``."""
    other_reads: ClassVar[str] = "pooled"
    """What ``split.other`` must be if it is sketches: ``pooled`` features (n, d) or ``maps``
    (n, h, w, d). Texts are words as they are.
    """
    labelled_fraction: ClassVar[float] = 0.1
    """Share of the training labels that the bench shows to a semi-supervised system."""
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    """Named settings of one system that the bench runs as ``id/variant``."""

    bits: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.generic):
                # Saved systems and checkpoints are read back only if they hold plain values.
                setattr(self, f.name, value.item())
        if not is_whole(self.bits) or not 1 <= self.bits <= 4096:
            raise ValueError(f"bits={self.bits!r}: the code length must be an integer in 1..4096")

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """Hyper-parameters and their defaults."""
        return {f.name: f.default for f in dataclasses.fields(cls)}

    @property
    def params(self) -> dict[str, Any]:
        """Hyper-parameters of this instance."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def sees(self) -> str:
        """The supervision of this instance (a variant may differ from the class)."""
        return self.supervision

    @abstractmethod
    def fit(self, split: Split, **loop: Any) -> Self:
        """Learn from a split; ``loop`` (progress, checkpoint) concerns iterative systems."""

    def encode(self, x: NDArray[Any]) -> Codes:
        """Binary codes int8 (n, bits) in {-1, +1} of inputs (n, ...)."""
        raise TypeError(f"{type(self).__name__} has no binary codes; use embed()")

    def embed(self, x: NDArray[Any]) -> Descriptors:
        """Real-valued descriptors float32 (n, d): the relaxed codes of a binary system."""
        raise TypeError(f"{type(self).__name__} has no real-valued descriptor; use encode()")

    def encode_other(self, other: NDArray[Any]) -> NDArray[Any]:
        """What a cross-modal system holds of its second modality (n, ...): codes or descriptors."""
        raise TypeError(f"{type(self).__name__} is not cross-modal")

    def encode_query(self, x: NDArray[Any]) -> NDArray[Any]:
        """What the query side holds: codes, or descriptors of a real-valued system."""
        return self.embed(x) if self.descriptor == "real" else self.encode(x)

    def encode_database(self, x: NDArray[Any]) -> NDArray[Any]:
        """What the database side holds; systems that learn database codes return those."""
        return self.encode_query(x)

    def distance(self, queries: NDArray[Any], database: NDArray[Any]) -> NDArray[np.float32]:
        """Distances float32 (n_queries, n_database) between the two sides' representations.

        Never called for binary systems, which are ranked by Hamming distance on packed codes.
        """
        raise TypeError(f"{type(self).__name__} is ranked by Hamming distance")

    # -- persistence ---------------------------------------------------------------------------

    def _require_fit(self) -> None:
        if not self._state():
            raise NotFitted(f"{type(self).__name__}: call fit(split) first")

    def _state(self) -> dict[str, Any]:
        """Learned attributes (their names end in ``_``), arrays as tensors."""
        return {
            k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v
            for k, v in vars(self).items()
            if k.endswith("_") and not k.startswith("_")
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for k, v in state.items():
            setattr(self, k, v.numpy() if isinstance(v, torch.Tensor) else v)

    def save(self, path: str | Path, backbone: str | None = None) -> None:
        """Write hyper-parameters and what was learned, atomically; see :func:`load`.

        ``backbone`` names the features of ``fit``, for :func:`backbone_of`.
        """
        content = self.to_bytes(backbone)
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(content)

    def to_bytes(self, backbone: str | None = None) -> bytes:
        """What :meth:`save` writes."""
        self._require_fit()
        id_ = type(self).__module__.rsplit(".", 1)[-1]
        stream = io.BytesIO()
        saved = {"id": id_, "params": self.params, "state": self._state(), "backbone": backbone}
        torch.save(saved, stream)
        return stream.getvalue()


def backbone_of(path: str | Path) -> str | None:
    """The features a saved system was fitted on; None where the file does not tell."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True).get("backbone")
    except FileNotFoundError:
        raise
    except Exception:
        return None
    return found if isinstance(found, str) else None


def load(path: str | Path | io.BytesIO) -> Method:
    """A fitted system from :meth:`Method.save`; reads tensors and plain values only.

    Raises ``ValueError`` naming the file when it is not such a file.
    """
    from cbir_lite.methods.registry import get

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        method = get(saved["id"])(**saved["params"])
        method._restore(saved["state"])
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is not a system saved by this package: train it again with `cbir train --save`"
        ) from error
    return method
