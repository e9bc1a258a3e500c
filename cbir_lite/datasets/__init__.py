"""Real image sets and frozen evaluation protocols. Nothing downloads at import."""

from cbir_lite.datasets.emoji import Emoji, load_emoji
from cbir_lite.datasets.emoji_tasks import emoji_protocol
from cbir_lite.datasets.folder import list_images, load_folder
from cbir_lite.datasets.imageset import (
    DataCorrupt,
    DataUnavailable,
    ImageSet,
    files_hash,
    read_image,
    unlabelled,
)
from cbir_lite.datasets.labels import as_multi_hot
from cbir_lite.datasets.landmarks import Landmarks, load_landmarks
from cbir_lite.datasets.loaders import load
from cbir_lite.datasets.multilabel_tasks import drawn_protocol
from cbir_lite.datasets.protocol_files import (
    Protocol,
    protocol,
    protocol_names,
    save_protocol,
    subsample,
)
from cbir_lite.datasets.scenes import Scenes, compose_scenes
from cbir_lite.datasets.split import LabelsHidden, Split, labelled_mask
from cbir_lite.datasets.tagged_sets import Tagged, load_tagged

__all__ = [
    "DataCorrupt",
    "DataUnavailable",
    "Emoji",
    "ImageSet",
    "LabelsHidden",
    "Landmarks",
    "Protocol",
    "Scenes",
    "Split",
    "Tagged",
    "as_multi_hot",
    "compose_scenes",
    "drawn_protocol",
    "emoji_protocol",
    "files_hash",
    "labelled_mask",
    "list_images",
    "load",
    "load_emoji",
    "load_folder",
    "load_landmarks",
    "load_tagged",
    "protocol",
    "protocol_names",
    "read_image",
    "save_protocol",
    "subsample",
    "unlabelled",
]
