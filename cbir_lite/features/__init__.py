"""Images to features: pretrained backbones with cached extraction, hand-crafted descriptors.

:func:`load` gives the features of a whole image set by the name of a descriptor
(``colour_histogram``, ``hog``, ...) or of a backbone (``efficientnet_lite0-224``).
"""

from cbir_lite.features.augment import augment
from cbir_lite.features.store import (
    describe_name,
    is_cached,
    is_handcrafted,
    learns_words,
    load,
    provenance_hash,
    version_of,
    widths,
)

__all__ = [
    "augment",
    "describe_name",
    "is_cached",
    "is_handcrafted",
    "learns_words",
    "load",
    "provenance_hash",
    "version_of",
    "widths",
]
